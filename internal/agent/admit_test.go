package agent

import (
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestPodsAreAdmittedWhileTheStatusIsFilled has both done at once, many times: each needs to know what the other guards.
func TestPodsAreAdmittedWhileTheStatusIsFilled(t *testing.T) {
	a := newAgent(t, newFakeAPI(), newFakeRuntime(), t.TempDir())
	both := sync.WaitGroup{}
	both.Go(func() {
		for range 2_000 {
			a.node.fillStatus(&corev1.Node{}, time.Now())
		}
	})
	both.Go(func() {
		pod, w := newPod(), &worker{agent: a}
		for range 2_000 {
			if !a.admit(w, pod, Observed{}) {
				t.Error("it is not admitted")
				return
			}
			a.release(pod.UID)
		}
	})
	both.Wait()
}
