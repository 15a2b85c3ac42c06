package apps

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func webTemplate() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "nginx"}}},
	}
}

func newStatefulSet() *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"},
		Spec:       appsv1.StatefulSetSpec{ServiceName: "web", Selector: metav1.SetAsLabelSelector(map[string]string{"app": "web"}), Template: webTemplate()},
	}
	StatefulSet().Default(s)
	return s
}

func TestAStatefulSetIsDefaulted(t *testing.T) {
	s := newStatefulSet()
	r, p := s.Spec.UpdateStrategy.RollingUpdate, s.Spec.PersistentVolumeClaimRetentionPolicy
	if s.Spec.PodManagementPolicy != "OrderedReady" || s.Spec.UpdateStrategy.Type != "RollingUpdate" || *r.Partition != 0 || r.MaxUnavailable.IntVal != 1 ||
		*s.Spec.Replicas != 1 || *s.Spec.RevisionHistoryLimit != 10 || p.WhenDeleted != "Retain" || p.WhenScaled != "Retain" {
		t.Errorf("%+v", s.Spec)
	}
	if errs := StatefulSet().Validate(s); len(errs) > 0 {
		t.Error(text(errs))
	}
	named := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: "RollingUpdate"}}}
	if StatefulSet().Default(named); named.Spec.UpdateStrategy.RollingUpdate != nil {
		t.Error("a strategy that is named without settings gets some")
	}
	claims := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{}}}}
	StatefulSet().Default(claims)
	if c := claims.Spec.VolumeClaimTemplates[0]; *c.Spec.VolumeMode != "Filesystem" || c.Status.Phase != "Pending" {
		t.Errorf("%+v", c)
	}
}

func TestStatefulSetsThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*appsv1.StatefulSetSpec)
		want   string
	}{
		"no selector": {
			func(s *appsv1.StatefulSetSpec) { s.Selector = nil },
			"spec.selector: Required value\nspec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
		},
		"an empty selector": {
			func(s *appsv1.StatefulSetSpec) { s.Selector = &metav1.LabelSelector{} },
			"spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
		},
		"a selector that does not match": {
			func(s *appsv1.StatefulSetSpec) { s.Template.Labels = map[string]string{"app": "x"} },
			"spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
		},
		"a policy that does not exist": {
			func(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = "Chaos" },
			`spec.podManagementPolicy: Invalid value: "Chaos": must be 'OrderedReady' or 'Parallel'`,
		},
		"a strategy that does not exist": {
			func(s *appsv1.StatefulSetSpec) {
				s.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: "Recreate"}
			},
			`spec.updateStrategy: Invalid value: {"Type":"Recreate","RollingUpdate":null}: must be 'RollingUpdate' or 'OnDelete'`,
		},
		"OnDelete with the settings of the other": {
			func(s *appsv1.StatefulSetSpec) { s.UpdateStrategy.Type = "OnDelete" },
			`spec.updateStrategy.rollingUpdate: Invalid value: {"Partition":0,"MaxUnavailable":1}: only allowed for updateStrategy 'RollingUpdate'`,
		},
		"a negative partition": {
			func(s *appsv1.StatefulSetSpec) { s.UpdateStrategy.RollingUpdate.Partition = new(int32(-1)) },
			"spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
		},
		"none unavailable": {
			func(s *appsv1.StatefulSetSpec) {
				s.UpdateStrategy.RollingUpdate.MaxUnavailable = new(intstr.FromInt32(0))
			},
			"spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
		},
		"more than all unavailable": {
			func(s *appsv1.StatefulSetSpec) {
				s.UpdateStrategy.RollingUpdate.MaxUnavailable = new(intstr.FromString("101%"))
			},
			`spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`,
		},
		"negative numbers": {
			func(s *appsv1.StatefulSetSpec) {
				s.Replicas, s.MinReadySeconds, s.Ordinals = new(int32(-1)), -1, &appsv1.StatefulSetOrdinals{Start: -1}
			},
			"spec.replicas: Invalid value: -1: must be greater than or equal to 0\nspec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0\n" +
				"spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
		},
		"claims are to be retained in a way that does not exist": {
			func(s *appsv1.StatefulSetSpec) { s.PersistentVolumeClaimRetentionPolicy.WhenScaled = "Maybe" },
			`spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Maybe": supported values: "Retain", "Delete"`,
		},
		"a service's name that is none": {
			func(s *appsv1.StatefulSetSpec) { s.ServiceName = "a.b" },
			`spec.serviceName: Invalid value: "a.b": must not contain dots`,
		},
		"pods that end": {
			func(s *appsv1.StatefulSetSpec) {
				s.Template.Spec.RestartPolicy, s.Template.Spec.ActiveDeadlineSeconds = "Never", new(int64(1))
			},
			"spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"\n" +
				"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported",
		},
		"a container without an image": {
			func(s *appsv1.StatefulSetSpec) { s.Template.Spec.Containers[0].Image = "" },
			"spec.template.spec.containers[0].image: Required value",
		},
		"a mount of nothing": {
			func(s *appsv1.StatefulSetSpec) {
				s.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
			},
			`spec.template.spec.containers[0].volumeMounts[0].name: Not found: "data"`,
		},
		"a claim of nothing": {
			func(s *appsv1.StatefulSetSpec) {
				s.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
			},
			"spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required\n" +
				"spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStatefulSet()
			c.change(&s.Spec)
			if got := text(StatefulSet().Validate(s)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAMountMayNameAClaim(t *testing.T) {
	s := newStatefulSet()
	s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": apiresource.MustParse("1Gi")}},
	}}}
	before := s.DeepCopy()
	if errs := StatefulSet().Validate(s); len(errs) > 0 {
		t.Error(text(errs))
	}
	if len(s.Spec.Template.Spec.Volumes) != len(before.Spec.Template.Spec.Volumes) {
		t.Error("validation changes the template")
	}
}

