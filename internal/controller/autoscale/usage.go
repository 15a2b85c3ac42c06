package autoscale

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	podresources "k8s.io/component-helpers/resource"

	"sampan.dev/internal/workload"
)

// How long a new pod's use of CPU is not believed, and how long after its start it may first report that it is not ready.
const (
	cpuInitialization = 5 * time.Minute
	readinessDelay    = 30 * time.Second
)

// PodMetric is what one pod uses, in thousandths, measured over the window that ended at At.
type PodMetric struct {
	At     time.Time
	Window time.Duration
	Value  int64
}

// tolerance is by how much a ratio may be off before anything is done.
type tolerance struct{ down, up float64 }

func (t tolerance) within(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// groups is what the pods say: those that count, and the names of the others.
type groups struct {
	ready                     int
	unready, missing, ignored []string
}

// group sorts pods by whether what is measured of them can be believed.
func group(pods []*corev1.Pod, metrics map[string]PodMetric, resource corev1.ResourceName, now time.Time) (g groups) {
	for _, p := range pods {
		m, measured := metrics[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			g.ignored = append(g.ignored, p.Name)
		case p.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, p.Name)
		case !measured:
			g.missing = append(g.missing, p.Name)
		case resource == corev1.ResourceCPU && starting(p, m, now):
			g.unready = append(g.unready, p.Name)
		default:
			g.ready++
		}
	}
	return g
}

// starting says that what a pod uses of CPU is the effort of its start.
func starting(p *corev1.Pod, m PodMetric, now time.Time) bool {
	i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	if i < 0 || p.Status.StartTime == nil {
		return true
	}
	c, begun := p.Status.Conditions[i], p.Status.StartTime
	if begun.Add(cpuInitialization).After(now) {
		return c.Status == corev1.ConditionFalse || m.At.Before(c.LastTransitionTime.Add(m.Window))
	}
	return c.Status == corev1.ConditionFalse && begun.Add(readinessDelay).After(c.LastTransitionTime.Time) // it never was ready
}

// measured is what the pods of a target use of something, and how many of them there should be.
type measured struct {
	replicas    int32
	utilization int32 // per cent of what is requested; of resources only
	average     int64 // thousandths, a pod
}

// usage computes replicas from what pods use. Target is per cent of requests if those are given, else thousandths a pod.
type usage struct {
	current   int32
	target    int64
	tolerance tolerance
	requests  map[string]int64 // by pod, in thousandths; nil: the target is an amount
}

func (u usage) ratio(metrics map[string]PodMetric) (ratio float64, m measured, err error) {
	var total, requested, n int64
	for name, metric := range metrics {
		if u.requests != nil {
			request, known := u.requests[name]
			if !known {
				continue
			}
			requested += request
		}
		total += metric.Value
		n++
	}
	if u.requests == nil {
		m.average = total / n
		return float64(m.average) / float64(u.target), m, nil
	}
	if requested == 0 {
		return 0, m, errors.New("no metrics returned matched known pods")
	}
	m.utilization, m.average = clamp(float64(total*100/requested)), total/n
	return float64(m.utilization) / float64(u.target), m, nil
}

// compute says how many replicas there should be. Pods that are missing or not ready are first left out; if the others ask for a change, it is
// computed again with these counted against it.
func (u usage) compute(g groups, metrics map[string]PodMetric) (measured, error) {
	ratio, m, err := u.ratio(metrics)
	if err != nil {
		return measured{}, err
	}
	m.replicas = u.current
	withUnready := len(g.unready) > 0 && ratio > 1
	if !withUnready && len(g.missing) == 0 {
		if !u.tolerance.within(ratio) {
			m.replicas = clamp(math.Ceil(ratio * float64(g.ready)))
		}
		return m, nil
	}
	for _, name := range g.missing {
		switch {
		case ratio < 1:
			metrics[name] = PodMetric{Value: u.supposed(name)}
		case ratio > 1:
			metrics[name] = PodMetric{}
		}
	}
	if withUnready {
		for _, name := range g.unready {
			metrics[name] = PodMetric{}
		}
	}
	again, _, err := u.ratio(metrics)
	if err != nil {
		return measured{}, err
	}
	if u.tolerance.within(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return m, nil // too little, or the other way round
	}
	if n := clamp(math.Ceil(again * float64(len(metrics)))); !(again < 1 && n > u.current) && !(again > 1 && n < u.current) {
		m.replicas = n
	}
	return m, nil
}

