package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

func (w *world) update(kind, sub, name string, change func(resource.Object), o metav1.UpdateOptions) (resource.Object, error) {
	k := w.kind(kind)
	ns := ""
	if k.Namespaced {
		ns = "default"
	}
	obj, _, err := w.Update(w.t.Context(), k, sub, ns, name, func(current resource.Object) (resource.Object, error) {
		change(current)
		return current, nil
	}, o)
	return obj, err
}

func (w *world) delete(kind, name string, o metav1.DeleteOptions) (resource.Object, bool, error) {
	k := w.kind(kind)
	ns := ""
	if k.Namespaced {
		ns = "default"
	}
	return w.Delete(w.t.Context(), k, ns, name, o)
}

// shown waits until the cache shows a write, and gives the object there.
func (w *world) shown(after resource.Object) *cache.Object {
	w.t.Helper()
	if err := w.cache.Wait(w.t.Context(), mustVersion(w.t, after)); err != nil {
		w.t.Fatal(err)
	}
	return w.cache.Snapshot().Get(w.kindOf(after), after.GetNamespace(), after.GetName())
}

func TestEveryErrorIsAStatusInKubernetesWords(t *testing.T) {
	w := newWorld(t)
	there := w.create(configMap("there"))
	kept := configMap("kept")
	kept.Finalizers = []string{"example.com/keep"}
	w.create(kept)
	if _, _, err := w.delete("ConfigMap", "kept", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	large := configMap("large")
	large.BinaryData = map[string][]byte{"a": make([]byte, 1<<20)}
	for i := range 3000 {
		large.OwnerReferences = append(large.OwnerReferences, metav1.OwnerReference{
			APIVersion: "v1", Kind: "Pod", Name: strings.Repeat("n", 200), UID: types.UID(fmt.Sprintf("%d", i)),
		})
	}
	other, uid := "7", types.UID("another")
	create := func(obj resource.Object) error {
		_, err := w.Create(t.Context(), w.kindOf(obj), obj, metav1.CreateOptions{})
		return err
	}
	dry := func(obj resource.Object) error {
		_, err := w.Create(t.Context(), w.kindOf(obj), obj, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	change := func(f func(resource.Object)) error {
		_, err := w.update("ConfigMap", "", "there", f, metav1.UpdateOptions{})
		return err
	}
	remove := func(kind, name string, p metav1.Preconditions) error {
		_, _, err := w.delete(kind, name, metav1.DeleteOptions{Preconditions: &p})
		return err
	}
	full := configMap("")
	full.GenerateName = "there"
	for _, c := range []struct {
		name   string
		err    error
		reason metav1.StatusReason
		code   int32
		want   string
	}{
		{"a name that is taken", create(configMap("there")), metav1.StatusReasonAlreadyExists, 409, `configmaps "there" already exists`},
		{"and in a dry run", dry(configMap("there")), metav1.StatusReasonAlreadyExists, 409, `configmaps "there" already exists`},
		{"by an object that is on its way out", create(configMap("kept")), metav1.StatusReasonAlreadyExists, 409, `object is being deleted: configmaps "kept" already exists`},
		{"and in a dry run, too", dry(configMap("kept")), metav1.StatusReasonAlreadyExists, 409, `object is being deleted: configmaps "kept" already exists`},
		{"more than the store takes", create(large), metav1.StatusReasonRequestEntityTooLarge, 413, `Request entity too large: limit is 1572864`},
		{"no name", create(configMap("")), metav1.StatusReasonInvalid, 422, `ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required`},
		{"a name that is none", create(configMap("No_Name")), metav1.StatusReasonInvalid, 422, `ConfigMap "No_Name" is invalid: metadata.name: Invalid value: "No_Name": a lowercase RFC 1123 subdomain must consist of`},
		{
			"another object of that name", change(func(o resource.Object) { o.SetUID("another"); o.SetResourceVersion("1") }), metav1.StatusReasonConflict, 409,
			`Operation cannot be fulfilled on configmaps "there": StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/there, ` +
				`ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: another, UID in object meta: ` + string(there.GetUID()),
		},
		{
			"an older version of it", change(func(o resource.Object) { o.SetResourceVersion("1") }), metav1.StatusReasonConflict, 409,
			`Operation cannot be fulfilled on configmaps "there": the object has been modified; please apply your changes to the latest version and try again`,
		},
		{
			"an end that an update cannot begin", change(func(o resource.Object) { o.SetDeletionTimestamp(new(metav1.Unix(1e9, 0))) }), metav1.StatusReasonInvalid, 422,
			`ConfigMap "there" is invalid: metadata.deletionTimestamp: Invalid value: "2001-09-09T01:46:40Z": field is immutable`,
		},
		{"a new name", change(func(o resource.Object) { o.SetName("here") }), metav1.StatusReasonInvalid, 422, `metadata.name: Invalid value: "here": field is immutable`},
		{
			"a delete of another object", remove("ConfigMap", "there", metav1.Preconditions{UID: &uid}), metav1.StatusReasonConflict, 409,
			`Operation cannot be fulfilled on ConfigMap "there": the UID in the precondition (another) does not match the UID in record (` + string(there.GetUID()) + `). The object might have been deleted and then recreated`,
		},
		{
			"a delete of another version", remove("ConfigMap", "there", metav1.Preconditions{ResourceVersion: &other}), metav1.StatusReasonConflict, 409,
			`Operation cannot be fulfilled on ConfigMap "there": the ResourceVersion in the precondition (7) does not match the ResourceVersion in record (` + there.GetResourceVersion() + `). The object might have been modified`,
		},
		{"a delete of nothing", remove("ConfigMap", "nothing", metav1.Preconditions{}), metav1.StatusReasonNotFound, 404, `configmaps "nothing" not found`},
		{"an update of nothing", func() error {
			_, err := w.update("Pod", "status", "nothing", func(resource.Object) {}, metav1.UpdateOptions{})
			return err
		}(), metav1.StatusReasonNotFound, 404, `pods "nothing" not found`},
	} {
		var status *apierrors.StatusError
		if !errors.As(c.err, &status) {
			t.Errorf("%s: %v", c.name, c.err)
			continue
		}
		if s := status.Status(); s.Reason != c.reason || s.Code != c.code || !strings.Contains(s.Message, c.want) {
			t.Errorf("%s: %s %d %s\nwant %s", c.name, s.Reason, s.Code, s.Message, c.want)
		}
	}
}

func TestLeasesSayTheirGroup(t *testing.T) {
	w := newWorld(t)
	k, _ := w.table.ByKind(coordinationv1.SchemeGroupVersion.WithKind("Lease"))
	_, _, err := w.Delete(t.Context(), k, "default", "l", metav1.DeleteOptions{})
	if want := `leases.coordination.k8s.io "l" not found`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestWhatAClientSaysOfSystemFieldsIsNotTaken(t *testing.T) {
	w := newWorld(t)
	c := configMap("a")
	c.UID = "mine"
	c.SetSelfLink("/x")
	c.CreationTimestamp, c.DeletionTimestamp = metav1.Unix(1, 0), new(metav1.Unix(2, 0))
	c.DeletionGracePeriodSeconds = new(int64(3))
	c.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	made := w.create(c)
	if made.GetUID() == "mine" || made.GetSelfLink() != "" || made.GetCreationTimestamp().Unix() == 1 ||
		made.GetDeletionTimestamp() != nil || made.GetDeletionGracePeriodSeconds() != nil || len(made.GetManagedFields()) > 0 {
		t.Errorf("created: %+v", made)
	}
	changed, err := w.update("ConfigMap", "", "a", func(o resource.Object) {
		o.SetUID("")
		o.SetResourceVersion("")
		o.SetCreationTimestamp(metav1.Unix(1, 0))
		o.SetGeneration(17)
		o.SetLabels(map[string]string{"a": "b"})
	}, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if changed.GetUID() != made.GetUID() || changed.GetCreationTimestamp() != made.GetCreationTimestamp() || changed.GetGeneration() != made.GetGeneration() {
		t.Errorf("updated: %+v", changed)
	}
	if seen := w.shown(changed).Decoded(); seen.GetResourceVersion() != changed.GetResourceVersion() || seen.GetLabels()["a"] != "b" {
		t.Errorf("stored: %+v", seen)
	}
}

func TestASpecAndAStatusAreChangedApart(t *testing.T) {
	w := newWorld(t)
	before := w.create(pod("p")).(*corev1.Pod)
	if before.Generation != 1 {
		t.Errorf("begins at generation %d", before.Generation)
	}
	both := func(o resource.Object) {
		p := o.(*corev1.Pod)
		p.Spec.Containers[0].Image = "busybox"
		p.Status.Phase = corev1.PodRunning
		p.Status.Message = "hello"
	}
	one, err := w.update("Pod", "status", "p", both, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p := one.(*corev1.Pod); p.Spec.Containers[0].Image != "nginx" || p.Status.Message != "hello" || p.Generation != 1 {
		t.Errorf("an update of the status: %+v %+v", p.Spec.Containers[0].Image, p.Status)
	}
	two, err := w.update("Pod", "", "p", func(o resource.Object) { both(o); o.(*corev1.Pod).Status.Message = "bye" }, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p := two.(*corev1.Pod); p.Spec.Containers[0].Image != "busybox" || p.Status.Message != "hello" || p.Generation != 2 {
		t.Errorf("an update of the spec: %+v %+v generation %d", p.Spec.Containers[0].Image, p.Status, p.Generation)
	}
}

func TestADryRunSaysWhatWouldBe(t *testing.T) {
	w := newWorld(t)
	all := []string{metav1.DryRunAll}
	made := w.create(configMap("a"))
	changed, err := w.update("ConfigMap", "", "a", func(o resource.Object) { o.SetLabels(map[string]string{"a": "b"}) }, metav1.UpdateOptions{DryRun: all})
	if err != nil || changed.GetLabels()["a"] != "b" || changed.GetResourceVersion() != made.GetResourceVersion() {
		t.Errorf("an update: %+v, %v", changed, err)
	}
	if _, gone, err := w.delete("ConfigMap", "a", metav1.DeleteOptions{DryRun: all}); err != nil || !gone {
		t.Errorf("a delete: gone %v, %v", gone, err)
	}
	if _, err := w.Create(t.Context(), w.kind("ConfigMap"), configMap("b"), metav1.CreateOptions{DryRun: all}); err != nil {
		t.Errorf("a create: %v", err)
	}
	w.create(pod("p"))
	b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Target: corev1.ObjectReference{Name: "n"}}
	if err := w.Bind(t.Context(), b, metav1.CreateOptions{DryRun: all}); err != nil {
		t.Errorf("a binding: %v", err)
	}
	if _, err := w.DeleteCollection(t.Context(), w.kind("ConfigMap"), cache.Selection{Namespace: "default"}, metav1.DeleteOptions{DryRun: all}); err != nil {
		t.Errorf("a delete of all: %v", err)
	}
	last := w.create(configMap("last"))
	snap := w.shown(last)
	if snap == nil {
		t.Fatal("the last is not there")
	}
	s := w.cache.Snapshot()
	if o := s.Get(w.kind("ConfigMap"), "default", "a"); o == nil || o.Decoded().GetResourceVersion() != made.GetResourceVersion() {
		t.Errorf("a is %v", o)
	}
	if s.Get(w.kind("ConfigMap"), "default", "b") != nil {
		t.Error("b is there")
	}
	if o := s.Get(w.kind("Pod"), "default", "p"); cache.Typed[*corev1.Pod](o).Spec.NodeName != "" {
		t.Error("p is bound")
	}
}

func TestABindingIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	made := w.create(pod("p"))
	bind := func(change func(*corev1.Binding)) error {
		b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
		change(b)
		return w.Bind(t.Context(), b)
	}
	for _, c := range []struct {
		name   string
		change func(*corev1.Binding)
		want   string
	}{
		{"no node", func(b *corev1.Binding) { b.Target.Name = "" }, `Binding "p" is invalid: target.name: Required value`},
		{"not a node", func(b *corev1.Binding) { b.Target.Kind = "Pod" }, `Binding "p" is invalid: target.kind: Unsupported value: "Pod": supported values: "Node", "<empty>"`},
		{"no pod", func(b *corev1.Binding) { b.Name = "q" }, `pods "q" not found`},
		{"another pod of that name", func(b *corev1.Binding) { b.UID = "other" }, "the UID in the precondition (other) does not match"},
		{"an older version of it", func(b *corev1.Binding) { b.ResourceVersion = "1" }, "the ResourceVersion in the precondition (1) does not match"},
		{"as it is", func(b *corev1.Binding) { b.UID = made.GetUID(); b.Annotations = map[string]string{"a": "b"} }, ""},
		{"again", func(*corev1.Binding) {}, `Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n1"`},
	} {
		if err := bind(c.change); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	last := w.create(configMap("last"))
	w.shown(last)
	p := cache.Typed[*corev1.Pod](w.cache.Snapshot().Get(w.kind("Pod"), "default", "p"))
	if p.Spec.NodeName != "n1" || p.Annotations["a"] != "b" || len(p.Status.Conditions) != 1 {
		t.Fatalf("bound: %+v %+v", p.ObjectMeta, p.Status)
	}
	if c := p.Status.Conditions[0]; c.Type != corev1.PodScheduled || c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() {
		t.Errorf("condition %+v", c)
	}
	w.create(pod("going"))
	if _, err := w.update("Pod", "", "going", func(o resource.Object) { o.SetFinalizers([]string{"a/b"}) }, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, gone, err := w.delete("Pod", "going", metav1.DeleteOptions{}); err != nil || gone {
		t.Fatal(gone, err)
	}
	if err := bind(func(b *corev1.Binding) { b.Name = "going" }); err == nil || !strings.Contains(err.Error(), "pod going is being deleted, cannot be assigned to a host") {
		t.Errorf("a pod on its way out: %v", err)
	}
}

func TestACollectionIsDeletedWhole(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		c := configMap(fmt.Sprintf("c%02d", i))
		if i%10 == 0 {
			c.Finalizers = []string{"a/b"}
		}
		w.create(c)
	}
	deleted, err := w.DeleteCollection(t.Context(), w.kind("ConfigMap"), cache.Selection{Namespace: "default"}, metav1.DeleteOptions{})
	if err != nil || len(deleted) != 50 {
		t.Fatalf("%d deleted, %v", len(deleted), err)
	}
	for i, o := range deleted {
		if o.GetName() != fmt.Sprintf("c%02d", i) {
			t.Fatalf("%d is %s", i, o.GetName())
		}
	}
	w.shown(w.create(configMap("last")))
	if n := w.cache.Snapshot().Count(w.kind("ConfigMap")); n != 5+1 {
		t.Errorf("%d are left", n)
	}
}

func TestTheLastFinalizerOfANamespaceEndsIt(t *testing.T) {
	w := newWorld(t)
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x"}})
	if _, gone, err := w.delete("Namespace", "x", metav1.DeleteOptions{}); err != nil || gone {
		t.Fatal(gone, err)
	}
	again, gone, err := w.delete("Namespace", "x", metav1.DeleteOptions{})
	if err != nil || gone {
		t.Fatal(gone, err)
	}
	if ns := again.(*corev1.Namespace); ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil || ns.DeletionGracePeriodSeconds != nil {
		t.Errorf("on its way out: %+v", ns)
	}
	if _, err := w.update("Namespace", "", "x", func(o resource.Object) { o.(*corev1.Namespace).Spec.Finalizers = nil }, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	last, err := w.update("Namespace", "finalize", "x", func(o resource.Object) { o.(*corev1.Namespace).Spec.Finalizers = nil }, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if o := w.shown(last); o != nil {
		t.Errorf("it is still there: %s", o.JSON())
	}
}