func TestWhatMayChangeOfAStatefulSet(t *testing.T) {
	const no = "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', " +
		"'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
	for name, c := range map[string]struct {
		change func(*appsv1.StatefulSetSpec)
		want   string
	}{
		"all that may": {func(s *appsv1.StatefulSetSpec) {
			s.Replicas, s.Ordinals, s.MinReadySeconds, s.RevisionHistoryLimit = new(int32(7)), &appsv1.StatefulSetOrdinals{Start: 5}, 9, new(int32(2))
			s.Template.Spec.Containers[0].Image = "other"
			s.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: "OnDelete"}
			s.PersistentVolumeClaimRetentionPolicy.WhenDeleted = "Delete"
		}, ""},
		"the selector": {func(s *appsv1.StatefulSetSpec) { s.Selector.MatchLabels["x"] = "y" }, no},
		"the service":  {func(s *appsv1.StatefulSetSpec) { s.ServiceName = "other" }, no},
		"the policy":   {func(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = "Parallel" }, no},
		"the claims": {func(s *appsv1.StatefulSetSpec) {
			s.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
		}, no},
	} {
		t.Run(name, func(t *testing.T) {
			old := newStatefulSet()
			next := old.DeepCopy()
			c.change(&next.Spec)
			if got := text(StatefulSet().ValidateUpdate(next, old)); got != c.want {
				t.Errorf("got %s", got)
			}
			if StatefulSet().PrepareUpdate(next, old); next.Generation != 1 {
				t.Errorf("generation %d", next.Generation)
			}
		})
	}
	stored := newStatefulSet()
	stored.ResourceVersion, stored.Spec.ServiceName = "1", "Not_A_Label"
	if errs := StatefulSet().Validate(stored); len(errs) > 0 {
		t.Errorf("a set from before a rule cannot be updated: %s", text(errs))
	}
}

func TestStatefulSetStatusesRowsAndWarnings(t *testing.T) {
	k := StatefulSet()
	for want, s := range map[string]appsv1.StatefulSetStatus{
		"": {Replicas: 3, ReadyReplicas: 2, AvailableReplicas: 1, CurrentReplicas: 3, UpdatedReplicas: 3, CollisionCount: new(int32(2))},
		"status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas":        {Replicas: 1, CurrentReplicas: 2, CollisionCount: new(int32(2))},
		"status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas": {Replicas: 1, AvailableReplicas: 1, CollisionCount: new(int32(2))},
		"status.collisionCount: Invalid value: 1: cannot be decremented":                          {CollisionCount: new(int32(1))},
	} {
		old := &appsv1.StatefulSet{Status: appsv1.StatefulSetStatus{CollisionCount: new(int32(2))}}
		if got := text(k.Status.ValidateUpdate(&appsv1.StatefulSet{Status: s}, old)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	s := newStatefulSet()
	s.CreationTimestamp, s.Status.ReadyReplicas, s.Spec.Replicas = metav1.Unix(940, 0), 2, new(int32(3))
	row := k.Row(s, time.Unix(1000, 0))
	for i, want := range []any{"web", "2/3", "60s", "main", "nginx"} {
		if row[i] != want || k.Columns[i].Name != []string{"Name", "Ready", "Age", "Containers", "Images"}[i] {
			t.Errorf("column %s: %v, want %v", k.Columns[i].Name, row[i], want)
		}
	}
	scale := k.ScaleOf(s)
	scale.Spec.Replicas = 5
	if errs := k.SetScale(s, scale); len(errs) > 0 || *s.Spec.Replicas != 5 || scale.Status.Selector != "app=web" {
		t.Errorf("%v %+v", errs, scale)
	}
	s.Spec.RevisionHistoryLimit = new(int32(-1))
	if w := k.Warnings(s); len(w) != 1 || w[0] != "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended" {
		t.Error(w)
	}
	if why := k.NameRule("a.b", false); len(why) == 0 {
		t.Error("a name with a dot is taken")
	}
}
