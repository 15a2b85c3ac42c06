package core

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
)

const mayChange = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"

func TestWhatAnUpdateOfAPodMayChange(t *testing.T) {
	const gated = "schedulingGates: [{name: g}, {name: h}]\nnodeSelector: {a: b}\naffinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: k, operator: Exists}]}]}}}"
	terms := func(p *corev1.Pod) []corev1.NodeSelectorTerm {
		return p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	for name, c := range map[string]struct {
		spec   string
		change func(*corev1.Pod)
		want   []string // the beginnings of what is told
	}{
		"an image":          {"", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "busybox:2" }, nil},
		"an init image":     {"initContainers: [{name: i, image: b}]", func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "c" }, nil},
		"a label":           {"", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, nil},
		"a command":         {"", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh"} }, []string{mayChange}},
		"the node":          {"nodeName: here", func(p *corev1.Pod) { p.Spec.NodeName = "there" }, []string{mayChange}},
		"one more":          {"", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) }, []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
		"one init less":     {"initContainers: [{name: i, image: b}]", func(p *corev1.Pod) { p.Spec.InitContainers = nil }, []string{"spec.initContainers: Forbidden: pod updates may not add or remove containers"}},
		"a first deadline":  {"", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = pointer(int64(5)) }, nil},
		"a nearer deadline": {"activeDeadlineSeconds: 10", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = pointer(int64(5)) }, nil},
		"a later deadline":  {"activeDeadlineSeconds: 10", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = pointer(int64(15)) }, []string{"spec.activeDeadlineSeconds: Invalid value: 15: must be less than or equal to previous value"}},
		"no deadline":       {"activeDeadlineSeconds: 10", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, []string{"spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"}},
		"another toleration": {"tolerations: [{key: a, operator: Exists}]", func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Operator: "Exists"})
		}, nil},
		"a toleration's seconds":       {"tolerations: [{key: a, operator: Exists, effect: NoExecute}]", func(p *corev1.Pod) { p.Spec.Tolerations[0].TolerationSeconds = pointer(int64(3)) }, nil},
		"a toleration less":            {"tolerations: [{key: a, operator: Exists}]", func(p *corev1.Pod) { p.Spec.Tolerations = nil }, []string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		"a negative grace to 1":        {"terminationGracePeriodSeconds: -1", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = pointer(int64(1)) }, nil},
		"a negative grace to 2":        {"terminationGracePeriodSeconds: -1", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = pointer(int64(2)) }, []string{mayChange}},
		"a grace to 1":                 {"", func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = pointer(int64(1)) }, []string{mayChange}},
		"a gate opens":                 {gated, func(p *corev1.Pod) { p.Spec.SchedulingGates = p.Spec.SchedulingGates[1:] }, nil},
		"all gates open":               {gated, func(p *corev1.Pod) { p.Spec.SchedulingGates = nil }, nil},
		"a new gate":                   {gated, func(p *corev1.Pod) { p.Spec.SchedulingGates[0].Name = "new" }, []string{"spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'new'"}},
		"a gated pod's selector":       {gated, func(p *corev1.Pod) { p.Spec.NodeSelector["c"] = "d" }, nil},
		"a gated pod's selector loses": {gated, func(p *corev1.Pod) { p.Spec.NodeSelector = nil }, []string{"spec.nodeSelector: Invalid value: null: only additions to spec.nodeSelector are allowed (no mutations or deletions)"}},
		"a gated pod's affinity": {gated, func(p *corev1.Pod) {
			e := &terms(p)[0].MatchExpressions
			*e = append(*e, corev1.NodeSelectorRequirement{Key: "l", Operator: "Exists"})
		}, nil},
		"a gated pod's affinity loses":   {gated, func(p *corev1.Pod) { p.Spec.Affinity = nil }, []string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Invalid value: null: no additions/deletions to non-empty NodeSelectorTerms list are allowed"}},
		"a gated pod's affinity changes": {gated, func(p *corev1.Pod) { terms(p)[0].MatchExpressions[0].Key = "z" }, []string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: "}},
		"a gated pod's first affinity": {"schedulingGates: [{name: g}]", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		}, nil},
		"a free pod's selector": {"nodeSelector: {a: b}", func(p *corev1.Pod) { p.Spec.NodeSelector["c"] = "d" }, []string{mayChange}},
		"a mirror":              {"nodeName: here", func(p *corev1.Pod) { p.Annotations = map[string]string{"kubernetes.io/config.mirror": "x"} }, []string{"metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"}},
	} {
		t.Run(name, func(t *testing.T) {
			old := podWith(t, c.spec)
			old.ResourceVersion = "7"
			now := old.DeepCopy()
			c.change(now)
			got := told(validatePodUpdate(now, old))
			if len(got) != len(c.want) {
				t.Fatalf("told %q, not %q", got, c.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) || c.want[i] != mayChange && !strings.HasSuffix(c.want[i], ": ") && got[i] != c.want[i] {
					t.Errorf("told %q, not %q", got[i], c.want[i])
				}
			}
			if errs := resource.ValidateMetaUpdate(Pod(), now, old); len(errs) > 0 {
				t.Error(errs)
			}
		})
	}
}

