package statefulset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/revision"
)

// cluster is a set with its pods and revisions in memory; as View it shows its own writes.
type cluster struct {
	mu        sync.Mutex // pods come and go several at once
	set       *appsv1.StatefulSet
	pods      map[string]*corev1.Pod
	revisions map[string]*appsv1.ControllerRevision
	claims    map[string]*corev1.PersistentVolumeClaim
	events    []string
	refuse    error // of pods
	full      error // of claims
}

func newCluster(set *appsv1.StatefulSet) (*cluster, *Controller) {
	c := &cluster{set: set, pods: map[string]*corev1.Pod{}, revisions: map[string]*appsv1.ControllerRevision{}, claims: map[string]*corev1.PersistentVolumeClaim{}}
	return c, New(c, c, c, c, nil, nil)
}

func (c *cluster) StatefulSet(loop.Key) *appsv1.StatefulSet { return c.set }
func (c *cluster) Pods(*appsv1.StatefulSet) (all []*corev1.Pod) {
	for _, p := range c.pods {
		all = append(all, p)
	}
	return all
}

func (c *cluster) Revisions(*appsv1.StatefulSet) (all []*appsv1.ControllerRevision) {
	for _, r := range c.revisions {
		if owner := metav1.GetControllerOf(r); owner == nil || owner.UID == c.set.UID {
			all = append(all, r)
		}
	}
	return all
}
func (c *cluster) Revision(_, name string) *appsv1.ControllerRevision { return c.revisions[name] }

func (c *cluster) CreatePod(_ context.Context, p *corev1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return c.refuse
	}
	if c.pods[p.Name] != nil {
		return apierrors.NewAlreadyExists(corev1.Resource("pods"), p.Name)
	}
	p.UID = types.UID(p.Name)
	p.Status = pod("0").Status
	c.pods[p.Name] = p
	return nil
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

func (c *cluster) SetStatus(_ context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	next := set.DeepCopy()
	next.Status = status
	c.set = next
	return nil
}

func (c *cluster) Claim(key loop.Key) *corev1.PersistentVolumeClaim { return c.claims[key.Name] }

func (c *cluster) CreateClaim(_ context.Context, claim *corev1.PersistentVolumeClaim) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full == nil {
		c.claims[claim.Name] = claim
	}
	return c.full
}

func (c *cluster) UpdateClaim(_ context.Context, claim *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) (*corev1.PersistentVolumeClaim, error) {
	next := claim.DeepCopy()
	change(next)
	c.claims[claim.Name] = next
	return next, nil
}

func (c *cluster) Record(_ runtime.Object, kind, reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, kind+" "+reason+" "+message)
}

// run reconciles until nothing changes any more.
func (c *cluster) run(t *testing.T, controller *Controller) {
	t.Helper()
	for range 100 {
		before := c.state()
		if err := controller.Reconcile(t.Context(), loop.Key{Namespace: "ns", Name: "web"}); err != nil {
			t.Fatal(err)
		}
		if c.state() == before {
			return
		}
	}
	t.Fatal("it never rests")
}

func (c *cluster) state() string {
	var lines []string
	for _, p := range c.pods {
		lines = append(lines, fmt.Sprint(p.Name, p.Labels, p.OwnerReferences))
	}
	for _, r := range c.revisions {
		lines = append(lines, fmt.Sprint(r.Name, r.Revision, r.OwnerReferences))
	}
	slices.Sort(lines)
	return fmt.Sprint(lines, c.set.Status.String())
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
	c.set.Spec.Template.Spec.Containers[0].Image = image
}

func TestRevisionsGrowComeBackAndGo(t *testing.T) {
	c, controller := newCluster(newSet(func(s *appsv1.StatefulSet) { s.Spec.RevisionHistoryLimit = new(int32(1)) }))
	for _, step := range []struct{ image, want string }{
		{"nginx", "1:nginx"},
		{"nginx:2", "1:nginx 2:nginx:2"},
		{"nginx", "2:nginx:2 3:nginx"}, // what was there before becomes the newest
		{"nginx:3", "3:nginx 4:nginx:3"},
		{"nginx:3", "3:nginx 4:nginx:3"},
	} {
		c.image(step.image)
		c.run(t, controller)
		if got := c.numbers(); got != step.want {
			t.Errorf("after %s: %s, want %s", step.image, got, step.want)
		}
		s := c.set.Status
		if s.CurrentRevision != s.UpdateRevision || s.CurrentReplicas != 3 || s.ObservedGeneration != c.set.Generation {
			t.Errorf("after %s: %+v", step.image, s)
		}
		for _, p := range c.pods {
			if p.Spec.Containers[0].Image != step.image || p.Labels["controller-revision-hash"] != s.UpdateRevision {
				t.Errorf("after %s: %s is of %s", step.image, p.Name, p.Spec.Containers[0].Image)
			}
		}
	}
}

