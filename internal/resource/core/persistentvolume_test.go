package core

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func volumeOf(t *testing.T, spec string) *corev1.PersistentVolume {
	t.Helper()
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &v.Spec); err != nil {
		t.Fatal(err)
	}
	defaultPersistentVolume(v)
	return v
}

func claimOf(t *testing.T, spec string) *corev1.PersistentVolumeClaim {
	t.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "c"}}
	if err := yaml.UnmarshalStrict([]byte(spec), &c.Spec); err != nil {
		t.Fatal(err)
	}
	DefaultClaimSpec(&c.Spec)
	return c
}

// firstLines is the errors as lines. Of a diff only the first line is kept: how it looks changes from run to run.
func firstLines(errs field.ErrorList) string {
	var lines []string
	for _, e := range errs {
		line, _, _ := strings.Cut(e.Error(), "\n")
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

const gigabyte = "{capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce]"

func TestVolumesThatAreWrong(t *testing.T) {
	const here = ", nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [a]}]}]}}"
	for name, c := range map[string]struct{ spec, want string }{
		"a directory of a node":                {gigabyte + ", local: {path: /data}" + here + "}", ""},
		"a directory of any node":              {gigabyte + ", hostPath: {path: /data}}", ""},
		"nothing at all":                       {"{}", "spec.accessModes: Required value\nspec.capacity: Required value\nspec.capacity: Unsupported value: null: supported values: \"storage\"\nspec: Required value: must specify a volume type"},
		"a size of nothing":                    {"{capacity: {storage: 0}, accessModes: [ReadWriteOnce], hostPath: {path: /data}}", `spec.capacity[storage]: Invalid value: "0": must be greater than zero`},
		"a mode that does not exist":           {"{capacity: {storage: 1}, accessModes: [Sometimes], hostPath: {path: /data}}", `spec.accessModes: Unsupported value: "Sometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`},
		"one pod, and many":                    {"{capacity: {storage: 1}, accessModes: [ReadWriteOncePod, ReadWriteOnce], hostPath: {path: /data}}", "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"},
		"of two types":                         {gigabyte + ", hostPath: {path: /data}, nfs: {server: a, path: /b}}", "spec.nfs: Forbidden: may not specify more than 1 volume type"},
		"local, but where":                     {gigabyte + ", local: {path: /data}}", "spec.nodeAffinity: Required value: Local volume requires node affinity"},
		"local, without a path":                {gigabyte + ", local: {path: ''}" + here + "}", "spec.local.path: Required value"},
		"local, out of the tree":               {gigabyte + ", local: {path: /data/../etc}" + here + "}", `spec.local.path: Invalid value: "/data/../etc": must not contain '..'`},
		"affinity to nothing":                  {gigabyte + ", hostPath: {path: /data}, nodeAffinity: {}}", "spec.nodeAffinity.required: Required value: must specify required node constraints"},
		"affinity without terms":               {gigabyte + ", hostPath: {path: /data}, nodeAffinity: {required: {nodeSelectorTerms: []}}}", "spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term"},
		"reclaimed in a way that is none":      {gigabyte + ", hostPath: {path: /data}, persistentVolumeReclaimPolicy: Burn}", `spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain"`},
		"the whole node, wiped":                {gigabyte + ", hostPath: {path: /}, persistentVolumeReclaimPolicy: Recycle}", "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'"},
		"a mode of volumes that is none":       {gigabyte + ", hostPath: {path: /data}, volumeMode: Tape}", `spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"`},
		"a driver without a volume":            {gigabyte + ", csi: {driver: d.example.org}}", "spec.csi.volumeHandle: Required value"},
		"attributes where nobody keeps them":   {gigabyte + ", hostPath: {path: /data}, volumeAttributesClassName: fast}", "spec.csi: Required value: has to be specified when using volumeAttributesClassName"},
		"a secret of no name and no namespace": {gigabyte + ", csi: {driver: d.example.org, volumeHandle: h, nodePublishSecretRef: {}}}", "spec.csi.nodePublishSecretRef.name: Required value\nspec.csi.nodePublishSecretRef.namespace: Required value"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := firstLines(persistentVolume(volumeOf(t, c.spec))); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestWhatOfAVolumeCannotBeChanged(t *testing.T) {
	const base = gigabyte + ", hostPath: {path: /data}"
	for name, c := range map[string]struct{ old, next, want string }{
		"nothing":              {base + "}", base + "}", ""},
		"its policy":           {base + "}", base + ", persistentVolumeReclaimPolicy: Delete}", ""},
		"its claim":            {base + "}", base + ", claimRef: {name: c, namespace: d}}", ""},
		"where it is":          {base + "}", gigabyte + ", hostPath: {path: /other}}", "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"},
		"affinity, for once":   {base + "}", base + ", nodeAffinity: {required: {nodeSelectorTerms: [{}]}}}", ""},
		"affinity, a 2nd time": {base + ", nodeAffinity: {required: {nodeSelectorTerms: [{}]}}}", base + "}", "nodeAffinity: Invalid value: null: field is immutable"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := firstLines(persistentVolumeUpdate(volumeOf(t, c.next), volumeOf(t, c.old))); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestAPhaseHasItsTime(t *testing.T) {
	k := PersistentVolume()
	old := volumeOf(t, gigabyte+", hostPath: {path: /data}}")
	k.PrepareCreate(old)
	if old.Status.Phase != corev1.VolumePending || old.Status.LastPhaseTransitionTime == nil {
		t.Fatalf("it begins as %+v", old.Status)
	}
	long := metav1.Unix(5, 0)
	old.Status.LastPhaseTransitionTime = &long
	next := old.DeepCopy()
	next.Spec.Capacity = nil
	k.Status.PrepareUpdate(next, old)
	if !next.Status.LastPhaseTransitionTime.Equal(&long) || next.Spec.Capacity == nil {
		t.Error("a status without news changes something")
	}
	next.Status.Phase = corev1.VolumeAvailable
	k.Status.PrepareUpdate(next, old)
	if next.Status.LastPhaseTransitionTime.Equal(&long) {
		t.Error("a new phase has the old one's time")
	}
}

func TestClaimsThatAreWrong(t *testing.T) {
	const base = "{accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}"
	for name, c := range map[string]struct{ spec, want string }{
		"one of a class":         {base + ", storageClassName: local}", ""},
		"one of no class":        {base + ", storageClassName: ''}", ""},
		"nothing":                {"{}", "spec.accessModes: Required value: at least 1 access mode is required\nspec.resources[storage]: Required value"},
		"a size of nothing":      {"{accessModes: [ReadWriteOnce], resources: {requests: {storage: 0}}}", `spec.resources[storage]: Invalid value: "0": must be greater than zero`},
		"one pod, and many":      {"{accessModes: [ReadWriteOncePod, ReadWriteOnce], resources: {requests: {storage: 1Gi}}}", "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"},
		"a class that cannot be": {base + ", storageClassName: _}", `spec.storageClassName: Invalid value: "_": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		"a tape":                 {base + ", volumeMode: Tape}", `spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"`},
		"a copy of nothing":      {base + ", dataSource: {kind: PersistentVolumeClaim, name: ''}}", "spec.dataSource.name: Required value"},
		"a copy of a pod":        {base + ", dataSource: {kind: Pod, name: p}}", `spec.dataSource: Invalid value: "Pod": must be 'PersistentVolumeClaim' when referencing the default apiGroup`},
		// Upstream gives a path as the value, which is shown as an empty object.
		"a copy of two things":      {base + ", dataSource: {kind: PersistentVolumeClaim, name: a}, dataSourceRef: {kind: PersistentVolumeClaim, name: b}}", `spec: Invalid value: {}: must match dataSourceRef`},
		"a copy of one, said twice": {base + ", dataSource: {kind: PersistentVolumeClaim, name: a}, dataSourceRef: {kind: PersistentVolumeClaim, name: a}}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := firstLines(ValidateClaimSpec(&claimOf(t, c.spec).Spec, root("spec"))); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestWhatOfAClaimCannotBeChanged(t *testing.T) {
	of := func(size, more string) string {
		return "{accessModes: [ReadWriteOnce], resources: {requests: {storage: " + size + "}}" + more + "}"
	}
	const immutable = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
	for name, c := range map[string]struct {
		old, next string
		bound     bool
		want      string
	}{
		"nothing":                    {of("1Gi", ""), of("1Gi", ""), false, ""},
		"its volume, for once":       {of("1Gi", ""), of("1Gi", ", volumeName: v"), false, ""},
		"its volume, a 2nd time":     {of("1Gi", ", volumeName: v"), of("1Gi", ", volumeName: w"), true, immutable},
		"a class that came later":    {of("1Gi", ""), of("1Gi", ", storageClassName: local"), false, ""},
		"another class":              {of("1Gi", ", storageClassName: a"), of("1Gi", ", storageClassName: b"), false, immutable},
		"more, before it is bound":   {of("1Gi", ""), of("2Gi", ""), false, immutable},
		"more, once it is bound":     {of("1Gi", ", volumeName: v"), of("2Gi", ", volumeName: v"), true, ""},
		"less than it has":           {of("2Gi", ", volumeName: v"), of("1Gi", ", volumeName: v"), true, "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"},
		"less of what is not yet so": {of("4Gi", ", volumeName: v"), of("3Gi", ", volumeName: v"), true, ""},
		"its mode":                   {of("1Gi", ""), of("1Gi", ", volumeMode: Block"), false, immutable + "\nvolumeMode: Invalid value: \"Block\": field is immutable"},
	} {
		t.Run(name, func(t *testing.T) {
			old, next := claimOf(t, c.old), claimOf(t, c.next)
			if c.bound {
				old.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{"storage": apiresource.MustParse("2Gi")}}
				next.Status = old.Status
			}
			if got := firstLines(claimUpdate(next, old)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestTheSourceIsInBothFields(t *testing.T) {
	c := claimOf(t, "{dataSource: {kind: PersistentVolumeClaim, name: a}}")
	PersistentVolumeClaim().PrepareCreate(c)
	if r := c.Spec.DataSourceRef; r == nil || r.Name != "a" || r.Kind != "PersistentVolumeClaim" {
		t.Errorf("the reference is %v", r)
	}
	c = claimOf(t, "{dataSourceRef: {kind: PersistentVolumeClaim, name: a, namespace: other}}")
	PersistentVolumeClaim().PrepareCreate(c)
	if c.Spec.DataSourceRef.Namespace != nil || c.Spec.DataSource == nil || c.Status.Phase != corev1.ClaimPending {
		t.Errorf("got %+v", c.Spec)
	}
}

func TestVolumesAndClaimsAsTheyAreShown(t *testing.T) {
	at := time.Unix(60, 0)
	v := volumeOf(t, gigabyte[:len(gigabyte)-1]+", ReadOnlyMany, ReadWriteOnce], hostPath: {path: /data}, storageClassName: slow, claimRef: {namespace: d, name: c}}")
	v.CreationTimestamp, v.Status.Phase = metav1.Unix(0, 0), corev1.VolumeBound
	if got, want := shown(PersistentVolume().Row(v, at)), "v | 1Gi | RWO,ROX | Retain | Bound | d/c | slow | <unset> |  | 60s | Filesystem"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	c := claimOf(t, "{accessModes: [ReadWriteOnce], storageClassName: slow, resources: {requests: {storage: 1Gi}}}")
	c.CreationTimestamp, c.Status.Phase = metav1.Unix(0, 0), corev1.ClaimPending
	if got, want := shown(PersistentVolumeClaim().Row(c, at)), "c | Pending |  |  |  | slow | <unset> | 60s | Filesystem"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	c.Spec.VolumeName = "v"
	c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: v.Spec.Capacity, AccessModes: v.Spec.AccessModes}
	c.DeletionTimestamp = new(metav1.Unix(50, 0))
	if got, want := shown(PersistentVolumeClaim().Row(c, at)), "c | Terminating | v | 1Gi | RWO,ROX | slow | <unset> | 60s | Filesystem"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