// supposed is what a pod of which nothing is known is taken to use, where the others use less than they should.
func (u usage) supposed(pod string) int64 {
	if u.requests == nil {
		return u.target
	}
	return u.requests[pod] * max(100, u.target) / 100
}

// pods computes replicas from metrics of single pods: of a resource, of one container if that is named, or of something else.
func (u usage) pods(pods []*corev1.Pod, sample map[string]PodMetric, resource corev1.ResourceName, container string, byRequest bool, now time.Time) (measured, error) {
	if len(pods) == 0 {
		return measured{}, errors.New("no pods returned by selector while calculating replica count")
	}
	metrics := make(map[string]PodMetric, len(sample))
	for name, m := range sample {
		metrics[name] = m
	}
	g := group(pods, metrics, resource, now)
	for _, name := range slices.Concat(g.ignored, g.unready) {
		delete(metrics, name)
	}
	if len(metrics) == 0 {
		return measured{}, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	if byRequest {
		u.requests = make(map[string]int64, len(pods))
		for _, p := range pods {
			request, err := requestOf(p, container, resource)
			if err != nil {
				return measured{}, err
			}
			u.requests[p.Name] = request
		}
	}
	return u.compute(g, metrics)
}

// requestOf is what a pod, or one container of it, requests of a resource, in thousandths.
func requestOf(p *corev1.Pod, container string, resource corev1.ResourceName) (total int64, err error) {
	if container == "" && podresources.IsPodLevelRequestsSet(p) {
		q, ok := podresources.PodRequests(p, podresources.PodResourcesOptions{})[resource]
		if !ok {
			return 0, fmt.Errorf("missing pod-level request for %s in Pod %s", resource, p.Name)
		}
		return q.MilliValue(), nil
	}
	found := container == ""
	one := func(c *corev1.Container) error {
		if container != "" && container != c.Name {
			return nil
		}
		found = true
		q, ok := c.Resources.Requests[resource]
		if !ok {
			return fmt.Errorf("missing request for %s in container %s of Pod %s", resource, c.Name, p.Name)
		}
		total += q.MilliValue()
		return nil
	}
	for i := range p.Spec.Containers {
		if err := one(&p.Spec.Containers[i]); err != nil {
			return 0, err
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if err := one(c); err != nil {
			return 0, err
		}
	}
	if !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
	}
	return total, nil
}

// value computes replicas from one value that all pods share.
func (u usage) value(pods []*corev1.Pod, value int64) (int32, error) {
	ratio := float64(value) / float64(u.target)
	if u.current == 0 {
		return clamp(math.Ceil(ratio)), nil
	}
	if u.tolerance.within(ratio) {
		return u.current, nil
	}
	if len(pods) == 0 {
		return 0, errors.New("unable to calculate ready pods: no pods returned by selector while calculating replica count")
	}
	ready := 0
	for _, p := range pods {
		if p.Status.Phase == corev1.PodRunning && workload.Ready(p) {
			ready++
		}
	}
	return clamp(math.Ceil(ratio * float64(ready))), nil
}

// share computes replicas from a value of which each pod is to have the target's share. Have is how many there are.
func (u usage) share(have int32, value int64) measured {
	m := measured{replicas: have}
	if !u.tolerance.within(float64(value) / (float64(u.target) * float64(have))) {
		m.replicas = clamp(math.Ceil(float64(value) / float64(u.target)))
	}
	m.average = math.MaxInt64
	if each := math.Ceil(float64(value) / float64(max(have, 1))); each < math.MaxInt64 {
		m.average = int64(each)
	}
	return m
}

// sum adds up values, and stops at the largest number.
func sum(values []int64) (total int64) {
	for _, v := range values {
		if v > 0 && total > math.MaxInt64-v {
			return math.MaxInt64
		}
		total += v
	}
	return total
}

// clamp keeps a number of replicas in its range.
func clamp(n float64) int32 {
	return int32(max(math.MinInt32, min(math.MaxInt32, n)))
}
