package volume

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// library holds ConfigMaps and Secrets by name.
type library struct {
	configs map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
}

func (l library) Claim(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, error) {
	if c := l.claims[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name)
}

func (l library) PersistentVolume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	if v := l.volumes[name]; v != nil {
		return v, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumes"}, name)
}

func (l library) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if c := l.configs[name]; c != nil {
		return c, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (l library) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if s := l.secrets[name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func newLibrary() library {
	return library{
		configs: map[string]*corev1.ConfigMap{"cfg": {Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {3}}}},
		secrets: map[string]*corev1.Secret{"sec": {Data: map[string][]byte{"token": []byte("x")}}},
	}
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid", Labels: map[string]string{"app": "web", "b": "c"}},
		Spec:       corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{Name: "c"}}},
	}
}

func volume(source corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: "v", VolumeSource: source}
}

// manager makes a manager whose mounts are gone when the test ends.
func manager(t *testing.T, l library) *Manager {
	m := New(t.TempDir(), l)
	t.Cleanup(func() {
		if err := m.Teardown("uid"); err != nil {
			t.Error(err)
		}
	})
	return m
}

func setup(t *testing.T, m *Manager, pod *corev1.Pod) Volume {
	t.Helper()
	made, err := m.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	return made["v"]
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..2") {
			all = append(all, e.Name())
		}
	}
	return strings.Join(all, " ")
}

func configVolume(change ...func(*corev1.ConfigMapVolumeSource)) corev1.Volume {
	s := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}}
	for _, c := range change {
		c(s)
	}
	return volume(corev1.VolumeSource{ConfigMap: s})
}

func TestConfigVolumeChangesAsAWhole(t *testing.T) {
	l := newLibrary()
	m := manager(t, l)
	pod := podWith(configVolume())
	v := setup(t, m, pod)
	if !v.ReadOnly {
		t.Error("it can be written")
	}
	if got := names(t, v.Path); got != "..data a b c" {
		t.Errorf("files %s", got)
	}
	before, err := os.Readlink(filepath.Join(v.Path, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	setup(t, m, pod)
	if after, _ := os.Readlink(filepath.Join(v.Path, "..data")); after != before {
		t.Error("it was written again though nothing changed")
	}
	old, err := os.Open(filepath.Join(v.Path, "a")) // a reader from before
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	l.configs["cfg"] = &corev1.ConfigMap{Data: map[string]string{"a": "new", "d": "4"}}
	setup(t, m, pod)
	if got := names(t, v.Path); got != "..data a d" {
		t.Errorf("files after the change %s", got)
	}
	if got := read(t, filepath.Join(v.Path, "a")); got != "new" {
		t.Errorf("a is %q", got)
	}
	var buf [8]byte
	if n, _ := old.Read(buf[:]); string(buf[:n]) != "1" {
		t.Errorf("the old reader sees %q", buf[:n])
	}
	entries, _ := os.ReadDir(v.Path)
	count := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..2") {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d directories of data are kept", count)
	}
}

