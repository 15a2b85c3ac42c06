package agent

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/nft"
	"sampan.dev/internal/podnet"
)

func TestAdoption(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod())
		synctest.Wait()
		id, events := h.status("c").ContainerID, len(h.api.events)
		h.stop()
		if _, running, _ := h.rt.counts(); running != 1 {
			h.Fatal("stopping the agent stopped a pod")
		}
		h.start()
		h.after(2 * time.Second)
		if s := h.status("c"); s.ContainerID != id || s.RestartCount != 0 || s.State.Running == nil {
			h.Errorf("after a restart: %+v, before its id was %s", s, id)
		}
		for _, e := range h.api.events[events:] {
			if !strings.Contains(e, "Starting kubelet") && !strings.Contains(e, "Normal NodeHas") {
				h.Errorf("told after a restart: %s", e)
			}
		}
		h.stop() // it ends while nobody looks
		h.rt.exit(h.rt.named("c")[0], 1)
		h.start()
		synctest.Wait()
		if s := h.status("c"); s.RestartCount != 1 || s.State.Running == nil {
			h.Errorf("after it ended unseen: %+v", s)
		}
	})
}

func TestFilesOfAPodDoNotHideIt(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "pods", "uid"), 0o750); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		h := &house{T: t, api: newFakeAPI(), rt: newFakeRuntime(), dir: dir}
		h.rt.has("img:1")
		h.rt.fail = map[string]error{"ListContainers": status.Error(codes.Unavailable, "not yet")}
		h.start() // it knows a uid, from the files, and cannot clean up yet
		h.after(time.Second)
		h.api.put(newPod()) // now the API names the pod of that uid
		h.after(time.Second)
		h.rt.mu.Lock()
		h.rt.fail = map[string]error{}
		h.rt.mu.Unlock()
		h.after(15 * time.Second)
		h.phase(corev1.PodRunning)
		h.stop()
	})
}

func TestReboot(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod())
		synctest.Wait()
		h.stop()
		clear(h.rt.containers) // nothing is left of it but what the API says
		clear(h.rt.sandboxes)
		h.start()
		synctest.Wait()
		if s := h.status("c"); s.RestartCount != 1 || s.State.Running == nil {
			h.Errorf("after a reboot: %+v", s)
		}
		h.phase(corev1.PodRunning)
	})
}

func TestSandboxThatDiedIsMadeAnew(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod())
		synctest.Wait()
		h.rt.mu.Lock()
		for _, s := range h.rt.sandboxes {
			s.State = 1 // not ready, its container runs on
		}
		h.rt.mu.Unlock()
		h.a.markAll(context.Background())
		h.after(time.Second)
		h.event(1, "Normal SandboxChanged Pod sandbox changed, it will be killed and re-created.")
		if s := h.status("c"); s.RestartCount != 1 || s.State.Running == nil {
			h.Errorf("after its sandbox died: %+v", s)
		}
	})
}

func TestStopPodsAndUpAgain(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod())
		synctest.Wait()
		before := h.pod().Status.DeepCopy()
		if err := h.a.StopPods(context.Background()); err != nil {
			h.Fatal(err)
		}
		if _, running, _ := h.rt.counts(); running != 0 {
			h.Error("a container still runs")
		}
		if h.pod().Status.Phase != before.Phase || h.pod().Status.ContainerStatuses[0].State.Running == nil {
			h.Errorf("the API was told: %+v", h.pod().Status)
		}
		h.stop()
		h.start()
		synctest.Wait()
		if s := h.status("c"); s.RestartCount != 1 || s.State.Running == nil {
			h.Errorf("after the next start: %+v", s)
		}
	})
}

func TestJobsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		policy corev1.RestartPolicy
		codes  []int32
		want   corev1.PodPhase
		starts int32
	}{
		"never, and it succeeds":             {corev1.RestartPolicyNever, []int32{0}, corev1.PodSucceeded, 0},
		"never, and it fails":                {corev1.RestartPolicyNever, []int32{2}, corev1.PodFailed, 0},
		"on failure, and it fails only once": {corev1.RestartPolicyOnFailure, []int32{2, 0}, corev1.PodSucceeded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, func(h *house) {
				h.rt.starts = func(f *fakeContainer) { h.rt.exit(f, c.codes[f.Metadata.Attempt]) }
				h.api.put(newPod(func(p *corev1.Pod) { p.Spec.RestartPolicy = c.policy }))
				h.after(time.Second)
				h.phase(c.want)
				if s := h.status("c"); s.State.Terminated == nil || s.RestartCount != c.starts {
					h.Errorf("status %+v", s)
				}
				if s, _, all := h.rt.counts(); s == 0 || all == 0 {
					h.Error("its container is gone, and its log with it")
				}
				history := h.api.history["ns/p"]
				for i, p := range history {
					if terminal(p) && i != len(history)-1 {
						h.Errorf("phases go back: %v", history)
					}
				}
				h.stop()
				h.start() // nothing is run again
				h.after(time.Minute)
				h.phase(c.want)
				h.api.deletePod("ns", "p", 30)
				synctest.Wait()
				if s, _, all := h.rt.counts(); s+all != 0 || h.pod() != nil {
					h.Error("it is not gone")
				}
			})
		})
	}
}

func TestDeadline(t *testing.T) {
	live(t, func(h *house) {
		seconds := int64(20)
		h.api.put(newPod(func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &seconds }))
		h.after(19 * time.Second)
		h.phase(corev1.PodRunning)
		h.after(2 * time.Second)
		if st := h.pod().Status; st.Phase != corev1.PodFailed || st.Reason != "DeadlineExceeded" || st.Message != "Pod was active on the node longer than the specified deadline" {
			h.Errorf("status %+v", st)
		}
	})
}

func TestPodsThatDoNotFitAreRejected(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod(func(p *corev1.Pod) {
			p.Name, p.UID = "other", "other"
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
		}))
		synctest.Wait()
		h.api.put(newPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
		}))
		synctest.Wait()
		if st := h.pod().Status; st.Phase != corev1.PodFailed || st.Reason != "NodePorts" || st.Message != "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports" {
			h.Errorf("status %+v", st)
		}
		if _, running, _ := h.rt.counts(); running != 1 {
			h.Errorf("%d containers run, want the other pod's alone", running)
		}
	})
}

func TestRuntimeThatComesAndGoes(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod())
		synctest.Wait()
		h.rt.mu.Lock()
		down := status.Error(codes.Unavailable, "connection refused")
		h.rt.fail = map[string]error{"ListPodSandbox": down, "ListContainers": down, "GetContainerEvents": down}
		h.rt.mu.Unlock()
		h.rt.breakStreams()
		h.after(5 * time.Second)
		ready := func() corev1.ConditionStatus {
			c := h.node().Status.Conditions
			return c[len(c)-1].Status
		}
		if ready() != corev1.ConditionTrue {
			h.Error("a short silence of the runtime makes the node unready")
		}
		h.rt.exit(h.rt.named("c")[0], 1) // nobody hears of it
		h.after(30 * time.Second)
		if ready() != corev1.ConditionFalse {
			h.Error("the node is ready without a runtime")
		}
		h.rt.mu.Lock()
		h.rt.fail = map[string]error{}
		h.rt.mu.Unlock()
		h.after(3 * time.Second)
		if s := h.status("c"); s.RestartCount != 1 || s.State.Running == nil {
			h.Errorf("what happened meanwhile was not seen: %+v", s)
		}
		if ready() != corev1.ConditionTrue {
			h.Error("the node does not become ready again")
		}
	})
}

func TestAPIThatComesAndGoes(t *testing.T) {
	live(t, func(h *house) {
		h.api.fail = errors.New("no leader")
		h.api.put(newPod())
		h.after(2 * time.Second)
		if _, running, _ := h.rt.counts(); running != 1 {
			h.Errorf("%d containers run", running)
		}
		h.api.mu.Lock()
		h.api.fail = nil
		h.api.mu.Unlock()
		h.after(11 * time.Second)
		h.phase(corev1.PodRunning)
		if !h.status("c").Ready {
			h.Error("the status was not written once it could be")
		}
	})
}

