package agent

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/pressure"
)

// brink runs a test with a node on which so many pods run: p0, p1, and so on.
func brink(t *testing.T, pods int, test func(h *house, m *fakeMeter)) {
	live(t, func(h *house) {
		m := h.a.relief.meter.(*fakeMeter)
		h.rt.usage = map[string]fakeUsage{}
		for i := range pods {
			h.api.put(newPod(numbered(i)))
			h.rt.usage[fmt.Sprint("p", i)] = fakeUsage{memory: 10 << 20, wrote: 10 << 20}
		}
		h.after(time.Second)
		test(h, m)
	})
}

func numbered(i int) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Name, p.UID = fmt.Sprint("p", i), types.UID(fmt.Sprint("uid", i)) }
}

func (h *house) condition(kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range h.node().Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

// by has the agent that runs measure another machine.
func (h *house) by(m meter) {
	h.a.relief.mu.Lock()
	defer h.a.relief.mu.Unlock()
	h.a.relief.meter = m
}

func (h *house) thresholds(text string) {
	h.a.relief.mu.Lock()
	defer h.a.relief.mu.Unlock()
	h.a.cfg.EvictionHard, _ = pressure.Parse(text)
}

// phases of all pods, by name.
func (h *house) phases() string {
	all := map[string]corev1.PodPhase{}
	for _, p := range h.api.Pods() {
		all[p.Name] = p.Status.Phase
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		words = append(words, name+" "+string(all[name]))
	}
	return strings.Join(words, ", ")
}

func TestNodeSaysWhatImagesItHas(t *testing.T) {
	live(t, func(h *house) {
		images := func() string { return fmt.Sprint(h.node().Status.Images) }
		if images() != "[{[] 1234}]" {
			h.Errorf("at first %s", images())
		}
		writes := h.writes()
		h.rt.mu.Lock()
		h.rt.images = map[string]*cri.Image{
			"a": {Id: "a", Size: 10, RepoTags: []string{"a:1", "a:2"}, RepoDigests: []string{"a@sha256:1"}},
			"b": {Id: "b", Size: 30, RepoTags: []string{"b:1", "b:2", "b:3", "b:4", "b:5", "b:6"}},
		}
		h.rt.mu.Unlock()
		h.after(30 * time.Second)
		if n := h.writes() - writes; n != 0 {
			h.Errorf("%d writes, though the runtime's directories said that no image has changed", n)
		}
		h.rt.touch(1)
		h.after(11 * time.Second)
		if want := "[{[b:1 b:2 b:3 b:4 b:5] 30} {[a@sha256:1 a:1 a:2] 10}]"; images() != want {
			h.Errorf("images %s, want the largest first, five names each: %s", images(), want)
		}
		h.after(time.Minute)
		if n := h.writes() - writes; n != 1 {
			h.Errorf("%d writes for one change", n)
		}
		h.rt.mu.Lock()
		for i := range 100 {
			id := fmt.Sprintf("i%03d", i)
			h.rt.images[id] = &cri.Image{Id: id, Size: uint64(100 + i)}
		}
		h.rt.mu.Unlock()
		h.rt.touch(2)
		h.after(11 * time.Second)
		if n := len(h.node().Status.Images); n != 50 || h.node().Status.Images[49].SizeBytes != 150 {
			h.Errorf("%d images, want the 50 largest", n)
		}
	})
	live(t, func(h *house) { // a pull is told at once
		h.rt.mu.Lock()
		h.rt.registry["img:2"] = nil
		h.rt.mu.Unlock()
		h.api.put(newPod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "img:2" }))
		h.after(time.Second)
		h.rt.touch(3)
		h.after(time.Second)
		if n := len(h.node().Status.Images); n != 2 {
			h.Errorf("%d images after a pull", n)
		}
	})
}

