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

// house is an agent between a fake API and a fake runtime, in faked time.
type house struct {
	*testing.T
	api  *fakeAPI
	rt   *fakeRuntime
	dir  string
	a    *Agent
	stop func()
}

// live runs a test in faked time, with an agent that runs.
func live(t *testing.T, test func(h *house)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		h := &house{T: t, api: newFakeAPI(), rt: newFakeRuntime(), dir: dir}
		h.rt.has("img:1")
		h.start()
		test(h)
		h.stop()
	})
}

// start starts an agent, as after a restart of the program.
func (h *house) start() {
	h.a = newAgent(h.T, h.api, h.rt, h.dir)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.a.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-done; err != nil {
			h.Errorf("Run: %v", err)
		}
	}
	synctest.Wait()
}

func (h *house) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (h *house) pod() *corev1.Pod { return h.api.Pod("ns", "p") }

func (h *house) status(name string) corev1.ContainerStatus {
	h.Helper()
	pod := h.pod()
	if pod == nil {
		h.Fatal("the pod is gone")
	}
	for _, s := range append(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses...) {
		if s.Name == name {
			return s
		}
	}
	h.Fatalf("no status of container %s in %+v", name, pod.Status)
	return corev1.ContainerStatus{}
}

func (h *house) waits(name, reason, message string) {
	h.Helper()
	s := h.status(name)
	if s.State.Waiting == nil || s.State.Waiting.Reason != reason || !strings.Contains(s.State.Waiting.Message, message) {
		h.Errorf("container %s: state %+v, want waiting: %s: %s", name, s.State, reason, message)
	}
}

func (h *house) phase(want corev1.PodPhase) {
	h.Helper()
	if got := h.pod().Status.Phase; got != want {
		h.Errorf("phase %s, want %s", got, want)
	}
}

func (h *house) event(n int, what string) {
	h.Helper()
	if got := h.api.said(what); got != n {
		h.Errorf("event %q told %d times, want %d, in\n%s", what, got, n, strings.Join(h.api.events, "\n"))
	}
}

func TestPodRunsAndGoes(t *testing.T) {
	live(t, func(h *house) {
		began := time.Now()
		h.api.put(newPod())
		synctest.Wait()
		h.phase(corev1.PodRunning)
		if took := time.Since(began); took != 0 {
			h.Errorf("something waited for %v on the way to Ready", took)
		}
		s := h.status("c")
		if !s.Ready || s.ContainerID == "" || !strings.HasPrefix(s.ContainerID, "sampan://") || s.Started == nil || !*s.Started || s.RestartCount != 0 {
			h.Errorf("status %+v", s)
		}
		for _, c := range h.pod().Status.Conditions {
			if c.Status != corev1.ConditionTrue || c.ObservedGeneration != 1 {
				h.Errorf("condition %+v", c)
			}
		}
		if ip := h.pod().Status.PodIP; ip != "10.244.0.5" {
			h.Errorf("pod IP %q", ip)
		}
		if h.api.writes > 2 { // the node's status and the pod's
			h.Errorf("%d writes until the pod was ready", h.api.writes)
		}
		h.event(1, `Normal Pulled Container image "img:1" already present on machine and can be accessed by the pod`)
		h.event(1, "Normal Created Container created")
		h.event(1, "Normal Started Container started")

		h.api.deletePod("ns", "p", 30)
		synctest.Wait()
		if h.pod() != nil {
			h.Errorf("the pod is still there: %+v", h.pod().Status)
		}
		if s, running, all := h.rt.counts(); s+running+all != 0 {
			h.Errorf("left in the runtime: %d sandboxes, %d containers, %d of them running", s, all, running)
		}
		h.event(1, "Normal Killing Stopping container c")
		for _, d := range []string{"pods/uid", "logs/pods/ns_p_uid"} {
			if _, err := os.Stat(filepath.Join(h.dir, d)); !errors.Is(err, os.ErrNotExist) {
				h.Errorf("%s is left: %v", d, err)
			}
		}
		if n := len(h.a.workers) + len(h.a.admitted); n != 0 {
			h.Errorf("%d workers and places are left of it", n)
		}
	})
}

