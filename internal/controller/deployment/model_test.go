package deployment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var start = time.Unix(1_000_000, 0)

func newDeployment(n int32, surge, unavailable string) *appsv1.Deployment {
	parse := func(s string) *intstr.IntOrString { return new(intstr.Parse(s)) }
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			RevisionHistoryLimit: new(int32(10)), ProgressDeadlineSeconds: new(int32(600)),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: parse(surge), MaxUnavailable: parse(unavailable)}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "v0"}}},
			},
		},
	}
}

// model is a Deployment, its ReplicaSets with their pods, and their controllers, which take their steps in any order.
type model struct {
	d    *appsv1.Deployment
	sets []*modelSet
	now  time.Time
	made int
}

// modelSet is a ReplicaSet with its pods, as a controller sees to them that may be in the middle of its pass.
type modelSet struct {
	*appsv1.ReplicaSet
	ready, unready int32 // active pods
	ending         int32
	acting         *appsv1.ReplicaSet // what the pass under way has read
	create, delete int32              // what it has still to do
}

func (m *model) replicaSets() []*appsv1.ReplicaSet {
	var all []*appsv1.ReplicaSet
	for _, s := range m.sets {
		all = append(all, s.ReplicaSet.DeepCopy())
	}
	return all
}

func (m *model) find(rs *appsv1.ReplicaSet) *modelSet {
	for _, s := range m.sets {
		if s.UID == rs.UID {
			return s
		}
	}
	return nil
}

// decide takes the Deployment's step, write by write; between tells others to take theirs. It says whether anything was written.
func (m *model) decide(between func()) bool {
	p := Decide(m.d.DeepCopy(), m.replicaSets(), m.now)
	wrote := false
	if rs := p.Create; rs != nil {
		m.made++
		rs = rs.DeepCopy()
		rs.UID, rs.Generation, rs.CreationTimestamp = types.UID(fmt.Sprint(m.made)), 1, metav1.NewTime(m.now)
		m.sets = append(m.sets, &modelSet{ReplicaSet: rs})
		wrote = true
		between()
	}
	for _, c := range p.Change {
		s := m.find(c.Set)
		if valueOf(s.Spec.Replicas) != c.Replicas || s.Spec.MinReadySeconds != c.MinReadySeconds {
			s.Generation++
		}
		s.Spec.Replicas, s.Spec.MinReadySeconds, s.Annotations = new(c.Replicas), c.MinReadySeconds, c.Annotations
		wrote = true
		between()
	}
	for _, rs := range p.Delete {
		m.sets = slices.DeleteFunc(m.sets, func(s *modelSet) bool { return s.UID == rs.UID })
		wrote = true
	}
	if !equality.Semantic.DeepEqual(p.Status, m.d.Status) || p.Revision != m.d.Annotations[annotationRevision] {
		m.d.Status = p.Status
		metav1.SetMetaDataAnnotation(&m.d.ObjectMeta, annotationRevision, p.Revision)
		wrote = true
	}
	return wrote
}

// step takes one step of a ReplicaSet's controller: it reads, creates or deletes one pod, or writes the status. It says whether there was any.
func (s *modelSet) step() bool {
	switch {
	case s.acting == nil:
		want, have := valueOf(s.Spec.Replicas), s.ready+s.unready
		status := s.count(s.Generation)
		if want == have && equality.Semantic.DeepEqual(status, s.Status) {
			return false
		}
		const burst = 2 // one pass does not do everything
		s.acting, s.create, s.delete = s.ReplicaSet.DeepCopy(), min(max(want-have, 0), burst), min(max(have-want, 0), burst)
	case s.create > 0:
		s.create--
		s.unready++
	case s.delete > 0:
		s.delete--
		if s.unready > 0 {
			s.unready--
		} else {
			s.ready--
		}
		s.ending++
	default:
		s.Status = s.count(s.acting.Generation)
		s.acting = nil
	}
	return true
}

func (s *modelSet) count(generation int64) appsv1.ReplicaSetStatus {
	return appsv1.ReplicaSetStatus{
		Replicas: s.ready + s.unready, ReadyReplicas: s.ready, AvailableReplicas: s.ready, TerminatingReplicas: &s.ending, ObservedGeneration: generation,
	}
}

// pod has one of a set's pods become ready, or end.
func (s *modelSet) pod() bool {
	switch {
	case s.unready > 0:
		s.unready--
		s.ready++
	case s.ending > 0:
		s.ending = 0
	default:
		return false
	}
	return true
}