func TestPressureIsToldAndTakenBack(t *testing.T) {
	for _, c := range []struct {
		signal              pressure.Signal
		kind                corev1.NodeConditionType
		is, isWords, not    string
		isEvent, notEvent   string
		thresholds, refused string
	}{
		{
			pressure.MemoryAvailable, corev1.NodeMemoryPressure, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available", "KubeletHasSufficientMemory",
			"NodeHasInsufficientMemory", "NodeHasSufficientMemory", pressure.Default, "Pod was rejected: The node had condition: [MemoryPressure]. ",
		},
		{
			pressure.NodeFsAvailable, corev1.NodeDiskPressure, "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure",
			"NodeHasDiskPressure", "NodeHasNoDiskPressure", pressure.Default, "Pod was rejected: The node had condition: [DiskPressure]. ",
		},
		{
			pressure.PIDAvailable, corev1.NodePIDPressure, "KubeletHasInsufficientPID", "kubelet has insufficient PID available", "KubeletHasSufficientPID",
			"NodeHasInsufficientPID", "NodeHasSufficientPID", "pid.available<10%", "Pod was rejected: The node had condition: [PIDPressure]. ",
		},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			brink(t, 0, func(h *house, m *fakeMeter) {
				h.event(1, "Normal "+c.notEvent+" Node n status is now: "+c.notEvent)
				h.thresholds(c.thresholds)
				m.set(c.signal, 1)
				h.after(11 * time.Second)
				if got := h.condition(c.kind); got.Status != corev1.ConditionTrue || got.Reason != c.is || got.Message != c.isWords {
					h.Errorf("short: %+v", got)
				}
				h.event(1, "Normal "+c.isEvent+" Node n status is now: "+c.isEvent)
				h.api.put(newPod())
				synctest.Wait()
				if s := h.pod().Status; s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != c.refused {
					h.Errorf("a pod that comes meanwhile is %s, %s: %q", s.Phase, s.Reason, s.Message)
				}
				m.set(c.signal, 90)
				h.after(4*time.Minute + 40*time.Second)
				if got := h.condition(c.kind); got.Status != corev1.ConditionTrue {
					h.Errorf("taken back within five minutes: %+v", got)
				}
				h.after(40 * time.Second)
				if got := h.condition(c.kind); got.Status != corev1.ConditionFalse || got.Reason != c.not {
					h.Errorf("six minutes later: %+v", got)
				}
				h.event(2, "Normal "+c.notEvent+" ")
			})
		})
	}
}

func TestEvictionOfOnePodAtATime(t *testing.T) {
	brink(t, 3, func(h *house, m *fakeMeter) {
		h.rt.mu.Lock()
		h.rt.usage["p1"] = fakeUsage{memory: 300 << 20}
		h.rt.mu.Unlock()
		h.rt.ignoreTERM = true
		m.set(pressure.MemoryAvailable, 5)
		h.after(9500 * time.Millisecond) // the tick is at 10 s, the pods came at 0 s, and it is 10.5 s now
		if got := h.phases(); got != "p0 Running, p1 Running, p2 Running" {
			h.Errorf("while it is asked to end: %s", got)
		}
		m.set(pressure.MemoryAvailable, 50)
		h.after(time.Second)
		if got := h.phases(); got != "p0 Running, p1 Failed, p2 Running" {
			h.Errorf("after its grace: %s", got)
		}
		s := h.api.Pod("ns", "p1").Status
		words := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 300Mi, request is 0, has larger consumption of memory. "
		if s.Reason != "Evicted" || s.Message != words {
			h.Errorf("reason %s: %q, want %q", s.Reason, s.Message, words)
		}
		disrupted := s.Conditions[len(s.Conditions)-1]
		if disrupted.Type != corev1.DisruptionTarget || disrupted.Status != corev1.ConditionTrue || disrupted.Reason != "TerminationByKubelet" || disrupted.Message != words {
			h.Errorf("its last condition is %+v", disrupted)
		}
		if s.ContainerStatuses[0].State.Terminated == nil {
			h.Errorf("its container is %+v", s.ContainerStatuses[0].State)
		}
		h.event(1, "Warning Evicted "+words)
		h.event(1, "Warning EvictionThresholdMet Attempting to reclaim memory")
		if len(h.rt.named("c")) != 2 {
			h.Errorf("%d containers are left, want those of the other pods", len(h.rt.named("c")))
		}
		h.after(time.Minute)
		if got := h.phases(); got != "p0 Running, p1 Failed, p2 Running" {
			h.Errorf("when there is enough again: %s", got)
		}
	})
	brink(t, 3, func(h *house, m *fakeMeter) { // it does not help: they go one after another, as soon as the one before is gone
		m.set(pressure.MemoryAvailable, 5)
		h.after(10 * time.Second)
		if got := h.phases(); got != "p0 Failed, p1 Failed, p2 Failed" {
			h.Errorf("after one tick: %s", got)
		}
		h.event(3, "Warning Evicted ")
	})
}

