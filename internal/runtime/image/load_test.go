package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func twoImages(t *testing.T) (a, b v1.Image) {
	t.Helper()
	shared := tarOf(t, file("shared", "s"))
	return imageOf(t, v1.Config{Cmd: []string{"a"}}, shared, tarOf(t, file("a", "one"))),
		imageOf(t, v1.Config{Cmd: []string{"b"}}, shared, tarOf(t, file("b", "two")))
}

func dockerArchive(t *testing.T, images map[string]v1.Image) []byte {
	t.Helper()
	all := map[name.Reference]v1.Image{}
	for n, img := range images {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		all[tag] = img
	}
	var buf bytes.Buffer
	if err := tarball.MultiRefWrite(all, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func ociLayout(t *testing.T, names map[string]mutate.Appendable) string {
	t.Helper()
	dir := t.TempDir()
	index := v1.ImageIndex(empty.Index)
	for n, what := range names {
		d := v1.Descriptor{}
		if n != "" {
			d.Annotations = map[string]string{refNameAnnotation: n}
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: what, Descriptor: d})
	}
	if _, err := layout.Write(dir, index); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tarDir packs a directory as tar would: "./" in front.
func tarDir(t *testing.T, dir string) []byte {
	t.Helper()
	var entries []entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		entries = append(entries, file("./"+rel, string(data)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tarOf(t, entries...)
}

func TestLoadDockerArchive(t *testing.T) {
	a, b := twoImages(t)
	archive := dockerArchive(t, map[string]v1.Image{"a": a, "reg.example/team/b:2": b, "b:again": b})
	for form, data := range map[string][]byte{"plain": archive, "gzip": gzipped(t, archive), "zstd": zstded(t, archive)} {
		t.Run(form, func(t *testing.T) {
			s := newStore(t)
			images, err := s.Load(t.Context(), bytes.NewReader(data), "ignored:1", nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(images) != 2 {
				t.Fatalf("%d images", len(images))
			}
			for ref, img := range map[string]v1.Image{"docker.io/library/a:latest": a, "reg.example/team/b:2": b, "b:again": b} {
				if m, ok := s.Resolve(ref); !ok || m.ID != idOf(t, img) {
					t.Errorf("%s is %v", ref, m)
				}
			}
			if _, ok := s.Resolve("ignored:1"); ok {
				t.Error("a name was given where none was missing")
			}
			m, _ := s.Resolve("b:again")
			if readIn(t, m, 0, "shared") != "s" || readIn(t, m, 1, "b") != "two" {
				t.Error("layers are mixed up")
			}
			onlyLayers(t, s, 3)
		})
	}
}

// Older docker writes layers before manifest.json, in directories, and shares them by symbolic links.
func TestLoadOldDockerArchive(t *testing.T) {
	layer := tarOf(t, file("f", "x"))
	config := mustJSON(t, map[string]any{
		"os": "linux", "architecture": "amd64", "config": map[string]any{"Cmd": []string{"x"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digestOf(layer), digestOf(layer)}},
	})
	archive := tarOf(t,
		dir("one/", 0o755), file("one/layer.tar", string(layer)),
		symlink("two/layer.tar", "../one/layer.tar"),
		file("abc.json", string(config)),
		file("manifest.json", `[{"Config":"abc.json","RepoTags":["old:1"],"Layers":["one/layer.tar","two/layer.tar"]}]`),
		file("repositories", "{}"))
	s := newStore(t)
	if _, err := s.Load(t.Context(), bytes.NewReader(archive), "", nil); err != nil {
		t.Fatal(err)
	}
	m, ok := s.Resolve("old:1")
	if !ok || len(m.Layers) != 2 || readIn(t, m, 1, "f") != "x" || m.ID != digestOf(config) {
		t.Errorf("loaded %+v", m)
	}
}

func TestLoadOCILayout(t *testing.T) {
	a, b := twoImages(t)
	foreign := imageOf(t, v1.Config{}, tarOf(t, file("f", "foreign")))
	multi := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: b, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: thisPlatform().Architecture}}})
	dir := ociLayout(t, map[string]mutate.Appendable{"a:1": a, "reg.example/b": multi})
	loads := map[string]func(*Store) ([]*Image, error){
		"directory": func(s *Store) ([]*Image, error) { return s.LoadLayout(t.Context(), dir, "", nil) },
		"tar":       func(s *Store) ([]*Image, error) { return s.Load(t.Context(), bytes.NewReader(tarDir(t, dir)), "", nil) },
		"tar.gz": func(s *Store) ([]*Image, error) {
			return s.Load(t.Context(), bytes.NewReader(gzipped(t, tarDir(t, dir))), "", nil)
		},
	}
	for form, load := range loads {
		t.Run(form, func(t *testing.T) {
			s := newStore(t)
			images, err := load(s)
			if err != nil || len(images) != 2 {
				t.Fatalf("%d images, %v", len(images), err)
			}
			m, ok := s.Resolve("reg.example/b:latest")
			if !ok || m.ID != idOf(t, b) || strings.Join(m.RepoDigests, " ") != "reg.example/b@"+manifestDigest(t, multi) {
				t.Errorf("b is %+v", m)
			}
			if m, ok := s.Resolve("a:1"); !ok || m.ID != idOf(t, a) {
				t.Errorf("a is %+v", m)
			}
			onlyLayers(t, s, 3)
		})
	}
	t.Run("an image without a name gets the one that is asked for", func(t *testing.T) {
		for _, label := range []string{"", "latest"} {
			s := newStore(t)
			images, err := s.LoadLayout(t.Context(), ociLayout(t, map[string]mutate.Appendable{label: a}), "given:1", nil)
			if err != nil || len(images[0].RepoTags) != 1 || images[0].RepoTags[0] != "docker.io/library/given:1" {
				t.Errorf("%q: loaded %+v, %v", label, images, err)
			}
		}
	})
	t.Run("nothing for this machine", func(t *testing.T) {
		s := openStore(t, t.TempDir(), Options{Platform: v1.Platform{OS: "linux", Architecture: "riscv64"}})
		if _, err := s.LoadLayout(t.Context(), dir, "", nil); err == nil || !strings.Contains(err.Error(), "holds no image for linux/riscv64") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a blob that is not what its name says", func(t *testing.T) {
		s := newStore(t)
		bad := ociLayout(t, map[string]mutate.Appendable{"a:1": a})
		blob := filepath.Join(bad, "blobs", "sha256", strings.TrimPrefix(layerDigest(t, a, 1), "sha256:"))
		if err := os.WriteFile(blob, gzipped(t, tarOf(t, file("evil", ""))), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.LoadLayout(t.Context(), bad, "", nil); err == nil || !strings.Contains(err.Error(), "layer does not match its digest") {
			t.Errorf("got %v", err)
		}
		if _, ok := s.Resolve("a:1"); ok {
			t.Error("it is there")
		}
	})
}

func TestLoadRefuses(t *testing.T) {
	layer := tarOf(t, file("f", "x"))
	config := func(diffID string) string {
		return string(mustJSON(t, map[string]any{"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diffID}}}))
	}
	manifest := `[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l.tar"]}]`
	for want, archive := range map[string][]byte{
		"neither a docker archive (manifest.json) nor an OCI layout (index.json)": tarOf(t, file("hello", "")),
		"read archive: ":                   []byte(strings.Repeat("no archive at all ", 100)),
		"manifest.json: invalid character": tarOf(t, file("manifest.json", "{{")),
		"holds no image":                   tarOf(t, file("manifest.json", "[]")),
		`image configuration "c.json": the archive does not have it`: tarOf(t, file("manifest.json", manifest)),
		`layer "l.tar": the archive does not have it`:                tarOf(t, file("manifest.json", manifest), file("c.json", config(digestOf(layer)))),
		"uncompressed layer does not match its digest":               tarOf(t, file("manifest.json", manifest), file("c.json", config(someDigest)), file("l.tar", string(layer))),
		"image configuration: found non-hex character":               tarOf(t, file("manifest.json", manifest), file("c.json", config("sha256:../../etc")), file("l.tar", string(layer))),
		"names 1 layers, the configuration 0":                        tarOf(t, file("manifest.json", manifest), file("c.json", "{}"), file("l.tar", string(layer))),
		`refused: archive entry "../x" leads out of the layer`:       tarOf(t, file("../x", "")),
		`couldn't parse image name "../x": invalid reference format`: tarOf(t, file("manifest.json", strings.Replace(manifest, "x:1", "../x", 1)), file("c.json", config(digestOf(layer))), file("l.tar", string(layer))),
		"index.json: found non-hex character":                        tarOf(t, file("index.json", `{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}`)),
		"manifest.json names":                                        tarOf(t, file("manifest.json", strings.Replace(manifest, `"l.tar"`, "", 1)), file("c.json", config(someDigest))),
	} {
		s := newStore(t)
		_, err := s.Load(t.Context(), bytes.NewReader(archive), "", nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "load archive: ") {
			t.Errorf("got %v, want %s", err, want)
		}
		onlyLayers(t, s, 0)
	}
}

func TestLoadThroughTheSocket(t *testing.T) {
	s := newStore(t)
	a, _ := twoImages(t)
	socket := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(NewAdminHandler(s))
	_ = server.Listener.Close()
	server.Listener = l
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	load := func(query string, archive []byte) (lines []map[string]any) {
		t.Helper()
		resp, err := client.Post("http://admin/load"+query, "application/x-tar", bytes.NewReader(archive))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Fatalf("answered %s", resp.Status)
		}
		for d := json.NewDecoder(resp.Body); d.More(); {
			line := map[string]any{}
			if err := d.Decode(&line); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, line)
		}
		return lines
	}
	lines := load("", dockerArchive(t, map[string]v1.Image{"a": a}))
	last := lines[len(lines)-1]
	if len(lines) < 3 || lines[0]["status"] != "unpacking" || last["status"] != "loaded" || last["image"] != idOf(t, a) || last["names"].([]any)[0] != "docker.io/library/a:latest" {
		t.Errorf("answered %v", lines)
	}
	if lines := load("", []byte("junk")); len(lines) != 1 || lines[0]["status"] != "error" || !strings.HasPrefix(lines[0]["error"].(string), "load archive: ") {
		t.Errorf("answered %v", lines)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/load", 405}, {"POST", "/", 404}, {"POST", "/load?name=Not%20One", 400}} {
		req, err := http.NewRequest(c.method, "http://admin"+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s %s answered %s, want %d", c.method, c.path, resp.Status, c.want)
		}
	}
	onlyLayers(t, s, 2)
}

// Memory stays flat: an archive is far larger than what reading it takes.
func TestLoadStreams(t *testing.T) {
	needRoot(t)
	const size = 64 << 20
	layerDir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		tw := tar.NewWriter(w)
		_ = tw.WriteHeader(&tar.Header{Name: "big", Mode: 0o644, Size: size})
		block := make([]byte, 1<<20)
		for range size >> 20 {
			_, _ = tw.Write(block)
		}
		_ = tw.Close()
		_ = w.Close()
	}()
	before := totalAlloc()
	stat, err := unpackDir(t.Context(), filepath.Join(layerDir, "l"), r)
	if err != nil || stat.Bytes != size {
		t.Fatalf("%+v, %v", stat, err)
	}
	if took := totalAlloc() - before; took > 8<<20 {
		t.Errorf("took %d MiB for an archive of %d MiB", took>>20, size>>20)
	}
}