func TestIdlePodCostsNothing(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod())
		h.after(5 * time.Second)
		w := h.a.workers["uid"]
		if w.active || w.timer != nil {
			h.Errorf("an idle pod has a goroutine (%v) or a timer (%v)", w.active, w.timer)
		}
		calls, writes := len(h.rt.calls), h.api.writes
		h.after(4 * time.Minute)
		if n := len(h.rt.calls) - calls; n != 0 {
			h.Errorf("%d calls to the runtime while nothing happened: %v", n, h.rt.calls[calls:])
		}
		if n := h.api.writes - writes; n != 0 {
			h.Errorf("%d writes while nothing happened", n)
		}
	})
}

func TestCrashLoop(t *testing.T) {
	live(t, func(h *house) {
		h.rt.starts = func(c *fakeContainer) {
			time.Sleep(time.Second)
			h.rt.exit(c, 3)
		}
		h.api.put(newPod())
		h.after(1500 * time.Millisecond) // the first end is followed by a start at once
		if s := h.status("c"); s.RestartCount != 1 || s.State.Running == nil || s.LastTerminationState.Terminated.ExitCode != 3 || s.LastTerminationState.Terminated.Reason != "Error" {
			h.Errorf("after the first end: %+v", s)
		}
		h.after(time.Second)
		h.waits("c", "CrashLoopBackOff", "back-off 10s restarting failed container=c pod=p_ns(uid)")
		h.event(1, "Warning BackOff Back-off restarting failed container c in pod p_ns(uid)")
		h.phase(corev1.PodRunning)
		h.after(10 * time.Second)
		if s := h.status("c"); s.RestartCount != 2 {
			h.Errorf("after 10 s: %+v", s)
		}
		h.after(time.Second)
		h.waits("c", "CrashLoopBackOff", "back-off 20s")
		h.stop() // an agent that is started anew goes on waiting where the last one was
		h.start()
		h.waits("c", "CrashLoopBackOff", "back-off 20s")
		if n := len(h.rt.named("c")); n > 2 {
			h.Errorf("%d dead containers are kept", n)
		}
		h.after(10 * time.Minute)
		h.waits("c", "CrashLoopBackOff", "back-off 5m0s")
		h.rt.mu.Lock()
		h.rt.starts = nil
		h.rt.mu.Unlock()
		h.after(5 * time.Minute)
		s := h.status("c")
		if s.State.Running == nil {
			h.Fatalf("it was not started again: %+v", s)
		}
		h.after(11 * time.Minute) // it ran long: its next end counts as a first one
		h.rt.exit(h.rt.named("c")[0], 1)
		synctest.Wait()
		if now := h.status("c"); now.State.Running == nil || now.RestartCount != s.RestartCount+1 {
			h.Errorf("after it ran for long: %+v", now)
		}
	})
}

func TestImages(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "reg.local/none:1" }))
		h.after(600 * time.Millisecond)
		h.waits("c", "ContainerCreating", "")
		h.after(time.Second)
		h.waits("c", "ErrImagePull", "manifest unknown")
		h.event(1, `Normal Pulling Pulling image "reg.local/none:1"`)
		h.event(1, `Warning Failed Failed to pull image "reg.local/none:1": manifest unknown`)
		h.event(1, `Warning Failed Error: ErrImagePull`)
		h.after(time.Second)
		h.waits("c", "ImagePullBackOff", `Back-off pulling image "reg.local/none:1": ErrImagePull: manifest unknown`)
		h.event(1, `Normal BackOff Back-off pulling image "reg.local/none:1"`)
		h.phase(corev1.PodPending)
		h.rt.mu.Lock()
		h.rt.registry["reg.local/none:1"] = nil
		h.rt.mu.Unlock()
		h.after(12 * time.Second)
		h.phase(corev1.PodRunning)
		h.event(1, `Normal Pulled Successfully pulled image "reg.local/none:1" in 1.2s (1.2s including waiting). Image size: 1234 bytes.`)
	})
}

