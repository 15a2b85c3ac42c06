package apps

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func newDaemonSet() *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"},
		Spec:       appsv1.DaemonSetSpec{Selector: metav1.SetAsLabelSelector(map[string]string{"app": "web"}), Template: webTemplate()},
	}
	DaemonSet().Default(ds)
	return ds
}

func TestADaemonSetIsDefaulted(t *testing.T) {
	ds := newDaemonSet()
	r := ds.Spec.UpdateStrategy.RollingUpdate
	if ds.Spec.UpdateStrategy.Type != "RollingUpdate" || r.MaxUnavailable.IntVal != 1 || *r.MaxSurge != intstr.FromInt32(0) || *ds.Spec.RevisionHistoryLimit != 10 {
		t.Errorf("%+v", ds.Spec)
	}
	if errs := DaemonSet().Validate(ds); len(errs) > 0 {
		t.Error(text(errs))
	}
}

func TestDaemonSetsThatAreWrong(t *testing.T) {
	rolling := func(unavailable, surge intstr.IntOrString) func(*appsv1.DaemonSetSpec) {
		return func(s *appsv1.DaemonSetSpec) {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &unavailable, MaxSurge: &surge}
		}
	}
	for name, c := range map[string]struct {
		change func(*appsv1.DaemonSetSpec)
		want   string
	}{
		"no selector": {
			func(s *appsv1.DaemonSetSpec) { s.Selector = nil },
			"spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
		},
		"an empty selector": {
			func(s *appsv1.DaemonSetSpec) { s.Selector = &metav1.LabelSelector{} },
			"spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
		},
		"pods that end": {
			func(s *appsv1.DaemonSetSpec) {
				s.Template.Spec.RestartPolicy, s.Template.Spec.ActiveDeadlineSeconds = "OnFailure", new(int64(1))
			},
			"spec.template.spec.restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\"\n" +
				"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
		},
		"neither surge nor unavailable": {
			rolling(intstr.FromInt32(0), intstr.FromString("0%")),
			"spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
		},
		"both": {
			rolling(intstr.FromInt32(1), intstr.FromString("10%")),
			`spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "10%": may not be set when maxUnavailable is non-zero`,
		},
		"more than all": {
			rolling(intstr.FromInt32(0), intstr.FromString("101%")),
			`spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "101%": must not be greater than 100%`,
		},
		"a negative number": {
			rolling(intstr.FromInt32(-1), intstr.FromInt32(0)),
			"spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
		},
		"a strategy that does not exist": {
			func(s *appsv1.DaemonSetSpec) { s.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: "Surge"} },
			`spec.updateStrategy: Unsupported value: {"Type":"Surge","RollingUpdate":null}: supported values: "RollingUpdate", "OnDelete"`,
		},
		"negative history and readiness": {
			func(s *appsv1.DaemonSetSpec) { s.RevisionHistoryLimit, s.MinReadySeconds = new(int32(-1)), -1 },
			"spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0\nspec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			ds := newDaemonSet()
			c.change(&ds.Spec)
			if got := text(DaemonSet().Validate(ds)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	next := newDaemonSet()
	next.Spec.Selector.MatchLabels["app"] = "x"
	if got := text(DaemonSet().ValidateUpdate(next, newDaemonSet())); got != `spec.selector: Invalid value: {"matchLabels":{"app":"x"}}: field is immutable` {
		t.Error(got)
	}
}

func TestADaemonSetCountsItsTemplates(t *testing.T) {
	const note = appsv1.DeprecatedTemplateGeneration
	k, ds := DaemonSet(), newDaemonSet()
	if k.PrepareCreate(ds); ds.Generation != 1 || ds.Annotations[note] != "1" {
		t.Errorf("%+v", ds.ObjectMeta)
	}
	for name, c := range map[string]struct {
		change               func(*appsv1.DaemonSet)
		generation, template string
	}{
		"nothing":             {func(*appsv1.DaemonSet) {}, "1", "1"},
		"the note itself":     {func(ds *appsv1.DaemonSet) { ds.Annotations = map[string]string{note: "77"} }, "1", "1"},
		"the note is left":    {func(ds *appsv1.DaemonSet) { ds.Annotations = nil }, "1", "1"},
		"the strategy":        {func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 3 }, "2", "1"},
		"the template":        {func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = "x" }, "2", "2"},
		"the template and it": {func(ds *appsv1.DaemonSet) { ds.Annotations = nil; ds.Spec.Template.Labels["x"] = "y" }, "2", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			next := ds.DeepCopy()
			c.change(next)
			k.PrepareUpdate(next, ds)
			if got := string(rune('0' + next.Generation)); got != c.generation || next.Annotations[note] != c.template || ds.Annotations[note] != "1" {
				t.Errorf("generation %s, of the template %s", got, next.Annotations[note])
			}
		})
	}
}

