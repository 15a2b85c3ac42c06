package admission_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/admission"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/node"
	"sampan.dev/internal/resource/scheduling"
	"sampan.dev/internal/resource/storage"
	"sampan.dev/internal/store"
)

// fixed is a store with the objects that a test begins with, and those that it sends after.
type fixed struct {
	store.Store
	records []store.Record
	later   chan []store.Event
}

func (f *fixed) List(context.Context, string) ([]store.Record, int64, error) {
	return f.records, store.First + int64(len(f.records)), nil
}

func (f *fixed) Watch(ctx context.Context, _ string, after int64) (<-chan []store.Event, func() error, error) {
	if after < store.First+int64(len(f.records)) {
		return nil, nil, store.ErrCompacted
	}
	out := make(chan []store.Event)
	go func() {
		defer close(out)
		for {
			select {
			case batch := <-f.later:
				out <- batch
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, ctx.Err, nil
}

// chain is all steps over a state that holds the objects.
type chain struct {
	t     *testing.T
	table *resource.Table
	store *fixed
	steps []admission.Step
}

func newChain(t *testing.T, objects ...resource.Object) *chain {
	t.Helper()
	c := &chain{t: t, table: resource.New(slices.Concat(core.Kinds(), node.Kinds(), scheduling.Kinds(), storage.Kinds())...), store: &fixed{later: make(chan []store.Event)}}
	for i, obj := range objects {
		c.store.records = append(c.store.records, c.record(obj, store.First+int64(i)+1))
	}
	state := cache.New(c.table, c.store, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- state.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-state.Ready()
	c.steps = admission.Steps(c.table, state)
	return c
}

func (c *chain) kind(name string) *resource.Kind {
	k, _ := c.table.ByKind(corev1.SchemeGroupVersion.WithKind(name))
	if k == nil {
		k, _ = c.table.ByKind(nodev1.SchemeGroupVersion.WithKind(name))
	}
	if k == nil {
		k, _ = c.table.ByKind(storagev1.SchemeGroupVersion.WithKind(name))
	}
	return k
}

func (c *chain) record(obj resource.Object, revision int64) store.Record {
	c.t.Helper()
	gvks, _, err := c.table.Scheme().ObjectKinds(obj)
	if err != nil {
		c.t.Fatal(err)
	}
	value, err := c.table.Encode(obj)
	if err != nil {
		c.t.Fatal(err)
	}
	return store.Record{Key: c.kind(gvks[0].Kind).Key(obj.GetNamespace(), obj.GetName()), Value: value, Revision: revision, Created: revision}
}

func (c *chain) admit(a admission.Attributes) error {
	for _, s := range c.steps {
		if err := s.Admit(c.t.Context(), &a); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) create(p *corev1.Pod) error {
	return c.admit(admission.Attributes{Operation: admission.Create, Kind: c.kind("Pod"), Namespace: p.Namespace, Name: p.Name, Object: p})
}

func namespace(name string, phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: phase}}
}

func account(ns, name string, secrets ...string) *corev1.ServiceAccount {
	a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	for _, s := range secrets {
		a.ImagePullSecrets = append(a.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
	}
	return a
}

func pod(ns string, change func(*corev1.PodSpec)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func TestWhatIsRefused(t *testing.T) {
	c := newChain(t,
		namespace("there", corev1.NamespaceActive), namespace("ending", corev1.NamespaceTerminating),
		account("there", "default"), account("ending", "default"))
	of := func(op admission.Operation, kind, ns, name string) error {
		return c.admit(admission.Attributes{Operation: op, Kind: c.kind(kind), Namespace: ns, Name: name})
	}
	for _, tc := range []struct {
		name   string
		err    error
		reason metav1.StatusReason
		want   string // all of it; empty: nothing is refused
	}{
		{"a config map in a namespace", of(admission.Create, "ConfigMap", "there", "c"), "", ""},
		{"in none that is there", of(admission.Create, "ConfigMap", "nowhere", "c"), metav1.StatusReasonNotFound, `namespaces "nowhere" not found`},
		{
			"in one that is ending", of(admission.Create, "ConfigMap", "ending", "c"), metav1.StatusReasonForbidden,
			`configmaps "c" is forbidden: unable to create new content in namespace ending because it is being terminated`,
		},
		{"an update there", of(admission.Update, "ConfigMap", "ending", "c"), "", ""},
		{"a delete there", of(admission.Delete, "ConfigMap", "ending", "c"), "", ""},
		{"a node", of(admission.Create, "Node", "", "n"), "", ""},
		{"a new namespace", of(admission.Create, "Namespace", "", "new"), "", ""},
		{"the end of a namespace", of(admission.Delete, "Namespace", "", "there"), "", ""},
		{"of default", of(admission.Delete, "Namespace", "", "default"), metav1.StatusReasonForbidden, `namespaces "default" is forbidden: this namespace may not be deleted`},
		{"of kube-system", of(admission.Delete, "Namespace", "", "kube-system"), metav1.StatusReasonForbidden, `namespaces "kube-system" is forbidden: this namespace may not be deleted`},
		{"of kube-public", of(admission.Delete, "Namespace", "", "kube-public"), metav1.StatusReasonForbidden, `namespaces "kube-public" is forbidden: this namespace may not be deleted`},
		{"of kube-node-lease", of(admission.Delete, "Namespace", "", "kube-node-lease"), "", ""},
		{"a pod", c.create(pod("there", nil)), "", ""},
		{
			"a pod of a service account that is not there", c.create(pod("there", func(s *corev1.PodSpec) { s.ServiceAccountName = "ghost" })), metav1.StatusReasonForbidden,
			`pods "p" is forbidden: error looking up service account there/ghost: serviceaccount "ghost" not found`,
		},
		{
			"a pod of a class that is not there", c.create(pod("there", func(s *corev1.PodSpec) { s.PriorityClassName = "high" })), metav1.StatusReasonForbidden,
			`pods "p" is forbidden: no PriorityClass with name high was found`,
		},
		{
			"a pod that says its own priority", c.create(pod("there", func(s *corev1.PodSpec) { s.Priority = new(int32(7)) })), metav1.StatusReasonForbidden,
			`pods "p" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name`,
		},
	} {
		if tc.want == "" {
			if tc.err != nil {
				t.Errorf("%s: %v", tc.name, tc.err)
			}
			continue
		}
		var status *apierrors.StatusError
		if !errors.As(tc.err, &status) || status.ErrStatus.Reason != tc.reason || status.Error() != tc.want {
			t.Errorf("%s: %v\nwant %s", tc.name, tc.err, tc.want)
		}
		if strings.Contains(tc.want, "being terminated") && !apierrors.HasStatusCause(tc.err, corev1.NamespaceTerminatingCause) {
			t.Errorf("%s: no cause says so to programs", tc.name)
		}
	}
}

func TestWhatAPodIsGiven(t *testing.T) {
	c := newChain(t, namespace("ns", corev1.NamespaceActive), account("ns", "default"), account("ns", "puller", "s1", "s2"))
	lasting := corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	short := corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(7))}
	elsewhere := corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}
	for _, tc := range []struct {
		name     string
		change   func(*corev1.PodSpec)
		account  string
		secrets  []string
		priority int32
		seconds  map[string]int64 // of tolerations of NoExecute; -1: for ever
	}{
		{"nothing said", nil, "default", nil, 0, map[string]int64{corev1.TaintNodeNotReady: 30, corev1.TaintNodeUnreachable: 30}},
		{"an account with secrets", func(s *corev1.PodSpec) { s.ServiceAccountName = "puller" }, "puller", []string{"s1", "s2"}, 0, map[string]int64{corev1.TaintNodeNotReady: 30, corev1.TaintNodeUnreachable: 30}},
		{"secrets of its own", func(s *corev1.PodSpec) {
			s.ServiceAccountName, s.ImagePullSecrets = "puller", []corev1.LocalObjectReference{{Name: "mine"}}
		}, "puller", []string{"mine"}, 0, map[string]int64{corev1.TaintNodeNotReady: 30, corev1.TaintNodeUnreachable: 30}},
		{"critical to the cluster", func(s *corev1.PodSpec) { s.PriorityClassName = "system-cluster-critical" }, "default", nil, 2000000000, map[string]int64{corev1.TaintNodeNotReady: 30, corev1.TaintNodeUnreachable: 30}},
		{"critical to a node", func(s *corev1.PodSpec) {
			s.PriorityClassName, s.Priority = "system-node-critical", new(int32(2000001000))
		}, "default", nil, 2000001000, map[string]int64{corev1.TaintNodeNotReady: 30, corev1.TaintNodeUnreachable: 30}},
		{"tolerations of its own", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{lasting, short} }, "default", nil, 0, map[string]int64{corev1.TaintNodeNotReady: -1, corev1.TaintNodeUnreachable: 7}},
		{"a toleration of everything", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }, "default", nil, 0, map[string]int64{}},
		{"a toleration of another effect", func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{elsewhere} }, "default", nil, 0, map[string]int64{corev1.TaintNodeNotReady: 30, corev1.TaintNodeUnreachable: 30}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := pod("ns", tc.change)
			if err := c.create(p); err != nil {
				t.Fatal(err)
			}
			if p.Spec.ServiceAccountName != tc.account || p.Spec.DeprecatedServiceAccount != tc.account {
				t.Errorf("account %q and %q", p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount)
			}
			var secrets []string
			for _, s := range p.Spec.ImagePullSecrets {
				secrets = append(secrets, s.Name)
			}
			if !slices.Equal(secrets, tc.secrets) {
				t.Errorf("secrets %v", secrets)
			}
			if *p.Spec.Priority != tc.priority || *p.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
				t.Errorf("priority %d, %s", *p.Spec.Priority, *p.Spec.PreemptionPolicy)
			}
			n := 0
			for _, tol := range p.Spec.Tolerations {
				if tol.Effect != corev1.TaintEffectNoExecute {
					continue
				}
				n++
				seconds := int64(-1)
				if tol.TolerationSeconds != nil {
					seconds = *tol.TolerationSeconds
				}
				if want, ok := tc.seconds[tol.Key]; !ok || want != seconds {
					t.Errorf("%s for %d s", tol.Key, seconds)
				}
			}
			if n != len(tc.seconds) {
				t.Errorf("tolerations %v", p.Spec.Tolerations)
			}
		})
	}
}

func TestAPodWaitsForTheAccountOfANewNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t, namespace("new", corev1.NamespaceActive))
		made := make(chan error, 1)
		go func() { made <- c.create(pod("new", nil)) }()
		time.Sleep(time.Second)
		c.store.later <- []store.Event{{Record: c.record(account("new", "default"), 3)}}
		if err := <-made; err != nil {
			t.Errorf("an account that comes within the time: %v", err)
		}

		started := time.Now()
		p := pod("new", func(s *corev1.PodSpec) { s.ServiceAccountName = "other" })
		if err := c.create(p); !apierrors.IsForbidden(err) || time.Since(started) != 0 {
			t.Errorf("an account that nobody makes is not waited for: %v after %v", err, time.Since(started))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t, namespace("new", corev1.NamespaceActive))
		err := c.create(pod("new", nil))
		if want := `pods "p" is forbidden: error looking up service account new/default: serviceaccount "default" not found`; err == nil || err.Error() != want {
			t.Errorf("an account that does not come: %v", err)
		}
	})
}
