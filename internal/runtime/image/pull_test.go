package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
)

// testRegistry is a registry on loopback whose answers a test can change on their way.
type testRegistry struct {
	host  string
	mu    sync.Mutex
	front func(http.ResponseWriter, *http.Request, http.Handler)
	blobs map[string]int // GETs, by digest
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{blobs: map[string]int{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		front := r.front
		if _, digest, ok := strings.Cut(req.URL.Path, "/blobs/"); ok && req.Method == http.MethodGet {
			r.blobs[digest]++
		}
		r.mu.Unlock()
		if front != nil {
			front(w, req, inner)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

func (r *testRegistry) through(front func(http.ResponseWriter, *http.Request, http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.front = front
}

func (r *testRegistry) fetched(digest string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[digest]
}

func layerDigest(t testing.TB, img v1.Image, i int) string {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[i].Digest.String()
}

func manifestDigest(t testing.TB, x interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := x.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func TestPull(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	img := imageOf(t, v1.Config{Cmd: []string{"run"}, User: "7"}, tarOf(t, file("a", "one")), tarOf(t, file("b", "two")))
	ref := reg.host + "/team/app:v1"
	push(t, ref, img)

	var steps []Progress
	m, err := s.Pull(t.Context(), ref, Auth{}, func(p Progress) { steps = append(steps, p) })
	if err != nil {
		t.Fatal(err)
	}
	if m.ID != idOf(t, img) || strings.Join(m.RepoTags, " ") != ref || strings.Join(m.RepoDigests, " ") != reg.host+"/team/app@"+manifestDigest(t, img) {
		t.Errorf("pulled %s %v %v", m.ID, m.RepoTags, m.RepoDigests)
	}
	if m.Config.Config.Cmd[0] != "run" || m.Size != 6 || readIn(t, m, 0, "a") != "one" || readIn(t, m, 1, "b") != "two" {
		t.Errorf("pulled %+v", m)
	}
	if len(steps) < 2 {
		t.Errorf("told of %d steps", len(steps))
	}
	onlyLayers(t, s, 2)

	t.Run("is found by all its names", func(t *testing.T) {
		for _, name := range []string{ref, m.ID, m.ID[7:], m.ID[7:20], m.RepoDigests[0], reg.host + "/team/app:other@" + manifestDigest(t, img)} {
			if got, ok := s.Resolve(name); !ok || got.ID != m.ID {
				t.Errorf("not by %s", name)
			}
		}
		for _, name := range []string{"team/app:v1", reg.host + "/team/app", "sha256:12", "", "sha256:" + strings.Repeat("0", 64)} {
			if _, ok := s.Resolve(name); ok {
				t.Errorf("also by %q", name)
			}
		}
	})
	t.Run("by digest", func(t *testing.T) {
		other := newStore(t)
		m, err := other.Pull(t.Context(), reg.host+"/team/app@"+manifestDigest(t, img), Auth{}, nil)
		if err != nil || len(m.RepoTags) != 0 || len(m.RepoDigests) != 1 {
			t.Errorf("pulled %+v, %v", m, err)
		}
	})
	t.Run("a second time fetches no layer", func(t *testing.T) {
		before := reg.fetched(layerDigest(t, img, 0))
		if _, err := s.Pull(t.Context(), ref, Auth{}, nil); err != nil || reg.fetched(layerDigest(t, img, 0)) != before {
			t.Errorf("fetched again: %v", err)
		}
	})
	t.Run("a tag that moves takes its name along", func(t *testing.T) {
		next := imageOf(t, v1.Config{}, tarOf(t, file("a", "one")), tarOf(t, file("b", "three")))
		push(t, ref, next)
		n, err := s.Pull(t.Context(), ref, Auth{}, nil)
		if err != nil || n.ID != idOf(t, next) {
			t.Fatalf("pulled %v, %v", n, err)
		}
		if reg.fetched(layerDigest(t, next, 0)) != 1+1 { // by this store and by the one of "by digest"
			t.Error("the layer that both share was fetched again")
		}
		old, ok := s.Resolve(m.ID)
		if !ok || len(old.RepoTags) != 0 || len(old.RepoDigests) != 1 {
			t.Errorf("the old image is %+v", old)
		}
		if err := s.Remove(m.ID); err != nil {
			t.Fatal(err)
		}
		onlyLayers(t, s, 2) // the shared one stayed
		if err := s.Remove(ref); err != nil {
			t.Fatal(err)
		}
		onlyLayers(t, s, 0)
		if err := s.Remove(ref); err != nil {
			t.Errorf("removing what is not there: %v", err)
		}
	})
}

func TestPullSurvivesReopening(t *testing.T) {
	reg, dir := newRegistry(t), t.TempDir()
	img := imageOf(t, v1.Config{Env: []string{"A=b"}}, tarOf(t, file("a", "one")))
	push(t, reg.host+"/x", img)
	exe := executable(t, "x")
	s := openStore(t, dir, Options{Executable: exe})
	if _, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Executable: exe}); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{Executable: exe})
	m, ok := s.Resolve(reg.host + "/x")
	if !ok || m.ID != idOf(t, img) || m.Config.Config.Env[0] != "A=b" || readIn(t, m, 0, "a") != "one" || len(m.RepoDigests) != 1 {
		t.Errorf("found %+v", m)
	}
	// An image with a layer missing is forgotten, not served.
	if err := os.RemoveAll(filepath.Dir(m.Layers[0])); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	s = openStore(t, dir, Options{Executable: exe})
	if _, ok := s.Resolve(reg.host + "/x"); ok {
		t.Error("an image without its layer is there")
	}
	if _, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil); err != nil {
		t.Error(err)
	}
}

func TestPullFormats(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	plain := tarOf(t, file("f", strings.Repeat("text ", 50_000)))
	for name, data := range map[string][]byte{"gzip": gzipped(t, plain), "zstd": zstded(t, plain), "plain": plain} {
		t.Run(name, func(t *testing.T) {
			// Layers as they come, whatever their type says: go-containerregistry would compress anew.
			layer := static.NewLayer(data, types.OCILayer)
			img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{Layer: layer})
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			cfg = cfg.DeepCopy()
			hash, err := v1.NewHash(digestOf(plain))
			if err != nil {
				t.Fatal(err)
			}
			cfg.RootFS.DiffIDs = []v1.Hash{hash}
			cfg.Author = name
			if img, err = mutate.ConfigFile(img, cfg); err != nil {
				t.Fatal(err)
			}
			push(t, reg.host+"/"+name, img)
			m, err := s.Pull(t.Context(), reg.host+"/"+name, Auth{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(readIn(t, m, 0, "f")) != 250_000 {
				t.Error("content is short")
			}
		})
	}
	onlyLayers(t, s, 1) // it is one layer, whatever its form
}

func TestPullChoosesThePlatform(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	mine := imageOf(t, v1.Config{}, tarOf(t, file("f", "mine")))
	other := imageOf(t, v1.Config{}, tarOf(t, file("f", "other")))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: thisPlatform().Architecture}}})
	push(t, reg.host+"/multi", index)
	m, err := s.Pull(t.Context(), reg.host+"/multi", Auth{}, nil)
	if err != nil || readIn(t, m, 0, "f") != "mine" || m.RepoDigests[0] != reg.host+"/multi@"+manifestDigest(t, index) {
		t.Fatalf("pulled %+v, %v", m, err)
	}
	push(t, reg.host+"/foreign", mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}}))
	_, err = s.Pull(t.Context(), reg.host+"/foreign", Auth{}, nil)
	if code(err) != codes.NotFound || !strings.Contains(fmt.Sprint(err), "no build for linux/"+thisPlatform().Architecture) {
		t.Errorf("pulled what is for another machine: %v", err)
	}
}