func TestDaemonSetRowsAndStatuses(t *testing.T) {
	k, ds := DaemonSet(), newDaemonSet()
	ds.CreationTimestamp = metav1.Unix(940, 0)
	ds.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 5, CurrentNumberScheduled: 4, NumberReady: 3, UpdatedNumberScheduled: 2, NumberAvailable: 1}
	row := k.Row(ds, time.Unix(1000, 0))
	names := []string{"Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age", "Containers", "Images", "Selector"}
	for i, want := range []any{"web", int64(5), int64(4), int64(3), int64(2), int64(1), "<none>", "60s", "main", "nginx", "app=web"} {
		if row[i] != want || k.Columns[i].Name != names[i] || (k.Columns[i].Priority == 1) != (i > 7) {
			t.Errorf("column %s: %v, want %v", k.Columns[i].Name, row[i], want)
		}
	}
	old := &appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{CollisionCount: new(int32(1))}}
	const want = "status.numberReady: Invalid value: -1: must be greater than or equal to 0\nstatus.collisionCount: Invalid value: 0: cannot be decremented"
	if got := text(k.Status.ValidateUpdate(&appsv1.DaemonSet{Status: appsv1.DaemonSetStatus{NumberReady: -1}}, old)); got != want {
		t.Error(got)
	}
}

func TestControllerRevisions(t *testing.T) {
	k := ControllerRevision()
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", CreationTimestamp: metav1.Unix(940, 0), OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(&metav1.ObjectMeta{Name: "web"}, gvk("StatefulSet")),
		}},
		Data: runtime.RawExtension{Raw: []byte(`{"a": 1}`)}, Revision: 3,
	}
	row := k.Row(r, time.Unix(1000, 0))
	for i, want := range []any{"web-1", "statefulset.apps/web", int64(3), "60s"} {
		if row[i] != want {
			t.Errorf("column %d: %v, want %v", i, row[i], want)
		}
	}
	if bare := k.Row(&appsv1.ControllerRevision{}, time.Now()); bare[1] != "<none>" {
		t.Error(bare)
	}
	if errs := k.Validate(r); len(errs) > 0 {
		t.Error(text(errs))
	}
	const want = "data: Required value: data is mandatory\nrevision: Invalid value: -1: must be greater than or equal to 0"
	for _, raw := range [][]byte{nil, []byte("null")} {
		if got := text(k.Validate(&appsv1.ControllerRevision{Revision: -1, Data: runtime.RawExtension{Raw: raw}})); got != want {
			t.Errorf("%q: %s", raw, got)
		}
	}
	for raw, same := range map[string]bool{`{"a":1}`: true, `{"a":2}`: false} {
		next := r.DeepCopy()
		next.Data.Raw, next.Revision = []byte(raw), 4
		if errs := k.ValidateUpdate(next, r); (len(errs) == 0) != same || !same && errs[0].Detail != "field is immutable" {
			t.Errorf("%s: %s", raw, text(errs))
		}
	}
}
