package volume

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stored is a library with the claim data, bound to the volume v, a directory of this machine.
func stored(t *testing.T) (library, string) {
	t.Helper()
	dir := t.TempDir()
	l := newLibrary()
	l.claims = map[string]*corev1.PersistentVolumeClaim{"data": {
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "c"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}}
	l.volumes = map[string]*corev1.PersistentVolume{"v": {ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef:               &corev1.ObjectReference{Namespace: "ns", Name: "data", UID: "c"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{"here"}}},
		}}}},
	}}}
	return l, dir
}

func claimVolume() corev1.Volume {
	return corev1.Volume{Name: "v1", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}
}

func managerHere(t *testing.T, l library) *Manager {
	t.Helper()
	m := New(t.TempDir(), l)
	m.Labels = func() map[string]string { return map[string]string{"kubernetes.io/hostname": "here"} }
	return m
}

func TestAClaimIsMountedFromWhereItsVolumeIs(t *testing.T) {
	l, dir := stored(t)
	m := managerHere(t, l)
	pod := podWith(claimVolume())
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4321))}
	if err := os.WriteFile(filepath.Join(dir, "kept"), []byte("yes"), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := m.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if v := made["v1"]; v.Path != dir || v.ReadOnly {
		t.Errorf("it is %+v", v)
	}
	info, err := os.Stat(filepath.Join(dir, "kept"))
	if err != nil || info.Sys().(*statT).Gid != 4321 || info.Mode().Perm() != 0o660 {
		t.Errorf("the file is %v: %v", info, err)
	}
	// What was found once is not asked for again: the claim may be going by now.
	l.claims["data"].DeletionTimestamp = &metav1.Time{}
	if again, err := m.Setup(t.Context(), pod); err != nil || again["v1"].Path != dir {
		t.Errorf("%+v %v", again, err)
	}
	if err := m.Teardown(pod.UID); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "kept")); got != "yes" {
		t.Errorf("after the pod the file says %q", got)
	}
	// Another life of this program: a pod that has run keeps its volume, a new one does not get it.
	m = managerHere(t, l)
	if _, err := m.Setup(t.Context(), pod); err == nil || !strings.HasSuffix(err.Error(), "PVC is being deleted") {
		t.Error(err)
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{ContainerID: "sampan://x"}}
	if _, err := m.Setup(t.Context(), pod); err != nil {
		t.Error(err)
	}
}

func TestWhyAClaimIsNotMounted(t *testing.T) {
	const first = "Unable to attach or mount volumes: unmounted volumes=[v1], unattached volumes=[], failed to process volumes=[v1]: error processing PVC "
	for name, c := range map[string]struct {
		change func(t *testing.T, l library, c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume)
		want   string
	}{
		"the claim is not there": {func(_ *testing.T, l library, _ *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			delete(l.claims, "data")
		}, first + `ns/data: failed to fetch PVC from API server: persistentvolumeclaims "data" not found`},
		"it is not bound": {func(_ *testing.T, _ library, c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Status.Phase = corev1.ClaimPending
		}, first + "ns/data: PVC is not bound"},
		"its volume is gone": {func(_ *testing.T, l library, _ *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			delete(l.volumes, "v")
		}, first + `ns/data: failed to fetch PV v from API server: persistentvolumes "v" not found`},
		"its volume is another's": {
			func(_ *testing.T, _ library, _ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
				v.Spec.ClaimRef.UID = "other"
			},
			first + "ns/data: found PV object v but its pv.Spec.ClaimRef.UID other does not point to claim.UID c",
		},
		"its volume is elsewhere": {
			func(_ *testing.T, _ library, _ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
				v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values = []string{"there"}
			}, `MountVolume.NodeAffinity check failed for volume "v" : no matching NodeSelectorTerms`,
		},
		"the directory is missing": {
			func(_ *testing.T, _ library, _ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
				v.Spec.Local.Path = "/no/such/path"
			},
			`MountVolume.NewMounter initialization failed for volume "v" : path "/no/such/path" does not exist`,
		},
		"the directory is a file": {
			func(t *testing.T, _ library, _ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
				path := filepath.Join(v.Spec.Local.Path, "file")
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				v.Spec.Local.Path = path
			}, "is not a directory",
		},
		"it is a device": {
			func(_ *testing.T, _ library, _ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
				v.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
			},
			`MapVolume.SetUpDevice failed for volume "v" : volumes of volumeMode Block are not supported on this node`,
		},
		"it is on a network": {
			func(_ *testing.T, _ library, _ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
				v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}
			}, `MountVolume.SetUp failed for volume "v" : volumes of type nfs are not supported on this node`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := stored(t)
			c.change(t, l, l.claims["data"], l.volumes["v"])
			_, err := managerHere(t, l).Setup(t.Context(), podWith(claimVolume()))
			if err == nil || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestAReadOnlyClaimIsLeftAsItIs(t *testing.T) {
	l, dir := stored(t)
	v := claimVolume()
	v.PersistentVolumeClaim.ReadOnly = true
	pod := podWith(v)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4321))}
	made, err := managerHere(t, l).Setup(t.Context(), pod)
	if err != nil || !made["v1"].ReadOnly {
		t.Fatalf("%+v %v", made, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Sys().(*statT).Gid == 4321 {
		t.Errorf("its group is changed: %v", err)
	}
}