func TestPullFailsInPlainWords(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	push(t, reg.host+"/there:1", imageOf(t, v1.Config{}, tarOf(t, file("f", "x"))))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for ref, want := range map[string]struct {
		code  codes.Code
		words string
	}{
		reg.host + "/there:2":             {codes.NotFound, `failed to pull image "` + reg.host + `/there:2": MANIFEST_UNKNOWN: Unknown manifest`},
		reg.host + "/nowhere":             {codes.NotFound, `failed to pull image "` + reg.host + `/nowhere:latest": NAME_UNKNOWN: Unknown name`},
		reg.host + "/there@" + someDigest: {codes.NotFound, "MANIFEST_UNKNOWN: Unknown manifest"},
		closed.Addr().String() + "/x":     {codes.Unavailable, "registry " + closed.Addr().String() + " could not be reached: dial tcp " + closed.Addr().String()},
		"Bad/Name:latest":                 {codes.InvalidArgument, `couldn't parse image name "Bad/Name:latest": invalid reference format: repository name (Name) must be lowercase`},
		"sampan.dev/hello:3":              {codes.NotFound, "the built-in images are sampan.dev/hello:1 and sampan.dev/hello:2"},
	} {
		_, err := s.Pull(t.Context(), ref, Auth{}, nil)
		if code(err) != want.code || !strings.Contains(fmt.Sprint(err), want.words) || strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("%s: %v (%v)\nwant %q (%v)", ref, err, code(err), want.words, want.code)
		}
	}
	onlyLayers(t, s, 0)
}

