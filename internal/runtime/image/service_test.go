package image

import (
	"bytes"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPullingANameThatWasLoadedAsksNoRegistry(t *testing.T) {
	s := newStore(t)
	svc := NewService(s)
	img := imageOf(t, v1.Config{}, tarOf(t, file("f", "1")))
	// Nobody listens on this port.
	ref := "127.0.0.1:1/x:latest"
	if _, err := s.Load(t.Context(), bytes.NewReader(dockerArchive(t, map[string]v1.Image{ref: img})), "", nil); err != nil {
		t.Fatal(err)
	}
	got, err := svc.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil || got.ImageRef != idOf(t, img) {
		t.Errorf("pulled %v, %v", got, err)
	}
	asked := &runtimeapi.ImageSpec{Image: ref, Annotations: map[string]string{FromRegistry: "true"}}
	if _, err := svc.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: asked}); err == nil {
		t.Error("with the annotation no registry was asked")
	}
}
