package daemonset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/revision"
	"sampan.dev/internal/workload"
)

var key = loop.Key{Namespace: "ns", Name: "agent"}

// cluster is a set with its pods and revisions in memory; as View it shows its own writes. Its pods are ready at once, and gone at once.
type cluster struct {
	mu        sync.Mutex // pods come and go several at once
	set       *appsv1.DaemonSet
	nodes     []*corev1.Node
	pods      map[string]*corev1.Pod
	revisions map[string]*appsv1.ControllerRevision
	events    []string
	made      int
	phase     corev1.PodPhase // of the pods that are made
	refuse    error
	changed   func() // a pod has come or gone
	created   func()
}

func newCluster(set *appsv1.DaemonSet, names ...string) (*cluster, *Controller) {
	c := &cluster{set: set, nodes: nodes(names...), pods: map[string]*corev1.Pod{}, revisions: map[string]*appsv1.ControllerRevision{}, phase: corev1.PodRunning}
	c.changed, c.created = func() {}, func() {}
	return c, New(c, c, c, nil, nil)
}

func (c *cluster) DaemonSet(loop.Key) *appsv1.DaemonSet { return c.set }
func (c *cluster) Nodes() []*corev1.Node                { return c.nodes }
func (c *cluster) Pods(*appsv1.DaemonSet) (all []*corev1.Pod) {
	for _, p := range c.pods {
		all = append(all, p)
	}
	return all
}

func (c *cluster) Revisions(*appsv1.DaemonSet) (all []*appsv1.ControllerRevision) {
	for _, r := range c.revisions {
		all = append(all, r)
	}
	return all
}
func (c *cluster) Revision(_, name string) *appsv1.ControllerRevision { return c.revisions[name] }

func (c *cluster) CreatePod(_ context.Context, p *corev1.Pod) (*corev1.Pod, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.made++
	p.Name = fmt.Sprint("agent-", c.made)
	p.UID, p.CreationTimestamp = types.UID(p.Name), metav1.Now()
	p.Status = pod("x n").Status
	p.Status.Phase = c.phase
	c.pods[p.Name] = p
	c.created()
	c.changed()
	return p, nil
}

func (c *cluster) UpdatePod(_ context.Context, p *corev1.Pod, change func(*corev1.Pod)) error {
	next := p.DeepCopy()
	change(next)
	c.pods[p.Name] = next
	return nil
}

func (c *cluster) DeletePod(_ context.Context, p *corev1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, p.Name)
	c.changed()
	return nil
}

func (c *cluster) CreateRevision(_ context.Context, r *appsv1.ControllerRevision) error {
	if c.revisions[r.Name] != nil {
		return apierrors.NewAlreadyExists(appsv1.Resource("controllerrevisions"), r.Name)
	}
	c.revisions[r.Name] = r.DeepCopy()
	return nil
}

func (c *cluster) UpdateRevision(_ context.Context, r *appsv1.ControllerRevision, change func(*appsv1.ControllerRevision)) error {
	next := r.DeepCopy()
	change(next)
	c.revisions[r.Name] = next
	return nil
}

func (c *cluster) DeleteRevision(_ context.Context, r *appsv1.ControllerRevision) error {
	delete(c.revisions, r.Name)
	return nil
}

func (c *cluster) SetStatus(_ context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	next := ds.DeepCopy()
	next.Status = status
	c.set = next
	return nil
}

func (c *cluster) Record(_ runtime.Object, kind, reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, kind+" "+reason+" "+message)
}

func (c *cluster) state() string {
	var lines []string
	for _, p := range c.pods {
		lines = append(lines, fmt.Sprint(p.Name, p.Labels, p.OwnerReferences))
	}
	for _, r := range c.revisions {
		lines = append(lines, fmt.Sprint(r.Name, r.Revision, r.Labels, r.OwnerReferences))
	}
	slices.Sort(lines)
	return fmt.Sprint(lines, c.set.Status.String())
}