func TestPlainHTTPStaysOnThisMachine(t *testing.T) {
	transport := plainOnlyOnLoopback{http.DefaultTransport}
	for _, host := range []string{"10.0.0.1", "192.168.1.1:5000", "example.com", "x.localhost", "127.0.0.1.example.com", "[fd00::1]:80"} {
		req, err := http.NewRequest(http.MethodGet, "http://"+host+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := transport.RoundTrip(req); err == nil || !strings.Contains(err.Error(), "only registries on this machine") {
			t.Errorf("%s was asked without https: %v", host, err)
		}
	}
	for host, want := range map[string]bool{"localhost": true, "localhost:5000": true, "127.0.0.1:1": true, "127.9.9.9": true, "[::1]:5000": true, "::1": true, "localhost.example:1": false, "1270.0.0.1": false} {
		if isLoopback(host) != want {
			t.Errorf("isLoopback(%s) is not %v", host, want)
		}
	}
}

func TestPullWithPassword(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	img := imageOf(t, v1.Config{}, tarOf(t, file("f", "x")))
	push(t, reg.host+"/private", img)
	reg.through(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, pass, _ := r.BasicAuth(); user != "me" || pass != "s3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		next.ServeHTTP(w, r)
	})
	ref := reg.host + "/private"
	for name, auth := range map[string]Auth{
		"nobody":                       {},
		"a wrong password":             {Username: "me", Password: "guess"},
		"a password for another place": {Username: "me", Password: "s3cret", ServerAddress: "https://index.docker.io/v1/"},
	} {
		_, err := s.Pull(t.Context(), ref, auth, nil)
		if code(err) != codes.Unauthenticated || !strings.HasSuffix(fmt.Sprint(err), "UNAUTHORIZED: authentication required") {
			t.Errorf("%s: %v (%v)", name, err, code(err))
		}
	}
	for name, auth := range map[string]Auth{
		"name and password":    {Username: "me", Password: "s3cret"},
		"both in one":          {Auth: "bWU6czNjcmV0"},
		"and for this address": {Username: "me", Password: "s3cret", ServerAddress: "http://" + reg.host},
	} {
		if _, err := s.Pull(t.Context(), ref, auth, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Remove(ref); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPullRefusesWhatDoesNotMatch(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	img := imageOf(t, v1.Config{}, tarOf(t, file("f", strings.Repeat("x", 100_000))))
	push(t, reg.host+"/x", img)
	layer := layerDigest(t, img, 0)
	instead := func(change func([]byte) []byte) {
		reg.through(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, layer) {
				next.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			_ = http.NewResponseController(w).Flush() // so no length goes ahead by which it could be told
			_, _ = w.Write(change(rec.Body.Bytes()))
		})
	}
	for name, change := range map[string]func([]byte) []byte{
		"another layer":            func([]byte) []byte { return gzipped(t, tarOf(t, file("evil", "x"))) },
		"a hostile layer":          func([]byte) []byte { return gzipped(t, tarOf(t, file("../evil", "x"))) },
		"a flipped bit":            func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
		"the same without its end": func(b []byte) []byte { return b[:len(b)-1] },
		"nothing":                  func([]byte) []byte { return nil },
	} {
		instead(change)
		_, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil)
		if err == nil {
			t.Fatalf("%s was taken", name)
		}
		t.Logf("%s: %v", name, err)
		onlyLayers(t, s, 0)
	}
	instead(func([]byte) []byte { return gzipped(t, tarOf(t, file("evil", "x"))) })
	_, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil)
	var digest *DigestError
	if !errors.As(err, &digest) || digest.Want != layer || code(err) != codes.DataLoss {
		t.Errorf("got %v, want a digest's mismatch", err)
	}

	t.Run("a layer that unpacks to something else than the configuration says", func(t *testing.T) {
		reg.through(nil)
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		cfg = cfg.DeepCopy()
		cfg.RootFS.DiffIDs[0], _ = v1.NewHash(someDigest)
		lying, err := mutate.ConfigFile(img, cfg)
		if err != nil {
			t.Fatal(err)
		}
		push(t, reg.host+"/lying", lying)
		_, err = s.Pull(t.Context(), reg.host+"/lying", Auth{}, nil)
		if !errors.As(err, &digest) || digest.Want != someDigest {
			t.Errorf("got %v, want a digest's mismatch", err)
		}
		onlyLayers(t, s, 0)
	})
	t.Run("a hostile layer with the right digests", func(t *testing.T) {
		push(t, reg.host+"/hostile", imageOf(t, v1.Config{}, tarOf(t, file("ok", "")), tarOf(t, file("../../evil", "x"))))
		_, err := s.Pull(t.Context(), reg.host+"/hostile", Auth{}, nil)
		if code(err) != codes.FailedPrecondition || !strings.HasSuffix(fmt.Sprint(err), `refused: archive entry "../../evil" leads out of the layer`) {
			t.Errorf("got %v (%v)", err, code(err))
		}
		if _, ok := s.Resolve(reg.host + "/hostile"); ok {
			t.Error("it is there")
		}
	})
}