func TestItemsAndModes(t *testing.T) {
	m := manager(t, newLibrary())
	mode, own := int32(0o400), int32(0o755)
	v := setup(t, m, podWith(configVolume(func(s *corev1.ConfigMapVolumeSource) {
		s.DefaultMode = &mode
		s.Items = []corev1.KeyToPath{{Key: "a", Path: "deep/down/file"}, {Key: "b", Path: "run", Mode: &own}}
	})))
	if got := read(t, filepath.Join(v.Path, "deep/down/file")); got != "1" {
		t.Errorf("content %q", got)
	}
	for name, want := range map[string]fs.FileMode{"deep/down/file": 0o400, "run": 0o755} {
		info, err := os.Stat(filepath.Join(v.Path, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestSecretsStayInMemory(t *testing.T) {
	needRoot(t)
	m := manager(t, newLibrary())
	v := setup(t, m, podWith(volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec"}})))
	if got := read(t, filepath.Join(v.Path, "token")); got != "x" {
		t.Errorf("content %q", got)
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(v.Path, &s); err != nil || s.Type != 0x01021994 {
		t.Errorf("file system %x, %v", s.Type, err)
	}
}

func TestProjectedAndDownward(t *testing.T) {
	needRoot(t)
	m := manager(t, newLibrary())
	m.Allocatable = func() corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}
	}
	v := setup(t, m, podWith(volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "cfg"}, Items: []corev1.KeyToPath{{Key: "a", Path: "a"}}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "sec"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "app", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}},
			{Path: "mem", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
		}}},
	}}})))
	for name, want := range map[string]string{"a": "1", "token": "x", "labels": "app=\"web\"\nb=\"c\"", "app": "web", "mem": "2048"} {
		if got := read(t, filepath.Join(v.Path, name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestWhatCannotBeMade(t *testing.T) {
	yes := true
	for name, c := range map[string]struct {
		volume corev1.Volume
		want   string
	}{
		"a config map that is not there": {configVolume(func(s *corev1.ConfigMapVolumeSource) { s.Name = "none" }), `configmap "none" not found`},
		"one that need not be there":     {configVolume(func(s *corev1.ConfigMapVolumeSource) { s.Name, s.Optional = "none", &yes }), ""},
		"a key that is not there":        {configVolume(func(s *corev1.ConfigMapVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "z", Path: "z"}} }), "references non-existent config key: z"},
		"a path that leads out":          {configVolume(func(s *corev1.ConfigMapVolumeSource) { s.Items = []corev1.KeyToPath{{Key: "a", Path: "../../x"}} }), "invalid path"},
		"a kind that is not supported":   {volume(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}), "volumes of type nfs are not supported on this node"},
	} {
		t.Run(name, func(t *testing.T) {
			m := manager(t, newLibrary())
			_, err := m.Setup(t.Context(), podWith(c.volume))
			if c.want == "" && err == nil {
				return
			}
			if want := `MountVolume.SetUp failed for volume "v" : ` + c.want; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	file, sock := filepath.Join(dir, "file"), filepath.Join(dir, "sock")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	none := filepath.Join(dir, "none")
	for name, c := range map[string]struct {
		path string
		kind corev1.HostPathType
		want string // error; "made" means that it is made
	}{
		"anything, also what is not there":       {none, "", ""},
		"a directory":                            {dir, corev1.HostPathDirectory, ""},
		"a directory that is a file":             {file, corev1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory"},
		"a directory that is not there":          {none, corev1.HostPathDirectory, "hostPath type check failed: " + none + " is not a directory"},
		"a file":                                 {file, corev1.HostPathFile, ""},
		"a file that is a directory":             {dir, corev1.HostPathFile, "hostPath type check failed: " + dir + " is not a file"},
		"a socket":                               {sock, corev1.HostPathSocket, ""},
		"a socket that is a file":                {file, corev1.HostPathSocket, "hostPath type check failed: " + file + " is not a socket file"},
		"a character device":                     {"/dev/null", corev1.HostPathCharDev, ""},
		"a character device that is none":        {file, corev1.HostPathCharDev, "hostPath type check failed: " + file + " is not a character device"},
		"a block device that is none":            {"/dev/null", corev1.HostPathBlockDev, "hostPath type check failed: /dev/null is not a block device"},
		"a directory to be made":                 {filepath.Join(dir, "x/y"), corev1.HostPathDirectoryOrCreate, "made"},
		"a file to be made":                      {filepath.Join(dir, "f"), corev1.HostPathFileOrCreate, "made"},
		"a directory to be made where a file is": {file, corev1.HostPathDirectoryOrCreate, "hostPath type check failed: " + file + " is not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := hostPath(&corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if c.want == "made" {
				if _, serr := os.Stat(c.path); serr != nil || err != nil {
					t.Error(serr, err)
				}
				return
			}
			if got != c.want || v.Path != c.path {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestEmptyDir(t *testing.T) {
	needRoot(t)
	size := resource.MustParse("1Mi")
	for name, source := range map[string]*corev1.EmptyDirVolumeSource{
		"on disk": {}, "in memory": {Medium: corev1.StorageMediumMemory, SizeLimit: &size},
	} {
		t.Run(name, func(t *testing.T) {
			m := manager(t, newLibrary())
			pod := podWith(volume(corev1.VolumeSource{EmptyDir: source}))
			gid := int64(4321)
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
			v := setup(t, m, pod)
			info, err := os.Stat(v.Path)
			if err != nil || info.Mode().Perm() != 0o777 || info.Mode()&fs.ModeSetgid == 0 || info.Sys().(*statT).Gid != 4321 {
				t.Errorf("%v, gid %d, %v", info.Mode(), info.Sys().(*statT).Gid, err)
			}
			if err := os.WriteFile(filepath.Join(v.Path, "kept"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			setup(t, m, pod) // as when a container starts again
			if got := read(t, filepath.Join(v.Path, "kept")); got != "x" {
				t.Errorf("kept %q", got)
			}
			if source.Medium != "" {
				if err := os.WriteFile(filepath.Join(v.Path, "big"), make([]byte, 2<<20), 0o600); err == nil {
					t.Error("more than its size fits")
				}
			}
		})
	}
}

func TestFSGroupOfConfig(t *testing.T) {
	needRoot(t)
	m := manager(t, newLibrary())
	pod := podWith(configVolume(func(s *corev1.ConfigMapVolumeSource) { mode := int32(0o400); s.DefaultMode = &mode }))
	gid := int64(4321)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	v := setup(t, m, pod)
	info, err := os.Stat(filepath.Join(v.Path, "a"))
	if err != nil || info.Mode().Perm() != 0o440 || info.Sys().(*statT).Gid != 4321 {
		t.Errorf("%v, gid %d, %v", info.Mode(), info.Sys().(*statT).Gid, err)
	}
}

func TestTeardownFollowsNothing(t *testing.T) {
	needRoot(t)
	m := New(t.TempDir(), newLibrary())
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(precious, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := setup(t, m, podWith(volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})))
	for _, link := range []string{"link", "deep/link"} {
		path := filepath.Join(v.Path, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(precious, path); err != nil {
			t.Fatal(err)
		}
	}
	bound := filepath.Join(v.Path, "bound here") // as a privileged container may leave it
	if err := os.Mkdir(bound, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := syscall.Mount(precious, bound, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Teardown("uid"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(precious, "file")); got != "x" {
		t.Errorf("what a link leads to is %q", got)
	}
	if _, err := os.Lstat(m.Dir("uid")); err == nil {
		t.Error("the pod's directory is left")
	}
	if left, err := mountsBelow(filepath.Dir(m.Dir("uid"))); err != nil || len(left) > 0 {
		t.Errorf("mounts left: %v, %v", left, err)
	}
	for _, uid := range []string{"", ".", "..", "../x", "a/b"} {
		if err := m.Teardown(types.UID(uid)); err == nil {
			t.Errorf("uid %q is accepted", uid)
		}
	}
}

func TestSubPath(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := manager(t, newLibrary())
	v := setup(t, m, podWith(volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})))
	make := func(path string, f func(string) error) {
		t.Helper()
		full := filepath.Join(v.Path, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := f(full); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to string) func(string) error { return func(at string) error { return os.Symlink(to, at) } }
	make("dir/file", func(p string) error { return os.WriteFile(p, []byte("in"), 0o644) })
	make("inside", link("dir"))
	make("absolute", link(outside))
	make("up", link("../../../../../../.."))
	make("dir/twice", link("../absolute"))
	for i, c := range []struct {
		path string
		ok   bool
	}{
		{"dir", true},
		{"dir/file", true},
		{"inside/file", true},
		{"new/deep", true},
		{"absolute", false},
		{"absolute/secret", false},
		{"up/etc", false},
		{"dir/twice/secret", false},
		{"absolute/made", false},
		{"../x", false},
		{"/etc", false},
	} {
		t.Run(fmt.Sprint(i, " ", c.path), func(t *testing.T) {
			for range 2 { // a container's next start binds it again
				got, err := m.SubPath("uid", "v", v, c.path, "c", i)
				if (err == nil) != c.ok {
					t.Fatalf("%q, %v", got, err)
				}
				if c.ok && strings.HasSuffix(c.path, "file") && read(t, got) != "in" {
					t.Errorf("it shows %q", read(t, got))
				}
			}
			if _, err := os.Lstat(filepath.Join(outside, "made")); err == nil {
				t.Error("something was made outside of the volume")
			}
		})
	}
	// Exchanging the name after it was bound exchanges nothing.
	got, err := m.SubPath("uid", "v", v, "dir", "c", 50)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(v.Path, "dir"), filepath.Join(v.Path, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(v.Path, "dir")); err != nil {
		t.Fatal(err)
	}
	if s := names(t, got); s != "file twice" {
		t.Errorf("it shows %s", s)
	}
}

func TestHostileLinksInConfigVolumesAreReplaced(t *testing.T) {
	outside := t.TempDir()
	l := newLibrary()
	m := manager(t, l)
	v := setup(t, m, podWith(configVolume()))
	for _, name := range []string{"..data_tmp", "z"} {
		if err := os.Symlink(outside, filepath.Join(v.Path, name)); err != nil {
			t.Fatal(err)
		}
	}
	l.configs["cfg"] = &corev1.ConfigMap{Data: map[string]string{"a": "2"}}
	setup(t, m, podWith(configVolume()))
	if s := names(t, outside); s != "" {
		t.Errorf("written outside: %s", s)
	}
	if s := names(t, v.Path); s != "..data a" {
		t.Errorf("files %s", s)
	}
}

func TestRemoveVolumesLeavesTheRest(t *testing.T) {
	m := manager(t, newLibrary())
	v := setup(t, m, podWith(configVolume()))
	words := filepath.Join(m.Dir("uid"), "containers")
	if err := os.Mkdir(words, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveVolumes("uid"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(v.Path); err == nil {
		t.Error("the volume is left")
	}
	if _, err := os.Lstat(words); err != nil {
		t.Error(err)
	}
	if uids, err := m.Pods(); err != nil || !slices.Equal(uids, []types.UID{"uid"}) {
		t.Errorf("pods with files: %v, %v", uids, err)
	}
}

func TestRefers(t *testing.T) {
	pod := podWith(configVolume())
	pod.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}
	for name, want := range map[string]bool{"cfg": true, "env": true, "other": false} {
		if Refers(pod, name) != want {
			t.Errorf("refers to %s: %v", name, !want)
		}
	}
}
