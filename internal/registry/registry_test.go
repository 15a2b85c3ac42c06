package registry_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/registry"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store/local"
)

// world is a registry on a store in a directory of the test's own, with the namespace and the service account that pods need.
type world struct {
	*registry.Registry
	t     testing.TB
	table *resource.Table
	cache *cache.Cache
}

func newWorld(t testing.TB) *world {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	table := kinds.Table()
	c := cache.New(table, s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	<-c.Ready()
	w := &world{Registry: registry.New(registry.Config{Table: table, Store: s, Cache: c, Admission: admission.Steps(table, c), Log: slog.New(slog.DiscardHandler)}), t: t, table: table, cache: c}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "default"}})
	return w
}

func (w *world) kind(name string) *resource.Kind {
	k, _ := w.table.ByKind(corev1.SchemeGroupVersion.WithKind(name))
	if k == nil {
		w.t.Fatalf("no kind %s", name)
	}
	return k
}

func (w *world) kindOf(obj resource.Object) *resource.Kind {
	return w.kind(strings.TrimPrefix(fmt.Sprintf("%T", obj), "*v1."))
}

func (w *world) create(obj resource.Object) resource.Object {
	w.t.Helper()
	got, err := w.Create(context.Background(), w.kindOf(obj), obj, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatalf("create %T %s: %v", obj, obj.GetName(), err)
	}
	return got
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
	}
}

func TestCreateFillsInWhatTheServerSets(t *testing.T) {
	w := newWorld(t)
	p := w.create(pod("a")).(*corev1.Pod)
	if p.UID == "" || p.CreationTimestamp.IsZero() || p.ResourceVersion == "" {
		t.Errorf("uid, creation or version is missing: %+v", p.ObjectMeta)
	}
	if p.Spec.ServiceAccountName != "default" || p.Spec.RestartPolicy != corev1.RestartPolicyAlways || len(p.Spec.Tolerations) != 2 || *p.Spec.Priority != 0 || p.Status.Phase != corev1.PodPending {
		t.Errorf("defaults or admission are missing: %+v %+v", p.Spec, p.Status)
	}
	if err := w.cache.Wait(t.Context(), mustVersion(t, p)); err != nil {
		t.Fatal(err)
	}
	seen := cache.Typed[*corev1.Pod](w.cache.Snapshot().Get(w.kind("Pod"), "default", "a"))
	if seen.ResourceVersion != p.ResourceVersion || seen.UID != p.UID {
		t.Errorf("the cache shows version %s, the answer said %s", seen.ResourceVersion, p.ResourceVersion)
	}
}

func mustVersion(t testing.TB, obj resource.Object) int64 {
	var n int64
	if _, err := fmt.Sscan(obj.GetResourceVersion(), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.create(configMap("there"))
	ctx := context.Background()
	create := func(obj resource.Object) error {
		_, err := w.Create(ctx, w.kindOf(obj), obj, metav1.CreateOptions{})
		return err
	}
	update := func(name string, change func(*corev1.ConfigMap)) error {
		_, _, err := w.Update(ctx, w.kind("ConfigMap"), "", "default", name, func(o resource.Object) (resource.Object, error) {
			change(o.(*corev1.ConfigMap))
			return o, nil
		}, metav1.UpdateOptions{})
		return err
	}
	remove := func(kind, name string, o metav1.DeleteOptions) error {
		_, _, err := w.Delete(ctx, w.kind(kind), "default", name, o)
		return err
	}
	elsewhere := configMap("x")
	elsewhere.Namespace = "nowhere"
	versioned := configMap("y")
	versioned.ResourceVersion = "7"
	stranger := pod("p")
	stranger.Spec.ServiceAccountName = "ghost"
	uid := types.UID("another")
	cases := []struct {
		name string
		err  error
		want string
	}{
		{"an object that exists", create(configMap("there")), `configmaps "there" already exists`},
		{"a namespace that does not", create(elsewhere), `namespaces "nowhere" not found`},
		{"a version on a new object", create(versioned), "resourceVersion should not be set on objects to be created"},
		{"a service account that does not exist", create(stranger), `pods "p" is forbidden: error looking up service account default/ghost: serviceaccount "ghost" not found`},
		{"a pod without an image", create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}), `Pod "x" is invalid: spec.containers[0].image: Required value`},
		{"an update of nothing", update("gone", func(*corev1.ConfigMap) {}), `configmaps "gone" not found`},
		{"an update of an older version", update("there", func(c *corev1.ConfigMap) { c.ResourceVersion = "1" }), `Operation cannot be fulfilled on configmaps "there": the object has been modified; please apply your changes to the latest version and try again`},
		{"an update of another's uid", update("there", func(c *corev1.ConfigMap) { c.UID = "other" }), `Precondition failed: UID in precondition: other`},
		{"a delete of nothing", remove("ConfigMap", "gone", metav1.DeleteOptions{}), `configmaps "gone" not found`},
		{"a delete of another's uid", remove("ConfigMap", "there", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}), `Operation cannot be fulfilled on ConfigMap "there": the UID in the precondition (another) does not match the UID in record (`},
		{"a delete of the default namespace", remove("Namespace", "default", metav1.DeleteOptions{}), `namespaces "default" is forbidden: this namespace may not be deleted`},
	}
	for _, tc := range cases {
		if tc.err == nil || !strings.Contains(tc.err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %s", tc.name, tc.err, tc.want)
		}
		if tc.err != nil && apierrors.ReasonForError(tc.err) == metav1.StatusReasonUnknown {
			t.Errorf("%s: %v has no reason", tc.name, tc.err)
		}
	}
}