func TestARevisionsNameThatIsTakenIsACollision(t *testing.T) {
	c, controller := newCluster(newSet())
	content, err := revision.Content(&c.set.Spec.Template)
	if err != nil {
		t.Fatal(err)
	}
	other := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: revision.Name("web", revision.Hash(content, 0)), OwnerReferences: []metav1.OwnerReference{{UID: "other", Controller: new(true)}},
	}}
	c.revisions[other.Name] = other
	c.run(t, controller)
	if s := c.set.Status; *s.CollisionCount != 1 || s.UpdateRevision != revision.Name("web", revision.Hash(content, 1)) || len(c.revisions) != 2 {
		t.Errorf("%+v, %d revisions", s, len(c.revisions))
	}
}

func TestWhatMatchesIsAdoptedAndWhatDoesNotIsReleased(t *testing.T) {
	c, controller := newCluster(newSet())
	c.run(t, controller)
	for name, p := range c.pods {
		p = p.DeepCopy()
		switch p.OwnerReferences = nil; name {
		case "web-1":
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(c.set, Kind)}
			p.Labels["app"] = "other"
		case "web-2":
			delete(p.Labels, "statefulset.kubernetes.io/pod-name")
		}
		c.pods[name] = p
	}
	stranger := pod("0")
	stranger.Name = "stranger"
	c.pods["stranger"] = stranger
	for name, r := range c.revisions {
		r = r.DeepCopy()
		r.OwnerReferences = nil
		c.revisions[name] = r
	}
	// The name of the released pod is taken for as long as that lives.
	err := controller.Reconcile(t.Context(), loop.Key{Namespace: "ns", Name: "web"})
	if !strings.Contains(fmt.Sprint(err), `"web-1" already exists`) {
		t.Errorf("%v", err)
	}
	delete(c.pods, "web-1")
	c.run(t, controller)
	for name, p := range c.pods {
		if metav1.IsControlledBy(p, c.set) != (name != "stranger") || name != "stranger" && !identified(p) {
			t.Errorf("%s: %+v", name, p.ObjectMeta)
		}
	}
	for name, r := range c.revisions {
		if !metav1.IsControlledBy(r, c.set) || len(c.revisions) != 1 {
			t.Errorf("%s: %+v", name, r.OwnerReferences)
		}
	}
}

func TestEventsSayWhatWasDoneAndWhatWasNot(t *testing.T) {
	c, controller := newCluster(newSet(replicas(1)))
	c.refuse = errors.New("quota is used up")
	if err := controller.Reconcile(t.Context(), loop.Key{}); err == nil {
		t.Error("a refusal is no error")
	}
	if c.set.Status.ObservedGeneration != 1 {
		t.Error("the status is not written where a pod is refused")
	}
	c.refuse = nil
	c.run(t, controller)
	c.set = c.set.DeepCopy()
	c.set.Spec.Replicas = new(int32(0))
	c.run(t, controller)
	want := []string{
		"Warning FailedCreate create Pod web-0 in StatefulSet web failed error: quota is used up",
		"Normal SuccessfulCreate create Pod web-0 in StatefulSet web successful",
		"Normal SuccessfulDelete delete Pod web-0 in StatefulSet web successful",
	}
	if !slices.Equal(c.events, want) {
		t.Errorf("%q", c.events)
	}
}

func withClaims(s *appsv1.StatefulSet) {
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
}

