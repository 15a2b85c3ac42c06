package apps

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/resource"
)

// manifest reads one of those that people begin with.
func manifest[T any](t *testing.T, name string) *T {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../../test/manifests", name))
	if err != nil {
		t.Fatal(err)
	}
	o := new(T)
	if err := yaml.UnmarshalStrict(data, o); err != nil {
		t.Fatal(err)
	}
	return o
}

func newDeployment(t *testing.T) *appsv1.Deployment {
	d := manifest[appsv1.Deployment](t, "deployment-nginx.yaml")
	Deployment().Default(d)
	return d
}

func newReplicaSet(t *testing.T) *appsv1.ReplicaSet {
	rs := manifest[appsv1.ReplicaSet](t, "replicaset-nginx.yaml")
	ReplicaSet().Default(rs)
	return rs
}

func text(errs field.ErrorList) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

func TestTheManifestsAreDefaultedAndValid(t *testing.T) {
	d := newDeployment(t)
	if errs := Deployment().Validate(d); len(errs) > 0 {
		t.Error(text(errs))
	}
	s := d.Spec
	if *s.RevisionHistoryLimit != 10 || *s.ProgressDeadlineSeconds != 600 || s.Strategy.Type != "RollingUpdate" ||
		s.Strategy.RollingUpdate.MaxSurge.StrVal != "25%" || s.Strategy.RollingUpdate.MaxUnavailable.StrVal != "25%" || s.Template.Spec.RestartPolicy != "Always" {
		t.Errorf("%+v", s)
	}
	if errs := ReplicaSet().Validate(newReplicaSet(t)); len(errs) > 0 {
		t.Error(text(errs))
	}
	recreate := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Strategy: appsv1.DeploymentStrategy{Type: "Recreate"}}}
	if Deployment().Default(recreate); recreate.Spec.Strategy.RollingUpdate != nil || *recreate.Spec.Replicas != 1 {
		t.Errorf("%+v", recreate.Spec)
	}
}

func TestDeploymentsThatAreWrong(t *testing.T) {
	percent := func(s string) *intstr.IntOrString { return new(intstr.FromString(s)) }
	number := func(n int) *intstr.IntOrString { return new(intstr.FromInt(n)) }
	for name, c := range map[string]struct {
		change func(*appsv1.DeploymentSpec)
		want   string
	}{
		"no selector": {
			func(s *appsv1.DeploymentSpec) { s.Selector = nil },
			"spec.selector: Required value\nspec.template.metadata.labels: Invalid value: {\"app\":\"my-nginx\"}: `selector` does not match template `labels`",
		},
		"an empty selector": {
			func(s *appsv1.DeploymentSpec) { s.Selector = &metav1.LabelSelector{} },
			"spec.selector: Invalid value: {}: empty selector is invalid for deployment",
		},
		"a selector that does not match": {
			func(s *appsv1.DeploymentSpec) { s.Template.Labels["app"] = "other" },
			"spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`",
		},
		"negative replicas": {
			func(s *appsv1.DeploymentSpec) { s.Replicas = new(int32(-1)) },
			"spec.replicas: Invalid value: -1: must be greater than or equal to 0",
		},
		"neither surge nor unavailable": {
			func(s *appsv1.DeploymentSpec) {
				s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: number(0), MaxUnavailable: percent("0%")}
			},
			"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
		},
		"more than all unavailable": {
			func(s *appsv1.DeploymentSpec) { s.Strategy.RollingUpdate.MaxUnavailable = percent("101%") },
			`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`,
		},
		"a surge of no sense": {
			func(s *appsv1.DeploymentSpec) { s.Strategy.RollingUpdate.MaxSurge = percent("many") },
			`spec.strategy.rollingUpdate.maxSurge: Invalid value: "many": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')`,
		},
		"a negative surge": {
			func(s *appsv1.DeploymentSpec) { s.Strategy.RollingUpdate.MaxSurge = number(-1) },
			"spec.strategy.rollingUpdate.maxSurge: Invalid value: -1: must be greater than or equal to 0",
		},
		"Recreate with the settings of the other": {
			func(s *appsv1.DeploymentSpec) { s.Strategy.Type = "Recreate" },
			"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
		},
		"a strategy that does not exist": {
			func(s *appsv1.DeploymentSpec) { s.Strategy = appsv1.DeploymentStrategy{Type: "BlueGreen"} },
			`spec.strategy: Unsupported value: {"Type":"BlueGreen","RollingUpdate":null}: supported values: "Recreate", "RollingUpdate"`,
		},
		"a deadline that readiness alone takes": {
			func(s *appsv1.DeploymentSpec) { s.MinReadySeconds = 600 },
			"spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
		},
		"negative history": {
			func(s *appsv1.DeploymentSpec) { s.RevisionHistoryLimit = new(int32(-1)) },
			"spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
		},
		"pods that end": {
			func(s *appsv1.DeploymentSpec) { s.Template.Spec.RestartPolicy = "Never" },
			`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`,
		},
		"pods with a deadline": {
			func(s *appsv1.DeploymentSpec) { s.Template.Spec.ActiveDeadlineSeconds = new(int64(1)) },
			"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
		},
		"a container without an image": {
			func(s *appsv1.DeploymentSpec) { s.Template.Spec.Containers[0].Image = "" },
			"spec.template.spec.containers[0].image: Required value",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDeployment(t)
			c.change(&d.Spec)
			if got := text(Deployment().Validate(d)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestASelectorStays(t *testing.T) {
	const want = `spec.selector: Invalid value: {"matchLabels":{"app":"other"}}: field is immutable`
	d, rs := newDeployment(t), newReplicaSet(t)
	changed, changedSet := d.DeepCopy(), rs.DeepCopy()
	changed.Spec.Selector.MatchLabels["app"], changedSet.Spec.Selector.MatchLabels["app"] = "other", "other"
	if got := text(Deployment().ValidateUpdate(changed, d)); got != want {
		t.Error(got)
	}
	if got := text(ReplicaSet().ValidateUpdate(changedSet, rs)); got != want {
		t.Error(got)
	}
}

func TestGenerationsCountWhatAnUpdateMeans(t *testing.T) {
	k := Deployment()
	for name, c := range map[string]struct {
		change func(*appsv1.Deployment)
		counts bool
	}{
		"nothing":     {func(*appsv1.Deployment) {}, false},
		"labels":      {func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} }, false},
		"annotations": {func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }, true},
		"an image":    {func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "x" }, true},
		"the status":  {func(d *appsv1.Deployment) { d.Status.Replicas = 7 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			old := newDeployment(t)
			old.Generation = 3
			next := old.DeepCopy()
			c.change(next)
			k.PrepareUpdate(next, old)
			if (next.Generation == 4) != c.counts || next.Status.Replicas != 0 {
				t.Errorf("generation %d, status %+v", next.Generation, next.Status)
			}
		})
	}
}