func (m *model) count() (active, ready int32) {
	for _, s := range m.sets {
		active += s.ready + s.unready
		ready += s.ready
	}
	return active, ready
}

// settle lets everybody act until nobody has anything to do.
func (m *model) settle(t *testing.T) {
	t.Helper()
	for n := 0; ; n++ {
		busy := m.decide(func() {})
		for _, s := range m.sets {
			for s.step() || s.pod() {
				busy = true
			}
		}
		if !busy {
			return
		}
		if n > 2000 {
			t.Fatalf("no end; %+v", m.d.Status)
		}
		m.now = m.now.Add(time.Second)
	}
}

func (m *model) update(version int) {
	m.d.Spec.Template.Spec.Containers[0].Image = "v" + strconv.Itoa(version)
	m.d.Generation++
}

func (m *model) scale(n int32) {
	m.d.Spec.Replicas = &n
	m.d.Generation++
}

// Whatever the order of steps, a rollout that nothing fails in keeps the bounds, though others overtake it, and it ends.
func TestTheBoundsHoldAtEveryStepOfAnyInterleaving(t *testing.T) {
	amounts := []string{"0", "1", "3", "25%", "50%", "100%"}
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := r.Int32N(12)
		m := &model{d: newDeployment(n, amounts[r.IntN(len(amounts))], amounts[1+r.IntN(len(amounts)-1)]), now: start}
		m.settle(t)
		surge, unavailable := bounds(m.d)
		check := func() {
			active, ready := m.count()
			if active > n+surge || ready < n-unavailable {
				t.Fatalf("seed %d: %d pods, %d of them ready; %d wanted, surge %d, unavailable %d", seed, active, ready, n, surge, unavailable)
			}
		}
		pace := 2 + r.IntN(6)
		others := func() {
			for range r.IntN(pace) {
				s := m.sets[r.IntN(len(m.sets))]
				if r.IntN(3) == 0 {
					s.pod()
				} else {
					s.step()
				}
				check()
			}
		}
		for range 200 {
			m.now = m.now.Add(time.Second)
			if r.IntN(8) == 0 {
				m.update(r.IntN(4))
			}
			m.decide(others)
			check()
			others()
		}
		m.settle(t)
		if active, ready := m.count(); active != n || ready != n || !isComplete(m.d, &m.d.Status) {
			t.Fatalf("seed %d: ended with %d pods, %d ready, status %+v", seed, active, ready, m.d.Status)
		}
		if c := findCondition(&m.d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonAvailable {
			t.Fatalf("seed %d: %+v", seed, m.d.Status.Conditions)
		}
	}
}

// Changes of size, pauses and the other strategy, in the middle of everything, end in what was asked for last.
func TestFromAnyStartTheSpecIsReached(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		m := &model{d: newDeployment(r.Int32N(10), "25%", "25%"), now: start}
		for range 200 {
			m.now = m.now.Add(time.Second)
			switch r.IntN(40) {
			case 0:
				m.update(r.IntN(5))
			case 1:
				m.scale(r.Int32N(20))
			case 2:
				m.d.Spec.Paused = !m.d.Spec.Paused
				m.d.Generation++
			case 3:
				m.d.Spec.Strategy.Type = []appsv1.DeploymentStrategyType{"Recreate", "RollingUpdate"}[r.IntN(2)]
				m.d.Generation++
			case 4:
				m.d.Spec.RevisionHistoryLimit = new(r.Int32N(3))
				m.d.Generation++
			}
			m.decide(func() {
				for _, s := range m.sets {
					s.step()
				}
			})
			for range r.IntN(4) {
				if len(m.sets) > 0 {
					m.sets[r.IntN(len(m.sets))].step()
					m.sets[r.IntN(len(m.sets))].pod()
				}
			}
		}
		m.d.Spec.Paused = false
		m.d.Generation++
		m.settle(t)
		n := replicas(m.d)
		if active, ready := m.count(); active != n || ready != n || !isComplete(m.d, &m.d.Status) {
			t.Fatalf("seed %d: %d wanted, ended with %d pods, %d ready, status %+v", seed, n, active, ready, m.d.Status)
		}
		if len(m.sets) > int(*m.d.Spec.RevisionHistoryLimit)+1 {
			t.Fatalf("seed %d: %d sets, history limit %d", seed, len(m.sets), *m.d.Spec.RevisionHistoryLimit)
		}
	}
}