func TestPodsGetTheirClaimsBeforeTheyAreMade(t *testing.T) {
	c, controller := newCluster(newSet(withClaims, replicas(1)))
	c.full = errors.New("quota is used up")
	if err := controller.Reconcile(t.Context(), loop.Key{}); err == nil || len(c.pods) != 0 {
		t.Errorf("%v, %d pods without their claims", err, len(c.pods))
	}
	c.full = nil
	c.run(t, controller)
	if c.claims["data-web-0"] == nil || len(c.pods) != 1 {
		t.Errorf("claims %v, %d pods", c.claims, len(c.pods))
	}
	want := []string{
		"Warning FailedCreate create Claim data-web-0 for Pod web-0 in StatefulSet web failed error: quota is used up",
		"Warning FailedCreate create Pod web-0 in StatefulSet web failed error: failed to create PVC data-web-0: quota is used up",
		"Normal SuccessfulCreate create Claim data-web-0 Pod web-0 in StatefulSet web success",
		"Normal SuccessfulCreate create Pod web-0 in StatefulSet web successful",
	}
	if !slices.Equal(c.events, want) {
		t.Errorf("%q", c.events)
	}
	// One that has not begun gets its claim again.
	waits := c.pods["web-0"].DeepCopy()
	waits.Status = corev1.PodStatus{Phase: corev1.PodPending}
	c.pods["web-0"] = waits
	delete(c.claims, "data-web-0")
	c.run(t, controller)
	if c.claims["data-web-0"] == nil || !Names(c.set, "data-web-0") || Names(c.set, "data-web-x") || Names(c.set, "log-web-0") {
		t.Errorf("claims %v", c.claims)
	}
	// The pod is gone, and its claim is going: its successor waits.
	delete(c.pods, "web-0")
	c.claims["data-web-0"].DeletionTimestamp = new(metav1.NewTime(now))
	if err := controller.Reconcile(t.Context(), loop.Key{}); err == nil || !strings.Contains(err.Error(), "pvc data-web-0 is being deleted") || len(c.pods) != 0 {
		t.Errorf("%v, %d pods", err, len(c.pods))
	}
}

func TestClaimsGoWithWhomThePolicySays(t *testing.T) {
	const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	for _, c := range []struct {
		name               string
		deleted, scaled    appsv1.PersistentVolumeClaimRetentionPolicyType
		wanted, scaledAway string // kinds of the owners of the claims of a pod that is wanted, and of one that is not
	}{
		{"they stay", retain, retain, "", ""},
		{"with the set", remove, retain, "StatefulSet", "StatefulSet"},
		{"with pods that are scaled away", retain, remove, "", "Pod"},
		{"with both", remove, remove, "StatefulSet", "Pod"},
	} {
		set := newSet(withClaims, replicas(1), func(s *appsv1.StatefulSet) {
			s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: c.deleted, WhenScaled: c.scaled}
		})
		for n, want := range []string{c.wanted, c.scaledAway} {
			p := pod(fmt.Sprint(n))
			p.UID = "its-uid"
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{Kind: "Pod", Name: p.Name, UID: "of-before"}}}}
			refs, changed := Owners(set, p, claim)
			kinds := ""
			for _, r := range refs {
				kinds += r.Kind
			}
			if kinds != want || !changed {
				t.Errorf("%s: the claim of %s goes with %q, changed: %t", c.name, p.Name, kinds, changed)
			}
			claim.OwnerReferences = refs
			if _, again := Owners(set, p, claim); again {
				t.Errorf("%s: %s is changed once more", c.name, p.Name)
			}
			claim.OwnerReferences = []metav1.OwnerReference{{Kind: "Database", Name: "d", UID: "d", Controller: new(true)}}
			if refs, changed := Owners(set, p, claim); changed || len(refs) != 1 {
				t.Errorf("%s: a claim of somebody else's gets %v", c.name, refs)
			}
		}
	}
}

func TestASetThatIsBeingDeletedIsOnlyCounted(t *testing.T) {
	c, controller := newCluster(newSet())
	c.run(t, controller)
	c.set = c.set.DeepCopy()
	c.set.DeletionTimestamp = new(metav1.NewTime(now))
	delete(c.pods, "web-1")
	clear(c.revisions)
	c.run(t, controller)
	if s := c.set.Status; s.Replicas != 2 || s.UpdateRevision == "" || len(c.pods) != 2 || len(c.revisions) != 0 {
		t.Errorf("%+v, %d pods", s, len(c.pods))
	}
}
