package autoscale

import (
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
)

// Sample is what was measured for one metric: of pods, or values; or why nothing was.
type Sample struct {
	Pods   map[string]PodMetric
	Values []int64 // thousandths
	Err    error
}

// proposal is what one metric asks for.
type proposal struct {
	replicas int32
	from     string // the metric, in words
	status   autoscalingv2.MetricStatus
}

// refusal is why a metric asks for nothing.
type refusal struct {
	reason string // of the event and of the condition
	cause  error  // told by them
	whole  error  // told of all metrics together
}

// question is one metric of an autoscaler, with what there is to answer it.
type question struct {
	spec      *autoscalingv2.MetricSpec
	sample    Sample
	pods      []*corev1.Pod
	target    Target
	namespace string
	tolerance tolerance
	now       time.Time
}

func (q *question) usage(target int64) usage {
	return usage{current: q.target.Wanted, target: target, tolerance: q.tolerance}
}

func amount(milli int64) *apiresource.Quantity {
	return apiresource.NewMilliQuantity(milli, apiresource.DecimalSI)
}

func (q *question) answer() (proposal, *refusal) {
	switch m := q.spec; {
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		return q.object(m.Object)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		return q.perPod(m.Pods)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		name := m.Resource.Name
		is, p, err := q.resource(name, "", &m.Resource.Target)
		if err != nil {
			return proposal{}, &refusal{"FailedGetResourceMetric", err, fmt.Errorf("failed to get %s resource metric value: %v", name, err)}
		}
		p.status = autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: name, Current: is}}
		return p, nil
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		name, container := m.ContainerResource.Name, m.ContainerResource.Container
		is, p, err := q.resource(name, container, &m.ContainerResource.Target)
		if err != nil {
			return proposal{}, &refusal{"FailedGetContainerResourceMetric", err, fmt.Errorf("failed to get %s container metric value: %v", container, err)}
		}
		p.status = autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: name, Container: container, Current: is}}
		return p, nil
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		return q.external(m.External)
	}
	err := fmt.Errorf("unknown metric source type %q", string(q.spec.Type))
	return proposal{}, &refusal{"InvalidMetricSourceType", err, err}
}

// resource answers for a resource of pods, or of one container of them.
func (q *question) resource(name corev1.ResourceName, container string, t *autoscalingv2.MetricTarget) (autoscalingv2.MetricValueStatus, proposal, error) {
	compute := func(target int64, byRequest bool) (measured, error) {
		if q.sample.Err != nil {
			return measured{}, fmt.Errorf("unable to get metrics for resource %s: %v", name, q.sample.Err)
		}
		return q.usage(target).pods(q.pods, q.sample.Pods, name, container, byRequest, q.now)
	}
	none := autoscalingv2.MetricValueStatus{}
	switch {
	case t.AverageValue != nil:
		m, err := compute(t.AverageValue.MilliValue(), false)
		if err != nil {
			return none, proposal{}, fmt.Errorf("failed to get %s usage: %v", name, err)
		}
		return autoscalingv2.MetricValueStatus{AverageValue: amount(m.average)}, proposal{replicas: m.replicas, from: string(name) + " resource"}, nil
	case t.AverageUtilization != nil:
		m, err := compute(int64(*t.AverageUtilization), true)
		if err != nil {
			return none, proposal{}, fmt.Errorf("failed to get %s utilization: %v", name, err)
		}
		from := string(name) + " resource utilization (percentage of request)"
		if container != "" {
			from = string(name) + " container resource utilization (percentage of request)"
		}
		return autoscalingv2.MetricValueStatus{AverageUtilization: &m.utilization, AverageValue: amount(m.average)}, proposal{replicas: m.replicas, from: from}, nil
	}
	return none, proposal{}, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
}

// perPod answers for a metric that each pod has.
func (q *question) perPod(m *autoscalingv2.PodsMetricSource) (proposal, *refusal) {
	refuse := func(err error) (proposal, *refusal) {
		return proposal{}, &refusal{"FailedGetPodsMetric", err, fmt.Errorf("failed to get pods metric value: %v", err)}
	}
	if q.sample.Err != nil {
		return refuse(fmt.Errorf("unable to get metric %s: %v", m.Metric.Name, q.sample.Err))
	}
	if m.Target.AverageValue == nil {
		return refuse(errors.New("invalid pods metric source: no average value target was set"))
	}
	is, err := q.usage(m.Target.AverageValue.MilliValue()).pods(q.pods, q.sample.Pods, "", "", false, q.now)
	if err != nil {
		return refuse(err)
	}
	return proposal{replicas: is.replicas, from: "pods metric " + m.Metric.Name, status: autoscalingv2.MetricStatus{
		Type: q.spec.Type,
		Pods: &autoscalingv2.PodsMetricStatus{Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: amount(is.average)}},
	}}, nil
}

