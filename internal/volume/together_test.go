package volume

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// restless has a config map that is another each time it is read.
type restless struct {
	library
	reads atomic.Int64
}

func (r *restless) ConfigMap(context.Context, string, string) (*corev1.ConfigMap, error) {
	return &corev1.ConfigMap{Data: map[string]string{"a": fmt.Sprint(r.reads.Add(1))}}, nil
}

func TestContainersThatStartTogetherDoNotDisturbEachOther(t *testing.T) {
	source := &restless{library: newLibrary()}
	m := New(t.TempDir(), source)
	pod := podWith(configVolume(func(*corev1.ConfigMapVolumeSource) {}))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 30 {
				if _, err := m.Setup(t.Context(), pod); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	v := setup(t, m, pod)
	if got, want := read(t, filepath.Join(v.Path, "a")), fmt.Sprint(source.reads.Load()); got != want {
		t.Errorf("shows %s, want %s", got, want)
	}
	if len(m.busy.held) != 0 {
		t.Errorf("%d locks are left", len(m.busy.held))
	}
}
