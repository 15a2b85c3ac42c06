package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// house is an agent between a fake API and a fake runtime, in faked time.
type house struct {
	*testing.T
	api  *fakeAPI
	rt   *fakeRuntime
	dir  string
	a    *Agent
	stop func()

	change func(*Agent) // of the next one, before it starts; may be nil
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
	if h.change != nil {
		h.change(h.a)
	}
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
		if h.writes() > 2 { // the node's status and the pod's
			h.Errorf("%d writes until the pod was ready", h.writes())
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

func TestNoContainerRunsBeforeNetworkPoliciesAreInForce(t *testing.T) {
	live(t, func(h *house) {
		h.api.hold = make(chan struct{})
		h.api.put(newPod())
		h.after(20 * time.Second)
		if _, running, _ := h.rt.counts(); running != 0 || len(h.api.guarded) != 1 {
			t.Errorf("%d containers run, policies were asked for %v", running, h.api.guarded)
		}
		close(h.api.hold)
		synctest.Wait()
		if _, running, _ := h.rt.counts(); running != 1 {
			t.Error("it does not run once they are")
		}
		if got, want := h.api.guarded[0], "ns/p ["+h.pod().Status.PodIP+"]"; got != want {
			t.Errorf("policies were asked for %s, wanted %s", got, want)
		}
	})
	live(t, func(h *house) { // and if they never are, the person who waits is told
		h.api.hold = make(chan struct{})
		h.api.put(newPod())
		h.after(45 * time.Second)
		h.api.mu.Lock()
		defer h.api.mu.Unlock()
		if !slices.ContainsFunc(h.api.events, func(e string) bool { return strings.Contains(e, "context deadline exceeded") }) {
			t.Errorf("the events are %v", h.api.events)
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
		calls, writes := len(h.calls()), h.writes()
		h.after(4 * time.Minute)
		if n := len(h.calls()) - calls; n != 0 {
			h.Errorf("%d calls to the runtime while nothing happened: %v", n, h.calls()[calls:])
		}
		if n := h.writes() - writes; n != 0 {
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

func TestARuntimeClassChoosesTheHandler(t *testing.T) {
	live(t, func(h *house) {
		h.api.put(newPod(func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("sandboxed") }))
		synctest.Wait()
		h.phase(corev1.PodRunning)
		h.rt.mu.Lock()
		defer h.rt.mu.Unlock()
		for _, s := range h.rt.sandboxes {
			if s.RuntimeHandler != "runsc" {
				h.Errorf("the runtime was asked for the handler %q", s.RuntimeHandler)
			}
		}
	})
}

func TestOverheadIsPartOfAPodsGroup(t *testing.T) {
	pod := newPod(func(p *corev1.Pod) {
		some := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: some, Limits: some}
		p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("16Mi")}
	})
	if l := podLimits(pod); l.Shares != 768 || l.Quota != 75000 || l.Memory != 80<<20 {
		t.Errorf("its group has %+v", l)
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
		"a runtime class that has gone": {
			change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = new("ghost") },
			reason: "ContainerCreating", event: `Warning FailedCreatePodSandBox Failed to create pod sandbox: runtimeclasses.node.k8s.io "ghost" not found`,
		},
		"a runtime that makes no sandbox": {
			fail:   map[string]error{"RunPodSandbox": status.Error(codes.Unknown, "no addresses")},
			reason: "ContainerCreating", event: "Warning FailedCreatePodSandBox Failed to create pod sandbox: rpc error: code = Unknown desc = no addresses",
		},
		"a claim that is not there": {
			change: func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}}}}
			},
			reason: "ContainerCreating", event: "Warning FailedMount Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: " +
				`error processing PVC ns/x: failed to fetch PVC from API server: persistentvolumeclaims "x" not found`,
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
				before := len(h.calls())
				h.after(time.Second)
				if n := len(h.calls()) - before; n > 12 {
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