func TestOrphansAreStoppedOnceTheViewIsWhole(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &house{T: t, api: newFakeAPI(), rt: newFakeRuntime(), dir: dir}
		h.rt.has("img:1")
		h.start()
		h.api.put(newPod())
		synctest.Wait()
		h.stop()
		kept := h.pod()
		delete(h.api.pods, "ns/p")
		h.api.ready = make(chan struct{}) // the view is not filled yet
		h.start()
		h.after(time.Minute)
		if _, running, _ := h.rt.counts(); running != 1 {
			h.Fatal("a pod was stopped before the API could say whether it is there")
		}
		_ = kept
		close(h.api.ready)
		h.after(time.Second)
		if s, running, all := h.rt.counts(); s+running+all != 0 {
			h.Errorf("left of a pod that the API does not know: %d sandboxes, %d containers", s, all)
		}
		h.stop()
	})
}

func TestNodeIsKept(t *testing.T) {
	live(t, func(h *house) {
		n := h.node()
		if n.Labels["kubernetes.io/hostname"] != "n" || n.Labels["beta.kubernetes.io/os"] != "linux" || n.Spec.PodCIDR != "10.244.0.0/24" {
			h.Errorf("node %+v", n)
		}
		if n.Status.NodeInfo.ContainerRuntimeVersion != "sampan://1" || n.Status.NodeInfo.KubeletVersion != "v1.37.2+sampan" {
			h.Errorf("node info %+v", n.Status.NodeInfo)
		}
		var types []string
		for _, c := range n.Status.Conditions {
			types = append(types, string(c.Type)+"="+string(c.Status)+" "+c.Reason)
		}
		if got := strings.Join(types, ", "); got != "MemoryPressure=False KubeletHasSufficientMemory, DiskPressure=False KubeletHasNoDiskPressure, "+
			"PIDPressure=False KubeletHasSufficientPID, Ready=True KubeletReady" {
			h.Errorf("conditions %s", got)
		}
		renewed := h.lease().Spec.RenewTime.Time
		if *h.lease().Spec.LeaseDurationSeconds != 40 || *h.lease().Spec.HolderIdentity != "n" {
			h.Errorf("lease %+v", h.lease().Spec)
		}
		writes := h.writes()
		h.after(time.Minute)
		if got := h.lease().Spec.RenewTime.Sub(renewed); got < 50*time.Second {
			h.Errorf("the lease was renewed %v after the first time", got)
		}
		if h.writes() != writes {
			h.Errorf("%d writes of an unchanged node", h.writes()-writes)
		}
		h.after(5 * time.Minute)
		if h.writes() != writes+1 {
			h.Errorf("%d heartbeats in six minutes", h.writes()-writes)
		}
	})
}

func TestForeignConditionsStay(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod(func(p *corev1.Pod) {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
		}))
		synctest.Wait()
		ready := func() corev1.PodCondition {
			for _, c := range h.pod().Status.Conditions {
				if c.Type == corev1.PodReady {
					return c
				}
			}
			return corev1.PodCondition{}
		}
		if c := ready(); c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" {
			h.Errorf("ready: %+v", c)
		}
		pod := h.pod().DeepCopy()
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: "example.com/gate", Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		h.api.put(pod)
		synctest.Wait()
		if c := ready(); c.Status != corev1.ConditionTrue {
			h.Errorf("ready after the gate opened: %+v", c)
		}
	})
}

// fakePorts remembers who has which ports.
type fakePorts map[string][]podnet.HostPort

func (f fakePorts) SetHostPorts(_ context.Context, pod string, ports []podnet.HostPort) error {
	if len(ports) == 0 {
		delete(f, pod)
	} else {
		f[pod] = ports
	}
	return nil
}

func TestHostPortsComeAndGo(t *testing.T) {
	live(t, func(h *house) {
		ports := fakePorts{}
		h.a.cfg.Ports = ports
		h.api.put(newPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 8080, ContainerPort: 80, Protocol: corev1.ProtocolUDP, HostIP: "192.0.2.1"}}
		}))
		synctest.Wait()
		want := podnet.HostPort{
			Proto: nft.UDP, HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 8080, Pod: netip.MustParseAddr("10.244.0.5"), PodPort: 80,
		}
		if got := ports["uid"]; len(got) != 1 || got[0] != want {
			h.Errorf("ports %+v, want %+v", got, want)
		}
		h.api.deletePod("ns", "p", 1)
		synctest.Wait()
		if len(ports) != 0 {
			h.Errorf("left: %v", ports)
		}
	})
}
