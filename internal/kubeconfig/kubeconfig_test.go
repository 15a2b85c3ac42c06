package kubeconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

const existing = `# my clusters
apiVersion: v1
kind: Config
preferences: {colors: true}
clusters:
- name: work # do not touch
  cluster:
    server: https://work:6443
    x-unknown: kept
contexts:
- name: work
  context: {cluster: work, user: me}
current-context: work
users:
- name: me
  user:
    token: secret
`

func entry(dir string) Entry {
	return Entry{Name: "sampan", Server: "https://127.0.0.1:6443", CA: []byte("ca"), Cert: []byte("cert"), Key: []byte("key"), DataDir: dir}
}

func merge(t *testing.T, path string, e Entry) Merged {
	t.Helper()
	m, err := Merge(path, e, "sampan-1", Owner{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clientcmd.LoadFromFile(path); err != nil {
		t.Fatalf("client-go does not read the result: %v", err)
	}
	return m
}

func TestMergeLeavesEverythingElseAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(existing), 0o640); err != nil {
		t.Fatal(err)
	}
	m := merge(t, path, entry("/data"))
	if m.Context != "sampan" || m.Current != "work" {
		t.Errorf("merged as %+v, want context sampan and the current one left at work", m)
	}
	got, _ := os.ReadFile(path)
	for _, want := range []string{"# my clusters", "# do not touch", "x-unknown: kept", "token: secret", "preferences: {colors: true}"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q was lost from:\n%s", want, got)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v, want the file's own 0640", info.Mode().Perm())
	}
	if err := Remove(path, "/data", Owner{}); err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.LoadFromFile(path)
	if err != nil || len(cfg.Clusters) != 1 || len(cfg.Contexts) != 1 || len(cfg.AuthInfos) != 1 || cfg.CurrentContext != "work" {
		t.Errorf("after Remove: %+v, %v", cfg, err)
	}
}

func TestMergeMakesAFileForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "config")
	if m := merge(t, path, entry("/data")); m.Current != "sampan" {
		t.Errorf("current context is %q, want sampan", m.Current)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode().Perm())
	}
	merge(t, path, entry("/data"))
	cfg, _ := clientcmd.LoadFromFile(path)
	if len(cfg.Contexts) != 1 || len(cfg.Clusters) != 1 || len(cfg.AuthInfos) != 1 {
		t.Errorf("a second merge added entries: %+v", cfg)
	}
}

func TestMergeNeverTakesAnothersName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	foreign := strings.ReplaceAll(existing, "name: work", "name: sampan")
	if err := os.WriteFile(path, []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	if m := merge(t, path, entry("/data")); m.Context != "sampan-1" {
		t.Errorf("context is %q, want sampan-1, since somebody else's sampan is there", m.Context)
	}
}

func TestMergeOfASecondDataDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	first := t.TempDir()
	if err := os.WriteFile(filepath.Join(first, "settings.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	merge(t, path, entry(first))
	if m := merge(t, path, entry("/second")); m.Context != "sampan-1" {
		t.Errorf("context is %q, want sampan-1 while the first directory is in use", m.Context)
	}
	if err := os.Remove(filepath.Join(first, "settings.json")); err != nil {
		t.Fatal(err)
	}
	if m := merge(t, path, entry("/third")); m.Context != "sampan" {
		t.Errorf("context is %q, want sampan, whose first owner is gone", m.Context)
	}
}

func TestMergeRefusesWhatIsNoKubeconfig(t *testing.T) {
	for name, text := range map[string]string{"broken YAML": "a: [", "a list": "- a\n", "a word": "hello\n"} {
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Merge(path, entry("/data"), "x", Owner{}); err == nil {
			t.Errorf("%s: merged without an error", name)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%s: changed to %q", name, got)
		}
	}
}

func TestMergeFollowsALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte(existing), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	merge(t, link, entry("/data"))
	if info, _ := os.Lstat(link); info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced by a file")
	}
}

func TestUserFile(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	if got, _ := UserFile(env(map[string]string{"KUBECONFIG": filepath.Join(dir, "no") + ":" + there})); got != there {
		t.Errorf("got %s, want the first file of the list that exists", got)
	}
	if got, _ := UserFile(env(map[string]string{"KUBECONFIG": filepath.Join(dir, "no")})); got != filepath.Join(dir, "no") {
		t.Errorf("got %s, want the first of the list", got)
	}
	if got, owner := UserFile(env(map[string]string{"SUDO_USER": "nobody"})); os.Geteuid() == 0 && (!owner.Set || !strings.HasSuffix(got, ".kube/config")) {
		t.Errorf("with sudo: %s, %+v", got, owner)
	}
}
