package workload

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func TestBatchesGrowAndStopAtTheFirstRefusal(t *testing.T) {
	for name, c := range map[string]struct{ n, refuse, calls, done int }{
		"nothing to do":            {0, -1, 0, 0},
		"all succeed":              {1000, -1, 1000, 1000},
		"the first is refused":     {1000, 0, 1, 0},
		"one of the third batch":   {1000, 4, 7, 6},
		"the last of a short one":  {5, 4, 5, 4},
		"one just after a batch's": {100, 7, 15, 14},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			refused := errors.New("quota is used up")
			done, err := Batches(c.n, func(i int) error {
				calls.Add(1)
				if i == c.refuse {
					return refused
				}
				return nil
			})
			if int(calls.Load()) != c.calls || done != c.done || (c.refuse >= 0) != errors.Is(err, refused) {
				t.Errorf("%d calls, %d done, %v", calls.Load(), done, err)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	owner := &metav1.ObjectMeta{Name: "rs", Namespace: "ns", UID: "u1"}
	mine, other := metav1.OwnerReference{UID: "u1", Controller: new(true)}, metav1.OwnerReference{UID: "u2", Controller: new(true)}
	web, db := map[string]string{"app": "web"}, map[string]string{"app": "db"}
	now := metav1.Now()
	for name, c := range map[string]struct {
		labels   map[string]string
		owner    *metav1.OwnerReference
		deleting bool // the object
		ending   bool // the owner
		want     string
	}{
		"its own":                              {labels: web, owner: &mine, want: "owned"},
		"its own, being deleted":               {labels: web, owner: &mine, deleting: true, want: "owned"},
		"its own, relabelled":                  {labels: db, owner: &mine, want: "release"},
		"its own, relabelled, owner ends":      {labels: db, owner: &mine, ending: true},
		"another's":                            {labels: web, owner: &other},
		"nobody's":                             {labels: web, want: "adopt"},
		"nobody's, being deleted":              {labels: web, deleting: true},
		"nobody's, owner ends":                 {labels: web, ending: true},
		"nobody's, with other labels":          {labels: db},
		"one that has an owner, no controller": {labels: web, owner: &metav1.OwnerReference{UID: "u3"}, want: "adopt"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Labels: c.labels}}
			if c.owner != nil {
				p.OwnerReferences = []metav1.OwnerReference{*c.owner}
			}
			if c.deleting {
				p.DeletionTimestamp = &now
			}
			o := owner.DeepCopy()
			if c.ending {
				o.DeletionTimestamp = &now
			}
			claims := Claim(o, labels.SelectorFromSet(web), []*corev1.Pod{p})
			got := ""
			for is, list := range map[string][]*corev1.Pod{"owned": claims.Owned, "adopt": claims.Adopt, "release": claims.Release} {
				if len(list) > 0 {
					got += is
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestAvailableAfterSomeTimeOfReadiness(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		status corev1.ConditionStatus
		since  int64 // seconds before now
		least  int32
		yes    bool
		again  time.Duration
	}{
		"ready at once":         {corev1.ConditionTrue, 0, 0, true, 0},
		"not ready":             {corev1.ConditionFalse, 100, 10, false, 0},
		"ready, not for long":   {corev1.ConditionTrue, 4, 10, false, 6 * time.Second},
		"ready for long enough": {corev1.ConditionTrue, 10, 10, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{
				Type: corev1.PodReady, Status: c.status, LastTransitionTime: metav1.Unix(1000-c.since, 0),
			}}}}
			if yes, again := Available(p, c.least, now); yes != c.yes || again != c.again {
				t.Errorf("%t, %s", yes, again)
			}
		})
	}
	if yes, _ := Available(&corev1.Pod{}, 0, now); yes {
		t.Error("a pod without the condition is available")
	}
}

func TestAHashTellsTemplatesApart(t *testing.T) {
	template := &corev1.PodTemplateSpec{}
	one, two := Hash(template, nil), Hash(template, new(int32(1)))
	if one == two || one != Hash(template.DeepCopy(), nil) {
		t.Errorf("%s, after a collision %s", one, two)
	}
	template.Spec.NodeName = "n"
	if Hash(template, nil) == one {
		t.Error("another template has the same hash")
	}
}

func TestAPodIsItsTemplatesAndItsOwners(t *testing.T) {
	owner := &metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: types.UID("u")}
	template := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Finalizers: []string{"x.org/y"}}}
	p := NewPod(owner, corev1.SchemeGroupVersion.WithKind("ReplicationController"), template)
	p.Labels["a"] = "c"
	ref := p.OwnerReferences[0]
	if template.Labels["a"] != "b" || p.Namespace != "ns" || p.GenerateName != "web-" || ref.UID != "u" || !*ref.Controller || !*ref.BlockOwnerDeletion || len(p.Finalizers) != 1 {
		t.Errorf("%+v", p.ObjectMeta)
	}
}
