package images

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry makes an empty registry that keeps what is pushed in memory.
func Registry() http.Handler {
	return registry.New(registry.Logger(log.New(io.Discard, "", 0)))
}

// Serve starts a registry on loopback that holds the images named, for as long as the test runs, and gives its "host:port":
// nginx:latest is HOST:PORT/nginx:latest.
func Serve(t testing.TB, images ...string) string {
	t.Helper()
	cache, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(Registry())
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	for _, image := range images {
		img, err := cache.Image(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		Push(t, host+"/"+image, img)
	}
	return host
}

// Push puts an image into a registry on loopback.
func Push(t testing.TB, ref string, img v1.Image) {
	t.Helper()
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
}

// Archive gives the path of a docker archive with one image.
func Archive(t testing.TB, image string) string {
	t.Helper()
	cache, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	path, err := cache.Archive(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