// object answers for a metric of one object.
func (q *question) object(m *autoscalingv2.ObjectMetricSource) (proposal, *refusal) {
	refuse := func(cause, err error) (proposal, *refusal) {
		return proposal{}, &refusal{"FailedGetObjectMetric", cause, fmt.Errorf("failed to get object metric value: %v", err)}
	}
	of := m.DescribedObject
	var failed error
	if q.sample.Err != nil { // the words stand in this order upstream
		failed = fmt.Errorf("unable to get metric %s: %v on %s %s/%s", m.Metric.Name, of.Kind, q.namespace, of.Name, q.sample.Err)
	}
	total := sum(q.sample.Values)
	switch t := m.Target; {
	case t.Type == autoscalingv2.ValueMetricType && t.Value != nil:
		if failed != nil {
			return refuse(failed, failed)
		}
		n, err := q.usage(t.Value.MilliValue()).value(q.pods, total)
		if err != nil {
			return refuse(err, err)
		}
		return proposal{replicas: n, from: of.Kind + " metric " + m.Metric.Name, status: autoscalingv2.MetricStatus{
			Type:   q.spec.Type,
			Object: &autoscalingv2.ObjectMetricStatus{DescribedObject: of, Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{Value: amount(total)}},
		}}, nil
	case t.Type == autoscalingv2.AverageValueMetricType && t.AverageValue != nil:
		if failed != nil {
			return refuse(failed, fmt.Errorf("failed to get %s object metric: %v", m.Metric.Name, failed))
		}
		is := q.usage(t.AverageValue.MilliValue()).share(q.target.Have, total)
		return proposal{replicas: is.replicas, from: outside(m.Metric), status: autoscalingv2.MetricStatus{
			Type:   q.spec.Type,
			Object: &autoscalingv2.ObjectMetricStatus{Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: amount(is.average)}},
		}}, nil
	}
	err := errors.New("invalid object metric source: neither a value target nor an average value target was set")
	return refuse(err, err)
}

// external answers for a metric from outside the cluster.
func (q *question) external(m *autoscalingv2.ExternalMetricSource) (proposal, *refusal) {
	name := m.Metric.Name
	refuse := func(cause, err error) (proposal, *refusal) {
		return proposal{}, &refusal{"FailedGetExternalMetric", cause, fmt.Errorf("failed to get %s external metric value: %v", name, err)}
	}
	var failed error
	if q.sample.Err != nil {
		failed = fmt.Errorf("unable to get external metric %s/%s/%+v: %s", q.namespace, name, m.Metric.Selector, q.sample.Err)
	}
	total := sum(q.sample.Values)
	status := func(is autoscalingv2.MetricValueStatus) autoscalingv2.MetricStatus {
		return autoscalingv2.MetricStatus{Type: q.spec.Type, External: &autoscalingv2.ExternalMetricStatus{Metric: m.Metric, Current: is}}
	}
	switch t := m.Target; {
	case t.AverageValue != nil:
		if failed != nil {
			return refuse(failed, fmt.Errorf("failed to get %s external metric: %v", name, failed))
		}
		is := q.usage(t.AverageValue.MilliValue()).share(q.target.Have, total)
		return proposal{replicas: is.replicas, from: outside(m.Metric), status: status(autoscalingv2.MetricValueStatus{AverageValue: amount(is.average)})}, nil
	case t.Value != nil:
		if failed != nil {
			return refuse(failed, fmt.Errorf("failed to get external metric %s: %v", name, failed))
		}
		n, err := q.usage(t.Value.MilliValue()).value(q.pods, total)
		if err != nil {
			return refuse(err, fmt.Errorf("failed to get external metric %s: %v", name, err))
		}
		return proposal{replicas: n, from: outside(m.Metric), status: status(autoscalingv2.MetricValueStatus{Value: amount(total)})}, nil
	}
	err := errors.New("invalid external metric source: neither a value target nor an average value target was set")
	return refuse(err, err)
}

func outside(m autoscalingv2.MetricIdentifier) string {
	return fmt.Sprintf("external metric %s(%+v)", m.Name, m.Selector)
}