func TestDeadThingsGoBeforePods(t *testing.T) {
	brink(t, 1, func(h *house, m *fakeMeter) {
		h.rt.mu.Lock()
		h.rt.images = map[string]*cri.Image{
			"img:1": {Id: "img:1", Size: 5, RepoTags: []string{"img:1"}, RepoDigests: []string{"img@sha256:1"}}, "old": {Id: "old", Size: 9, RepoDigests: []string{"old@sha256:2"}},
			"loaded": {Id: "loaded", Size: 9, RepoTags: []string{"loaded:1"}}, "pinned": {Id: "pinned", Size: 9, Pinned: true, RepoDigests: []string{"x@sha256:3"}},
		}
		h.rt.mu.Unlock()
		h.rt.touch(1)
		h.rt.exit(h.rt.named("c")[0], 1) // it is started again
		h.api.put(newPod(numbered(7), func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }))
		h.after(time.Second)
		for _, c := range h.rt.named("c") {
			if c.Labels[labelPodName] == "p7" {
				h.rt.exit(c, 0)
			}
		}
		h.after(3 * time.Minute)
		if n := len(h.rt.named("c")); n != 3 {
			h.Fatalf("%d containers, want two of one pod and one of the other", n)
		}
		m.set(pressure.NodeFsAvailable, 5)
		h.after(11 * time.Second)
		h.rt.mu.Lock()
		removed := slices.Clone(h.rt.removed)
		h.rt.mu.Unlock()
		if fmt.Sprint(removed) != "[old img:1]" {
			h.Errorf("removed %v, want what nobody uses and a registry has, and at last what the evicted pod used", removed)
		}
		if got := h.phases(); got != "p0 Failed, p7 Succeeded" {
			h.Errorf("the disk is as full as before: %s", got)
		}
		if n := len(h.rt.named("c")); n != 0 {
			h.Errorf("%d containers are left", n)
		}
	})
	brink(t, 1, func(h *house, m *fakeMeter) { // dead things are enough
		h.rt.exit(h.rt.named("c")[0], 1)
		h.after(time.Second)
		m.set(pressure.NodeFsAvailable, 5)
		h.by(&easedBy{fakeMeter: m, signal: pressure.NodeFsAvailable, when: func() bool { return len(h.rt.named("c")) == 1 }})
		h.after(11 * time.Second)
		if got := h.phases(); got != "p0 Running" {
			h.Errorf("a pod was evicted, though it was enough to remove dead containers: %s", got)
		}
		if c := h.condition(corev1.NodeDiskPressure); c.Status != corev1.ConditionTrue {
			h.Errorf("the node says %+v", c)
		}
	})
}

// easedBy is a machine that has enough once something is so.
type easedBy struct {
	*fakeMeter
	signal pressure.Signal
	when   func() bool
}

func (m *easedBy) measure(images string) (pressure.Seen, bool) {
	if m.when() {
		m.set(m.signal, 50)
	}
	return m.fakeMeter.measure(images)
}

func TestLimitsOfDiskAreKept(t *testing.T) {
	limit := resource.MustParse("1Mi")
	limited := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	}
	live(t, func(h *house) {
		h.api.put(newPod(limited))
		h.after(11 * time.Second)
		h.phase(corev1.PodRunning)
		calls := len(h.calls())
		file := filepath.Join(h.dir, "pods", "uid", "volumes", "kubernetes.io~empty-dir", "v", "f")
		if err := os.WriteFile(file, make([]byte, 2<<20), 0o600); err != nil {
			h.Fatal(err)
		}
		h.after(11 * time.Second)
		s := h.pod().Status
		if s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != `Usage of EmptyDir volume "v" exceeds the limit "1Mi". ` {
			h.Errorf("%s, %s: %q", s.Phase, s.Reason, s.Message)
		}
		if slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget }) {
			h.Error("it counts as disrupted, though it is its own fault")
		}
		if _, err := os.Stat(file); err == nil {
			h.Error("what it wrote is still there")
		}
		if slices.Contains(h.calls()[calls:], "ListPodSandboxStats") {
			h.Error("the runtime measured containers, of which none has a limit")
		}
	})
	live(t, func(h *house) {
		h.rt.usage = map[string]fakeUsage{"p": {wrote: 2 << 20}}
		h.api.put(newPod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: limit}
		}))
		h.after(11 * time.Second)
		if s := h.pod().Status; s.Reason != "Evicted" || s.Message != "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. " {
			h.Errorf("%s, %s: %q", s.Phase, s.Reason, s.Message)
		}
	})
}

