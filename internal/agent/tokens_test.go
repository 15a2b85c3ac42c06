package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// withToken gives a pod a volume with a token that lives for an hour.
func withToken(pod *corev1.Pod) {
	seconds := int64(3600)
	pod.Spec.ServiceAccountName = "robot"
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
	}}}}}
}

// minted is how many tokens were made.
func (f *fakeAPI) minted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens
}

func TestAPodsTokenIsRenewedWhileItRuns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	live(t, func(h *house) {
		defer func() { // what it mounted
			if err := h.a.volumes.Teardown("uid"); err != nil {
				h.Error(err)
			}
		}()
		h.api.put(newPod(withToken))
		h.after(time.Second)
		file := filepath.Join(h.a.volumes.Dir("uid"), "volumes", "kubernetes.io~projected", "v", "token")
		read := func() string {
			h.Helper()
			text, err := os.ReadFile(file)
			if err != nil {
				h.Fatal(err)
			}
			return string(text)
		}
		first, container := read(), h.status("c").ContainerID
		h.stop()
		h.start() // the agent that renews it is another one than the one that asked for it
		h.after(47 * time.Minute)
		if read() != first || h.api.minted() != 1 {
			h.Errorf("renewed early: %d tokens were made", h.api.minted())
		}
		h.after(time.Minute)
		if read() == first || h.api.minted() != 2 {
			h.Errorf("not renewed after four fifths of its time: %d tokens were made", h.api.minted())
		}
		if h.status("c").ContainerID != container {
			h.Error("the container was restarted for it")
		}
		h.a.renewTokens(types.UID("nobody's")) // a pod that went meanwhile
	})
}