func TestARefusedChangeIsShown(t *testing.T) {
	old := podWith(t, "nodeName: here")
	now := old.DeepCopy()
	now.Spec.NodeName = "there"
	text := strings.Join(told(validatePodUpdate(now, old)), "\n")
	for _, line := range []string{"\n- \"nodeName\": \"here\"", "\n+ \"nodeName\": \"there\""} {
		if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(text, "-  ", "- "), "+  ", "+ "), line) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

func TestGenerationsCountChangesOfTheSpec(t *testing.T) {
	old := podWith(t, "")
	old.Generation = 3
	old.Status = corev1.PodStatus{Phase: "Running"}
	now := old.DeepCopy()
	now.Generation, now.Labels, now.Status = 99, map[string]string{"a": "b"}, corev1.PodStatus{}
	preparePodUpdate(now, old)
	if now.Generation != 3 || now.Status.Phase != "Running" {
		t.Errorf("a label's change gives generation %d and phase %s", now.Generation, now.Status.Phase)
	}
	now.Spec.Containers[0].Image = "c"
	preparePodUpdate(now, old)
	if now.Generation != 4 {
		t.Errorf("an image's change gives generation %d", now.Generation)
	}
}

func TestAStatusChangesNothingElse(t *testing.T) {
	old := podWith(t, "nodeName: here")
	old.Generation, old.OwnerReferences = 2, []metav1.OwnerReference{podOwner("v1", "Pod")}
	old.Status = corev1.PodStatus{QOSClass: "BestEffort", ObservedGeneration: 2, Conditions: []corev1.PodCondition{{Type: "Ready", ObservedGeneration: 2}}}
	now := old.DeepCopy()
	now.Spec.NodeName, now.OwnerReferences, now.Generation = "there", nil, 9
	now.Status = corev1.PodStatus{Phase: "Running", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}, Conditions: []corev1.PodCondition{{Type: "Ready"}}}
	preparePodStatus(now, old)
	if now.Spec.NodeName != "here" || len(now.OwnerReferences) != 1 || now.Generation != 2 {
		t.Errorf("a status changed %+v", now)
	}
	s := now.Status
	if s.Phase != "Running" || s.PodIP != "10.0.0.1" || s.QOSClass != "BestEffort" || s.ObservedGeneration != 2 || s.Conditions[0].ObservedGeneration != 2 {
		t.Errorf("status is %+v", s)
	}
	same(t, told(validatePodStatus(now, old)))
}

func TestStatusesThatAreWrong(t *testing.T) {
	ended := func(code int32) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}
	}
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	again := []string{"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"}
	for name, c := range map[string]struct {
		spec     string
		was, now corev1.PodStatus
		want     []string
	}{
		"a container that is never restarted runs again": {"restartPolicy: Never", containers(ended(1)), containers(runs), again},
		"one that failed runs again on failure":          {"restartPolicy: OnFailure", containers(ended(1)), containers(runs), nil},
		"one that succeeded does not":                    {"restartPolicy: OnFailure", containers(ended(0)), containers(runs), again},
		"always is always":                               {"", containers(ended(0)), containers(runs), nil},
		"a rule lets it run again": {
			"restartPolicy: Never\ncontainers: [{name: a, image: b, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]}]",
			containers(ended(42)), containers(runs), nil,
		},
		"a rule for another code does not": {
			"restartPolicy: Never\ncontainers: [{name: a, image: b, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]}]",
			containers(ended(1)), containers(runs), again,
		},
		"another class":     {"", corev1.PodStatus{QOSClass: "BestEffort"}, corev1.PodStatus{QOSClass: "Burstable"}, []string{`status.qosClass: Invalid value: "Burstable": field is immutable`}},
		"addresses":         {"", corev1.PodStatus{}, corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "x"}}, HostIPs: []corev1.HostIP{{IP: "10.0.0.1"}}}, []string{`status.podIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`, "status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`"}},
		"two of one family": {"", corev1.PodStatus{}, corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}}}, []string{`status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: may specify no more than one IP for each IP family`}},
		"one of each":       {"", corev1.PodStatus{}, corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}}, nil},
		"a nominated node":  {"", corev1.PodStatus{}, corev1.PodStatus{NominatedNodeName: "N"}, []string{`status.nominatedNodeName: Invalid value: "N": ` + subdomain}},
	} {
		t.Run(name, func(t *testing.T) {
			old := podWith(t, c.spec)
			now := old.DeepCopy()
			old.Status, now.Status = c.was, c.now
			same(t, told(validatePodStatus(now, old)), c.want...)
		})
	}
}

func containers(states ...corev1.ContainerState) (s corev1.PodStatus) {
	for i, state := range states {
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: string(rune('a' + i)), State: state})
	}
	return s
}
