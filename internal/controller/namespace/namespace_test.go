package namespace

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

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

func kind(plural, group string) *resource.Kind {
	return &resource.Kind{GroupVersionKind: schema.GroupVersionKind{Group: group, Version: "v1"}, Plural: plural, Namespaced: true}
}

var (
	podKind    = kind("pods", "")
	configKind = kind("configmaps", "")
	leaseKind  = kind("leases", "coordination.k8s.io")
)

func names(kinds []*resource.Kind) (s []string) {
	for _, k := range kinds {
		s = append(s, k.Plural)
	}
	return s
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		name string
		left []Content
		want []string
	}{
		{"nothing is left", nil, nil},
		{"pods go before all else", []Content{{Kind: configKind, Count: 1, Staying: 1}, {Kind: podKind, Count: 2, Staying: 1}}, []string{"pods"}},
		{"all else waits for pods on their way", []Content{{Kind: configKind, Count: 1, Staying: 1}, {Kind: podKind, Count: 2}}, nil},
		{"without pods all else goes", []Content{{Kind: configKind, Count: 1, Staying: 1}, {Kind: leaseKind, Count: 1, Staying: 1}}, []string{"configmaps", "leases"}},
		{"what has been asked is not asked again", []Content{{Kind: configKind, Count: 1}}, nil},
	} {
		if got := names(Next(c.left)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestConditionsSpeakAsKubernetesDoes(t *testing.T) {
	left := []Content{
		{Kind: podKind, Count: 2, Finalizers: map[string]int{"example.com/hold": 1}},
		{Kind: leaseKind, Count: 1, Finalizers: map[string]int{"example.com/hold": 1, "a.com/b": 1}},
	}
	var got []string
	for _, c := range Conditions(left, errors.New("disk full")) {
		got = append(got, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	want := []string{
		"NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered",
		"NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed",
		"NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 3 remaining: disk full",
		"NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: leases.coordination.k8s.io has 1 resource instances, pods. has 2 resource instances",
		"NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a.com/b in 1 resource instances, example.com/hold in 2 resource instances",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMerge(t *testing.T) {
	then, now := metav1.Unix(1, 0), metav1.Unix(2, 0)
	old := []corev1.NamespaceCondition{
		{Type: "Own", Status: "True", LastTransitionTime: then},
		{Type: corev1.NamespaceContentRemaining, Status: "True", Reason: "R", Message: "2 left", LastTransitionTime: then},
	}
	set := func(status corev1.ConditionStatus, reason, message string) []corev1.NamespaceCondition {
		return []corev1.NamespaceCondition{{Type: corev1.NamespaceContentRemaining, Status: status, Reason: reason, Message: message}}
	}
	for _, c := range []struct {
		name string
		new  []corev1.NamespaceCondition
		news news
		at   metav1.Time
	}{
		{"nothing new", set("True", "R", "2 left"), same, then},
		{"another count", set("True", "R", "1 left"), counts, then},
		{"another reason", set("True", "S", "2 left"), turned, then},
		{"another status", set("False", "R", "none left"), turned, now},
	} {
		merged, n := Merge(old, c.new, now)
		if n != c.news || len(merged) != 2 || merged[1].LastTransitionTime != c.at || merged[0].Type != "Own" {
			t.Errorf("%s: news %d, %+v", c.name, n, merged)
		}
	}
}

// town is an API of one namespace and of what is in it.
type town struct {
	mu       sync.Mutex
	c        *Controller
	ns       map[string]*corev1.Namespace
	contents []Content
	fail     error
	diary    []string
}

func (w *town) Namespace(name string) *corev1.Namespace {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ns[name]
}

func (w *town) Contents(string) []Content {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.contents)
}

func (w *town) Create(_ context.Context, ns *corev1.Namespace) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ns[ns.Name] = ns
	w.diary = append(w.diary, "create "+ns.Name)
	return nil
}

// DeleteAll ends what no finalizer holds at once, but pods, which end when the test says so.
func (w *town) DeleteAll(_ context.Context, kind *resource.Kind, namespace string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.diary = append(w.diary, "delete "+kind.Plural)
	if w.fail != nil {
		return w.fail
	}
	for i := range w.contents {
		if w.contents[i].Kind == kind {
			w.contents[i].Staying = 0
		}
	}
	w.contents = slices.DeleteFunc(w.contents, func(c Content) bool { return c.Kind == kind && kind != podKind && c.Finalizers == nil })
	w.c.ContentChanged(namespace)
	return nil
}

func (w *town) SetStatus(_ context.Context, name string, change func(*corev1.Namespace)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	ns := w.ns[name].DeepCopy()
	change(ns)
	w.ns[name] = ns
	for _, c := range ns.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			w.diary = append(w.diary, c.Reason)
		}
	}
	return nil
}

func (w *town) Finalize(_ context.Context, name string, change func(*corev1.Namespace)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	ns := w.ns[name].DeepCopy()
	change(ns)
	w.diary = append(w.diary, fmt.Sprintf("finalize %s%v", name, ns.Spec.Finalizers))
	delete(w.ns, name)
	return nil
}

func (w *town) lose(kinds ...*resource.Kind) {
	w.mu.Lock()
	w.contents = slices.DeleteFunc(w.contents, func(c Content) bool { return slices.Contains(kinds, c.Kind) })
	w.mu.Unlock()
	w.c.ContentChanged("shop")
}

func (w *town) told() []string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.diary
	w.diary = nil
	return lines
}

func TestLifeOfANamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &town{ns: map[string]*corev1.Namespace{"shop": {
			ObjectMeta: metav1.ObjectMeta{Name: "shop"},
			Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes, "own"}},
		}}}
		w.c = New(w, w, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = w.c.Run(ctx) }()
		step := func(what string, want ...string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			got := w.told()
			if what == "start" {
				slices.Sort(got)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s:\n got %q\nwant %q", what, got, want)
			}
		}
		step("start", "create default", "create kube-node-lease", "create kube-public", "create kube-system")
		w.c.Mark(loop.Key{Name: "shop"})
		step("a namespace that stays is left alone")

		w.mu.Lock()
		ns := w.ns["shop"].DeepCopy()
		now := metav1.Now()
		ns.DeletionTimestamp = &now
		w.ns["shop"] = ns
		w.contents = []Content{{Kind: configKind, Count: 3, Staying: 3}, {Kind: leaseKind, Count: 1, Staying: 1, Finalizers: map[string]int{"a/b": 1}}, {Kind: podKind, Count: 1, Staying: 1}}
		w.mu.Unlock()
		w.c.Mark(loop.Key{Name: "shop"})
		step("pods are asked to go, and the rest waits", "delete pods", "SomeResourcesRemain", "SomeFinalizersRemain")
		w.c.ContentChanged("shop")
		step("nothing is said twice")
		w.lose(podKind)
		step("the rest goes, but what a finalizer holds", "delete configmaps", "delete leases", "SomeResourcesRemain", "SomeFinalizersRemain")
		w.lose(leaseKind)
		step("the empty namespace is let go, and only our finalizer goes", "finalize shop[own]")
		w.mu.Lock()
		delete(w.ns, "kube-public")
		w.mu.Unlock()
		w.c.Mark(loop.Key{Name: "kube-public"})
		step("a missing system namespace comes back", "create kube-public")
	})
}

func TestAFailureIsToldAndRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := metav1.Now()
		w := &town{fail: errors.New("disk full"), ns: map[string]*corev1.Namespace{"shop": {
			ObjectMeta: metav1.ObjectMeta{Name: "shop", DeletionTimestamp: &now}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
		}}, contents: []Content{{Kind: configKind, Count: 1, Staying: 1}}}
		w.c = New(w, w, nil, nil)
		err := w.c.Reconcile(t.Context(), loop.Key{Name: "shop"})
		if err == nil || !strings.Contains(err.Error(), "delete configmaps: disk full") {
			t.Error(err)
		}
		if got := w.told(); !slices.Equal(got, []string{"delete configmaps", "ContentDeletionFailed", "SomeResourcesRemain"}) {
			t.Errorf("%q", got)
		}
	})
}