func TestGenerateName(t *testing.T) {
	w := newWorld(t)
	seen := map[string]bool{}
	for range 50 {
		c := configMap("")
		c.GenerateName = "web-"
		name := w.create(c).GetName()
		if !strings.HasPrefix(name, "web-") || len(name) != len("web-")+5 || seen[name] {
			t.Fatalf("generated %q", name)
		}
		seen[name] = true
	}
}

func TestAnUpdateThatChangesNothingWritesNothing(t *testing.T) {
	w := newWorld(t)
	before := w.create(configMap("a"))
	after, _, err := w.Update(t.Context(), w.kind("ConfigMap"), "", "default", "a", func(o resource.Object) (resource.Object, error) { return o, nil }, metav1.UpdateOptions{})
	if err != nil || after.GetResourceVersion() != before.GetResourceVersion() {
		t.Errorf("version went from %s to %s, %v", before.GetResourceVersion(), after.GetResourceVersion(), err)
	}
}

func TestWritersWithoutAConditionAllGetThrough(t *testing.T) {
	w := newWorld(t)
	c := configMap("counter")
	w.create(c)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 5 {
				_, _, err := w.Update(context.Background(), w.kind("ConfigMap"), "", "default", "counter", func(o resource.Object) (resource.Object, error) {
					m := o.(*corev1.ConfigMap)
					if m.Data == nil {
						m.Data = map[string]string{}
					}
					m.Data[fmt.Sprintf("%d-%d", i, j)] = "x"
					m.ResourceVersion = ""
					return m, nil
				}, metav1.UpdateOptions{})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if _, err := w.counter(t, "counter"); err != nil {
		t.Error(err)
	}
}

// counter reads the counter through an update that changes nothing.
func (w *world) counter(t *testing.T, name string) (*corev1.ConfigMap, error) {
	obj, _, err := w.Update(t.Context(), w.kind("ConfigMap"), "", "default", name, func(o resource.Object) (resource.Object, error) { return o, nil }, metav1.UpdateOptions{})
	if err != nil {
		return nil, err
	}
	m := obj.(*corev1.ConfigMap)
	if len(m.Data) != 40 {
		return m, fmt.Errorf("%d of 40 changes are there", len(m.Data))
	}
	return m, nil
}

func TestTheLifeOfADeletedPod(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	k := w.kind("Pod")
	seconds := func(n int64) metav1.DeleteOptions { return metav1.DeleteOptions{GracePeriodSeconds: &n} }
	w.create(pod("unbound"))
	if _, gone, err := w.Delete(ctx, k, "default", "unbound", metav1.DeleteOptions{}); err != nil || !gone {
		t.Errorf("a pod on no node goes at once: gone %v, %v", gone, err)
	}
	w.create(pod("bound"))
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound", Namespace: "default"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
	if err := w.Bind(ctx, bind); err != nil {
		t.Fatal(err)
	}
	if err := w.Bind(ctx, bind); err == nil || !strings.Contains(err.Error(), `pod bound is already assigned to node "n1"`) {
		t.Errorf("a second binding: %v", err)
	}
	grace := func(o resource.Object) int64 { return *o.GetDeletionGracePeriodSeconds() }
	obj, gone, err := w.Delete(ctx, k, "default", "bound", metav1.DeleteOptions{})
	if err != nil || gone || grace(obj) != 30 || obj.GetDeletionTimestamp() == nil {
		t.Fatalf("a bound pod has its 30 s: gone %v, %v, %+v", gone, err, obj)
	}
	first := obj.GetDeletionTimestamp().Time
	if obj, _, err = w.Delete(ctx, k, "default", "bound", seconds(100)); err != nil || grace(obj) != 30 {
		t.Errorf("a second delete never lengthens: %v, %v", grace(obj), err)
	}
	if obj, _, err = w.Delete(ctx, k, "default", "bound", seconds(5)); err != nil || grace(obj) != 5 || first.Sub(obj.GetDeletionTimestamp().Time) != 25*time.Second {
		t.Errorf("a second delete shortens: %v s, from %v to %v, %v", grace(obj), first, obj.GetDeletionTimestamp(), err)
	}
	if _, gone, err = w.Delete(ctx, k, "default", "bound", seconds(0)); err != nil || !gone {
		t.Errorf("with 0 it goes: gone %v, %v", gone, err)
	}
}

func TestAFinalizerKeepsAnObject(t *testing.T) {
	w := newWorld(t)
	c := configMap("kept")
	c.Finalizers = []string{"example.com/keep"}
	w.create(c)
	k := w.kind("ConfigMap")
	obj, gone, err := w.Delete(t.Context(), k, "default", "kept", metav1.DeleteOptions{})
	if err != nil || gone || obj.GetDeletionTimestamp() == nil {
		t.Fatalf("gone %v, %v", gone, err)
	}
	_, _, err = w.Update(t.Context(), k, "", "default", "kept", func(o resource.Object) (resource.Object, error) {
		o.SetFinalizers(nil)
		return o, nil
	}, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.cache.Wait(t.Context(), mustVersion(t, obj)+1); err != nil {
		t.Fatal(err)
	}
	if w.cache.Snapshot().Get(k, "default", "kept") != nil {
		t.Error("it is still there after its last finalizer went")
	}
}

func TestADryRunWritesNothing(t *testing.T) {
	w := newWorld(t)
	before := w.cache.Snapshot().Revision()
	all := []string{metav1.DryRunAll}
	if _, err := w.Create(t.Context(), w.kind("ConfigMap"), configMap("a"), metav1.CreateOptions{DryRun: all}); err != nil {
		t.Error(err)
	}
	w.create(configMap("b"))
	if _, _, err := w.Delete(t.Context(), w.kind("ConfigMap"), "default", "b", metav1.DeleteOptions{DryRun: all}); err != nil {
		t.Error(err)
	}
	if err := w.cache.Wait(t.Context(), before+1); err != nil {
		t.Fatal(err)
	}
	if w.cache.Snapshot().Get(w.kind("ConfigMap"), "default", "b") == nil || w.cache.Snapshot().Get(w.kind("ConfigMap"), "default", "a") != nil {
		t.Error("a dry run has changed something")
	}
}

func TestATerminatingNamespaceTakesNothingNew(t *testing.T) {
	w := newWorld(t)
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ending"}})
	obj, gone, err := w.Delete(t.Context(), w.kind("Namespace"), "", "ending", metav1.DeleteOptions{})
	if err != nil || gone || obj.(*corev1.Namespace).Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("gone %v, %v, %+v", gone, err, obj)
	}
	c := configMap("late")
	c.Namespace = "ending"
	_, err = w.Create(t.Context(), w.kind("ConfigMap"), c, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "because it is being terminated") || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("got %v", err)
	}
}