func TestImagesAreCollectedAtTheHighMark(t *testing.T) {
	brink(t, 1, func(h *house, m *fakeMeter) {
		h.thresholds("")
		h.rt.mu.Lock()
		h.rt.images = map[string]*cri.Image{"img:1": {Id: "img:1", RepoTags: []string{"img:1"}, RepoDigests: []string{"img@sha256:1"}}}
		for i, size := range []uint64{40 << 20, 40 << 20, 40 << 20} {
			id := fmt.Sprint("i", i)
			h.rt.images[id] = &cri.Image{Id: id, Size: size, RepoDigests: []string{id + "@sha256:1"}}
		}
		h.rt.mu.Unlock()
		h.rt.touch(1)
		m.set(pressure.ImageFsAvailable, 14)
		h.after(time.Minute)
		h.event(1, "Warning FreeDiskSpaceFailed Insufficient free disk space on the node's image filesystem (86% of 1000.0 MiB used). Failed to free sufficient space by deleting unused images (freed 0 bytes). Investigate disk usage, as it could be used by active images, logs, volumes, or other data.")
		h.event(0, "ImageGCFailed")
		gone := func() int {
			h.rt.mu.Lock()
			defer h.rt.mu.Unlock()
			return len(h.rt.removed)
		}
		h.by(&easedBy{fakeMeter: m, signal: pressure.ImageFsAvailable, when: func() bool { return gone() >= 2 }})
		h.after(6 * time.Minute) // by now they are old enough: 60 MiB are to be freed
		h.rt.mu.Lock()
		removed := slices.Clone(h.rt.removed)
		h.rt.mu.Unlock()
		if fmt.Sprint(removed) != "[i0 i1]" {
			h.Errorf("removed %v, want as many as make a fifth of the disk free", removed)
		}
		h.after(20 * time.Minute)
		h.by(m)
		h.event(1, "FreeDiskSpaceFailed")
		m.set(pressure.ImageFsAvailable, 1)
		h.after(9 * time.Minute)
		h.event(1, "Warning ImageGCFailed Insufficient free disk space")
		if got := h.phases(); got != "p0 Running" {
			h.Errorf("collecting images ended pods: %s", got)
		}
	})
}

func TestLabelsFollowTheirFlag(t *testing.T) {
	live(t, func(h *house) {
		restart := func(labels map[string]string) map[string]string {
			h.stop()
			h.change = func(a *Agent) { a.cfg.Labels = labels }
			h.start()
			h.after(time.Second)
			return h.node().Labels
		}
		if l := restart(map[string]string{"zone": "a", "disk": "ssd"}); l["zone"] != "a" || l["disk"] != "ssd" || l[corev1.LabelHostname] != "n" {
			h.Errorf("with labels: %v", l)
		}
		h.api.mu.Lock()
		h.api.node = h.api.node.DeepCopy()
		h.api.node.Labels["other"] = "somebody's"
		h.api.mu.Unlock()
		if l := restart(map[string]string{"zone": "b"}); l["zone"] != "b" || l["disk"] != "" || l["other"] == "" {
			h.Errorf("with one that changed and one that is gone: %v", l)
		}
		l := restart(nil)
		if _, has := l["zone"]; has || l["other"] == "" || l[corev1.LabelHostname] != "n" {
			h.Errorf("without any: %v", l)
		}
		if note, has := h.node().Annotations[noteLabels]; has {
			h.Errorf("the note is left: %q", note)
		}
	})
}