func TestStatusesThatAreWrong(t *testing.T) {
	for want, s := range map[string]appsv1.DeploymentStatus{
		"": {Replicas: 3, UpdatedReplicas: 3, ReadyReplicas: 2, AvailableReplicas: 1},
		"status.updatedReplicas: Invalid value: 4: cannot be greater than status.replicas": {Replicas: 3, UpdatedReplicas: 4},
		"status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas": {Replicas: 3, ReadyReplicas: 2, AvailableReplicas: 3},
		"status.collisionCount: Invalid value: 0: cannot be decremented":                   {CollisionCount: new(int32(0))},
	} {
		old := &appsv1.Deployment{}
		if strings.Contains(want, "collision") {
			old.Status.CollisionCount = new(int32(1))
		}
		if got := text(Deployment().Status.ValidateUpdate(&appsv1.Deployment{Status: s}, old)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestRowsAndScales(t *testing.T) {
	now := time.Unix(1000, 0)
	d := newDeployment(t)
	d.CreationTimestamp = metav1.Unix(940, 0)
	d.Status = appsv1.DeploymentStatus{Replicas: 4, UpdatedReplicas: 2, ReadyReplicas: 1, AvailableReplicas: 1}
	row := Deployment().Row(d, now)
	for i, want := range []any{"my-nginx-deployment", "1/3", int64(2), int64(1), "60s", "nginx", "nginx:1.10", "app=my-nginx"} {
		if row[i] != want {
			t.Errorf("column %d: %v, want %v", i, row[i], want)
		}
	}
	for _, k := range []*resource.Kind{Deployment(), ReplicaSet()} {
		var o resource.Object = d
		if k.Kind == "ReplicaSet" {
			o = newReplicaSet(t)
		}
		scale := k.ScaleOf(o)
		scale.Spec.Replicas = 5
		if errs := k.SetScale(o, scale); len(errs) > 0 || k.ScaleOf(o).Spec.Replicas != 5 || !strings.HasPrefix(scale.Status.Selector, "app=my-nginx") {
			t.Errorf("%s: %v, %+v", k.Kind, errs, scale)
		}
		scale.Spec.Replicas = -1
		if got := text(k.SetScale(o, scale)); got != "spec.replicas: Invalid value: -1: must be greater than or equal to 0" {
			t.Error(got)
		}
	}
}

func TestNamesThatMakeBadHostNamesAreWarnedOf(t *testing.T) {
	d := newDeployment(t)
	d.Name = "my.web"
	if w := Deployment().Warnings(d); len(w) != 1 || !strings.HasPrefix(w[0], "metadata.name: this is used in Pod names and hostnames") {
		t.Error(w)
	}
	d.ResourceVersion = "1"
	if w := Deployment().Warnings(d); len(w) != 0 {
		t.Error(w)
	}
	if d.Spec.Template.Spec.Containers[0].Ports[0].Protocol != corev1.ProtocolTCP {
		t.Error("the template is not defaulted as a pod is")
	}
}