// run reconciles until nothing changes any more.
func (c *cluster) run(t *testing.T, controller *Controller) {
	t.Helper()
	for range 100 {
		before := c.state()
		if err := controller.Reconcile(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if c.state() == before {
			return
		}
	}
	t.Fatal("it never rests")
}

func (c *cluster) numbers() string {
	var all []string
	for _, r := range c.revisions {
		t, err := revision.Template(r)
		if err != nil {
			return err.Error()
		}
		all = append(all, fmt.Sprintf("%d:%s", r.Revision, t.Spec.Containers[0].Image))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (c *cluster) image(image string) {
	c.set = c.set.DeepCopy()
	c.set.Generation++
	c.set.Annotations[appsv1.DeprecatedTemplateGeneration] += "0"
	c.set.Spec.Template.Spec.Containers[0].Image = image
}

func TestRevisionsGrowComeBackAndGo(t *testing.T) {
	c, controller := newCluster(newSet(func(ds *appsv1.DaemonSet) { ds.Spec.RevisionHistoryLimit = new(int32(1)) }), "n1", "n2")
	for _, step := range []struct{ image, want string }{
		{"agent", "1:agent"},
		{"agent:2", "1:agent 2:agent:2"},
		{"agent", "2:agent:2 3:agent"}, // what was there before becomes the newest
		{"agent:3", "3:agent 4:agent:3"},
	} {
		c.image(step.image)
		c.run(t, controller)
		if got := c.numbers(); got != step.want {
			t.Errorf("after %s: %s, want %s", step.image, got, step.want)
		}
		if s := c.set.Status; s.UpdatedNumberScheduled != 2 || s.NumberAvailable != 2 || s.ObservedGeneration != c.set.Generation {
			t.Errorf("after %s: %+v", step.image, s)
		}
		for _, p := range c.pods {
			hash := p.Labels["controller-revision-hash"]
			if p.Spec.Containers[0].Image != step.image || c.revisions["agent-"+hash] == nil {
				t.Errorf("after %s: %s is of %s", step.image, p.Name, p.Spec.Containers[0].Image)
			}
		}
	}
}

func TestARevisionsNameThatIsTakenIsACollision(t *testing.T) {
	c, controller := newCluster(newSet(), "n1")
	other := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "agent-" + workload.Hash(&c.set.Spec.Template, nil), OwnerReferences: []metav1.OwnerReference{{UID: "other", Controller: new(true)}},
	}}
	c.revisions[other.Name] = other
	if err := controller.Reconcile(t.Context(), key); !apierrors.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	c.run(t, controller)
	want := "agent-" + workload.Hash(&c.set.Spec.Template, new(int32(1)))
	if *c.set.Status.CollisionCount != 1 || c.revisions[want] == nil || len(c.pods) != 1 {
		t.Errorf("%+v, %d pods", c.set.Status, len(c.pods))
	}
}

func TestTwinsAreMerged(t *testing.T) {
	c, controller := newCluster(newSet(), "n1", "n2")
	c.run(t, controller)
	for _, r := range c.Revisions(nil) {
		twin := r.DeepCopy()
		twin.Name, twin.Labels["controller-revision-hash"], twin.Revision = "agent-twin", "twin", 5
		c.revisions["agent-twin"] = twin
		unlabelled := r.DeepCopy()
		unlabelled.Name, unlabelled.Data.Raw = "agent-before", []byte(`{"spec":{"template":{}}}`)
		delete(unlabelled.Labels, "controller-revision-hash")
		c.revisions["agent-before"] = unlabelled
	}
	c.run(t, controller)
	if len(c.revisions) != 2 || c.revisions["agent-twin"] == nil || c.revisions["agent-before"].Labels["controller-revision-hash"] != "agent-before" || c.made != 2 {
		t.Errorf("%s, %d pods were made", c.numbers(), c.made)
	}
	for _, p := range c.pods {
		if p.Labels["controller-revision-hash"] != "twin" {
			t.Errorf("%s is still of %s", p.Name, p.Labels["controller-revision-hash"])
		}
	}
}

func TestWhatMatchesIsAdoptedAndWhatDoesNotIsReleased(t *testing.T) {
	c, controller := newCluster(newSet(), "n1", "n2")
	c.run(t, controller)
	for name, p := range c.pods {
		p = p.DeepCopy()
		if name == "agent-1" {
			p.OwnerReferences = nil
		} else {
			p.Labels["app"] = "other"
		}
		c.pods[name] = p
	}
	for name, r := range c.revisions {
		r = r.DeepCopy()
		r.OwnerReferences = nil
		c.revisions[name] = r
	}
	c.run(t, controller)
	for name, owned := range map[string]bool{"agent-1": true, "agent-2": false, "agent-3": true} {
		if p := c.pods[name]; p == nil || metav1.IsControlledBy(p, c.set) != owned {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for name, r := range c.revisions {
		if !metav1.IsControlledBy(r, c.set) || len(c.revisions) != 1 {
			t.Errorf("%s: %+v", name, r.OwnerReferences)
		}
	}
}

func TestPodsThatFailAreReplacedLaterEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, controller := newCluster(newSet(), "n1")
		began := time.Now()
		var at []time.Duration
		c.phase = corev1.PodFailed
		c.changed = func() { controller.Mark(key) }
		c.created = func() { at = append(at, time.Since(began)) }
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = controller.Run(ctx) }()
		controller.Mark(key)
		time.Sleep(20 * time.Second)
		stop()
		synctest.Wait()
		if want := []time.Duration{0, 0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("pods were made after %s, not %s", at, want)
		}
		if !slices.Contains(c.events, "Warning FailedDaemonPod Found failed daemon pod ns/agent-1 on node n1, will try to kill it") {
			t.Errorf("%q", c.events)
		}
	})
}

func TestEventsSayWhatWasDoneAndWhatWasNot(t *testing.T) {
	c, controller := newCluster(newSet(), "n1")
	c.refuse = errors.New("quota is used up")
	if err := controller.Reconcile(t.Context(), key); err == nil || c.set.Status.ObservedGeneration != 1 {
		t.Errorf("%v, %+v", err, c.set.Status)
	}
	c.refuse = nil
	c.run(t, controller)
	c.nodes = nodes("n1 x:NoExecute")
	c.run(t, controller)
	c.nodes, c.phase = nodes("n1"), corev1.PodSucceeded
	for range 2 {
		if err := controller.Reconcile(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"Warning FailedCreate Error creating: quota is used up",
		"Normal SuccessfulCreate Created pod: agent-1",
		"Normal SuccessfulDelete Deleted pod: agent-1",
		"Normal SuccessfulCreate Created pod: agent-2",
		"Normal SucceededDaemonPod Found succeeded daemon pod ns/agent-2 on node n1, will try to delete it",
		"Normal SuccessfulDelete Deleted pod: agent-2",
	}
	if !slices.Equal(c.events, want) {
		t.Errorf("%q", c.events)
	}
	events := len(c.events)
	c.set = c.set.DeepCopy()
	c.set.DeletionTimestamp = new(metav1.NewTime(now))
	if err := controller.Reconcile(t.Context(), key); err != nil || len(c.events) != events {
		t.Errorf("something is done for a set that is being deleted: %v %q", err, c.events[events:])
	}
}