func TestPullAgainAfterABrokenConnection(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	img := imageOf(t, v1.Config{}, tarOf(t, file("f", strings.Repeat("x", 1_000_000))))
	push(t, reg.host+"/x", img)
	var cuts atomic.Int32
	reg.through(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.HasSuffix(r.URL.Path, layerDigest(t, img, 0)) || cuts.Add(1) > 2 {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write([]byte{0x1f, 0x8b})
		panic(http.ErrAbortHandler)
	})
	if _, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil); err != nil {
		t.Fatal(err)
	}
	onlyLayers(t, s, 1)
}

func TestPullGivesUpOnASilentRegistry(t *testing.T) {
	reg := newRegistry(t)
	s := openStore(t, t.TempDir(), Options{Stall: 50 * time.Millisecond})
	img := imageOf(t, v1.Config{}, tarOf(t, file("f", strings.Repeat("x", 1_000_000))))
	push(t, reg.host+"/x", img)
	reg.through(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.HasSuffix(r.URL.Path, layerDigest(t, img, 0)) {
			next.ServeHTTP(w, r)
			return
		}
		_, _ = w.Write([]byte{0x1f, 0x8b, 8, 0})
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	_, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil)
	if code(err) != codes.Unavailable || !strings.Contains(fmt.Sprint(err), "nothing received for 50ms") {
		t.Errorf("got %v (%v)", err, code(err))
	}
	onlyLayers(t, s, 0)
}