func TestImageNames(t *testing.T) {
	for image, want := range map[string]string{
		"nginx": "nginx:latest", "nginx:1.2": "nginx:1.2", "localhost:5000/a/b": "localhost:5000/a/b:latest", "r.io/a__b-c@sha256:" + strings.Repeat("a", 64): "",
		"Nginx": "!", "a b": "!", "": "!", "nginx:": "!", "a//b": "!", "../x": "!",
	} {
		got, err := withTag(image)
		if want == "" {
			want = image
		}
		if want == "!" && err == nil || want != "!" && (err != nil || got != want) {
			t.Errorf("%q: %q, %v", image, got, err)
		}
	}
}

func TestWhatCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		change          func(*corev1.Pod)
		fail            map[string]error
		reason, message string
		event           string
	}{
		"an image that may not be pulled": {
			change: func(p *corev1.Pod) {
				p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "none:1", corev1.PullNever
			},
			reason: "ErrImageNeverPull", message: `Container image "none:1" is not present with pull policy of Never`,
			event: "Warning ErrImageNeverPull",
		},
		"an image name that is none": {
			change: func(p *corev1.Pod) { p.Spec.Containers[0].Image = "UPPER" },
			reason: "InvalidImageName", message: "invalid reference format", event: "Warning InspectFailed",
		},
		"a variable of a config map that is missing": {
			change: func(p *corev1.Pod) {
				p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
					LocalObjectReference: corev1.LocalObjectReference{Name: "x"}, Key: "k",
				}}}}
			},
			reason: "CreateContainerConfigError", message: `configmap "x" not found`, event: `Warning Failed Error: configmap "x" not found`,
		},
		"a user that must not be root and is": {
			change: func(p *corev1.Pod) {
				yes := true
				p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes}
			},
			reason: "CreateContainerConfigError", message: `container has runAsNonRoot and image will run as root (pod: "p_ns(uid)", container: c)`,
			event: "Warning Failed Error: container has runAsNonRoot",
		},
		"a runtime that refuses to create": {
			fail:   map[string]error{"CreateContainer": status.Error(codes.Unknown, "no such device")},
			reason: "CreateContainerError", message: "no such device", event: "Warning Failed Error: no such device",
		},
		"a runtime that refuses to start": {
			fail:   map[string]error{"StartContainer": status.Error(codes.Unknown, "exec: not found")},
			reason: "RunContainerError", message: "exec: not found", event: "Warning Failed Error: exec: not found",
		},
		"a runtime that makes no sandbox": {
			fail:   map[string]error{"RunPodSandbox": status.Error(codes.Unknown, "no addresses")},
			reason: "ContainerCreating", event: "Warning FailedCreatePodSandBox Failed to create pod sandbox: rpc error: code = Unknown desc = no addresses",
		},
		"a volume that is not there": {
			change: func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}}
			},
			reason: "ContainerCreating", event: `Warning FailedMount MountVolume.SetUp failed for volume "v" : configmap "x" not found`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, func(h *house) {
				if c.fail != nil {
					h.rt.fail = c.fail
				}
				if c.change == nil {
					c.change = func(*corev1.Pod) {}
				}
				h.api.put(newPod(c.change))
				h.after(500 * time.Millisecond)
				h.waits("c", c.reason, c.message)
				h.phase(corev1.PodPending)
				h.event(1, c.event)
				before := len(h.rt.calls)
				h.after(time.Second)
				if n := len(h.rt.calls) - before; n > 12 {
					h.Errorf("%d calls within a second: it is tried too often", n)
				}
				h.rt.mu.Lock()
				h.rt.fail = map[string]error{}
				h.rt.has("none:1")
				h.rt.mu.Unlock()
				if strings.Contains(c.message+c.event, "configmap") { // what it waits for comes: it need not be tried at a time
					h.api.config["ns/x"] = &corev1.ConfigMap{Data: map[string]string{"k": "v"}}
					h.api.onConf("ns", "x")
					synctest.Wait()
					h.phase(corev1.PodRunning)
				} else if c.fail != nil || c.reason == "ErrImageNeverPull" {
					h.after(11 * time.Second)
					h.phase(corev1.PodRunning)
				}
				h.api.deletePod("ns", "p", 30)
				h.after(time.Second)
				if h.pod() != nil {
					h.Errorf("it cannot be deleted: %+v", h.pod().Status)
				}
			})
		})
	}
}