func TestPullsShareLayers(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	shared := tarOf(t, file("shared", strings.Repeat("x", 100_000)))
	var refs []string
	var first v1.Image
	for i := range 8 {
		img := imageOf(t, v1.Config{}, shared, tarOf(t, file("own", fmt.Sprint(i))))
		if first == nil {
			first = img
		}
		refs = append(refs, fmt.Sprintf("%s/app%d", reg.host, i))
		push(t, refs[i], img)
	}
	var wg sync.WaitGroup
	for _, ref := range refs {
		for range 2 {
			wg.Go(func() {
				if _, err := s.Pull(t.Context(), ref, Auth{}, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if n := reg.fetched(layerDigest(t, first, 0)); n != 1 {
		t.Errorf("the shared layer was fetched %d times", n)
	}
	onlyLayers(t, s, 9)
}

// One of two pulls of a layer is given up: the other one goes on by itself.
func TestPullGivenUpByOneOfTwo(t *testing.T) {
	reg, s := newRegistry(t), newStore(t)
	img := imageOf(t, v1.Config{}, tarOf(t, file("f", "x")))
	push(t, reg.host+"/x", img)
	asked := make(chan struct{})
	var times atomic.Int32
	reg.through(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, layerDigest(t, img, 0)) && times.Add(1) == 1 {
			close(asked)
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
	ctx, giveUp := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	go func() { _, err := s.Pull(ctx, reg.host+"/x", Auth{}, nil); errs <- err }()
	<-asked
	go func() { _, err := s.Pull(t.Context(), reg.host+"/x", Auth{}, nil); errs <- err }()
	giveUp()
	a, b := <-errs, <-errs
	if code(a) != codes.Canceled || b != nil {
		t.Errorf("one got %v, the other %v", a, b)
	}
}

// The process is killed in the middle of a pull, again and again; what is left is whole, and the pull goes on where it was.
func TestPullAfterKill(t *testing.T) {
	needRoot(t)
	if dir := os.Getenv("IMAGE_TEST_PULL_DIR"); dir != "" { // the child
		s := openStore(t, dir, Options{Executable: os.Getenv("IMAGE_TEST_PULL_EXE"), Parallel: 1})
		if _, err := s.Pull(t.Context(), os.Getenv("IMAGE_TEST_PULL_REF"), Auth{}, nil); err != nil {
			t.Fatal(err)
		}
		return
	}
	reg, dir, exe := newRegistry(t), t.TempDir(), executable(t, "x")
	var layers [][]byte
	for i := range 4 {
		var files []entry
		for j := range 50 {
			files = append(files, file(fmt.Sprintf("d%d/f%d", i, j), strings.Repeat("x", 5000+j)))
		}
		layers = append(layers, tarOf(t, files...))
	}
	img := imageOf(t, v1.Config{}, layers...)
	ref := reg.host + "/big"
	push(t, ref, img)
	// One layer comes whole, the next one stops in its middle; then the child is killed.
	for round := range 3 {
		stuck := make(chan struct{})
		var layersAsked atomic.Int32
		reg.through(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			isLayer := strings.Contains(r.URL.Path, "/blobs/") && !strings.HasSuffix(r.URL.Path, idOf(t, img))
			if !isLayer || layersAsked.Add(1) != 2 {
				next.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			close(stuck)
			<-r.Context().Done()
		})
		child := exec.Command(os.Args[0], "-test.run=^TestPullAfterKill$", "-test.count=1")
		child.Env = append(os.Environ(), "IMAGE_TEST_PULL_DIR="+dir, "IMAGE_TEST_PULL_REF="+ref, "IMAGE_TEST_PULL_EXE="+exe)
		out := &bytes.Buffer{}
		child.Stdout, child.Stderr = out, out
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- child.Wait() }()
		select {
		case <-stuck:
		case err := <-ended:
			t.Fatalf("child ended: %v\n%s", err, out)
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-ended

		s := openStore(t, dir, Options{Executable: exe})
		if _, ok := s.Resolve(ref); ok {
			t.Fatal("half an image is there")
		}
		if left := names(t, filepath.Join(dir, "tmp")); left != "" {
			t.Errorf("left in tmp: %s", left)
		}
		kept, err := s.layersOnDisk()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range kept {
			if _, err := readLayerStat(s.layerDir(l)); err != nil {
				t.Errorf("half a layer: %v", err)
			}
		}
		if len(kept) != round+1+1 {
			t.Errorf("after %d kills there are %d layers beside the built-in one", round+1, len(kept)-1)
		}
		_ = s.Close()
	}
	reg.through(nil)
	s := openStore(t, dir, Options{Executable: exe})
	m, err := s.Pull(t.Context(), ref, Auth{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if got := readIn(t, m, i, fmt.Sprintf("d%d/f49", i)); len(got) != 5049 {
			t.Errorf("layer %d has %d bytes in its last file", i, len(got))
		}
	}
	onlyLayers(t, s, 4)
}

func TestExplainWithoutNetwork(t *testing.T) {
	r := Reference{Domain: "registry.example", Path: "x", Tag: "1"}
	lookup := &net.DNSError{Err: "no such host", Name: "registry.example", IsNotFound: true}
	for err, want := range map[error]string{
		&url.Error{Op: "Get", URL: "https://registry.example/v2/", Err: &net.OpError{Op: "dial", Net: "tcp", Err: lookup}}: "registry registry.example could not be reached: dial tcp: lookup registry.example: no such host",
		&url.Error{Op: "Get", URL: "https://registry.example/v2/", Err: errors.New("tls: failed to verify certificate")}:   "registry registry.example could not be reached: tls: failed to verify certificate",
	} {
		if got := explain(r, err); got.Error() != want || code(got) != codes.Unavailable {
			t.Errorf("explained as %v (%v), want %s", got, code(got), want)
		}
	}
}