func TestInitContainersAndSidecars(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	live(t, func(h *house) {
		var order []string
		h.rt.starts = func(c *fakeContainer) {
			h.rt.mu.Lock()
			order = append(order, c.Metadata.Name)
			first := c.Metadata.Attempt == 0
			h.rt.mu.Unlock()
			switch c.Metadata.Name {
			case "first":
				time.Sleep(time.Second)
				h.rt.exit(c, map[bool]int32{true: 1, false: 0}[first]) // fails once
			case "second":
				time.Sleep(time.Second)
				h.rt.exit(c, 0)
			}
		}
		h.api.put(newPod(func(p *corev1.Pod) {
			c := p.Spec.Containers[0]
			first, side, second := c, c, c
			first.Name, side.Name, second.Name = "first", "side", "second"
			side.RestartPolicy = &always
			p.Spec.InitContainers = []corev1.Container{first, side, second}
		}))
		h.after(500 * time.Millisecond)
		h.waits("c", "PodInitializing", "")
		h.phase(corev1.PodPending)
		h.after(5 * time.Second)
		h.phase(corev1.PodRunning)
		if got := strings.Join(order, " "); got != "first first side second c" {
			h.Errorf("started in the order %s", got)
		}
		if s := h.status("first"); !s.Ready || s.State.Terminated == nil || s.State.Terminated.Reason != "Completed" || s.RestartCount != 1 {
			h.Errorf("status of the first: %+v", s)
		}
		h.rt.exit(h.rt.named("side")[0], 1) // a sidecar is started again, and the others run on
		synctest.Wait()
		if s := h.status("side"); s.State.Running == nil || s.RestartCount != 1 {
			h.Errorf("status of the sidecar: %+v", s)
		}
		if s := h.status("c"); s.RestartCount != 0 {
			h.Errorf("status of the container: %+v", s)
		}
		h.api.deletePod("ns", "p", 30)
		h.after(time.Second)
		if h.pod() != nil {
			h.Error("the pod is not gone")
		}
	})
}

func TestGrace(t *testing.T) {
	live(t, func(h *house) {
		h.rt.ignoreTERM = true
		h.api.put(newPod())
		synctest.Wait()
		h.api.deletePod("ns", "p", 30)
		h.after(5 * time.Second)
		if s := h.status("c"); s.State.Running == nil {
			h.Errorf("killed before its grace is over: %+v", s)
		}
		h.api.deletePod("ns", "p", 3) // a second delete shortens it
		h.after(2 * time.Second)
		if h.pod() == nil {
			h.Fatal("killed before its second grace is over")
		}
		h.after(1500 * time.Millisecond)
		if h.pod() != nil {
			h.Error("not killed when its grace was over")
		}
	})
}

func TestForcedDeletionStopsWhatRuns(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod())
		synctest.Wait()
		h.api.remove("ns", "p")
		synctest.Wait()
		if s, running, all := h.rt.counts(); s+running+all != 0 {
			h.Errorf("left: %d sandboxes, %d containers, %d running", s, all, running)
		}
		other := newPod()
		other.UID = "another"
		h.api.put(other) // the same name again
		synctest.Wait()
		h.phase(corev1.PodRunning)
		if s := h.status("c"); s.RestartCount != 0 {
			h.Errorf("the next pod of that name inherits: %+v", s)
		}
	})
}

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
			if !strings.Contains(e, "Starting kubelet") {
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
			c := h.api.node.Status.Conditions
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
		n := h.api.node
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
		renewed := h.api.lease.Spec.RenewTime.Time
		if *h.api.lease.Spec.LeaseDurationSeconds != 40 || *h.api.lease.Spec.HolderIdentity != "n" {
			h.Errorf("lease %+v", h.api.lease.Spec)
		}
		writes := h.api.writes
		h.after(time.Minute)
		if got := h.api.lease.Spec.RenewTime.Sub(renewed); got < 50*time.Second {
			h.Errorf("the lease was renewed %v after the first time", got)
		}
		if h.api.writes != writes {
			h.Errorf("%d writes of an unchanged node", h.api.writes-writes)
		}
		h.after(5 * time.Minute)
		if h.api.writes != writes+1 {
			h.Errorf("%d heartbeats in six minutes", h.api.writes-writes)
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
