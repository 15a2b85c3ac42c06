package core

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/resource"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(-d)) }

func shown(cells []any) string {
	text := ""
	for _, c := range cells {
		text += fmt.Sprint(c) + " | "
	}
	return text[:max(0, len(text)-3)]
}

func TestPodRows(t *testing.T) {
	for name, c := range map[string]struct {
		pod  string
		want string
	}{
		"just created":          {"{status: {phase: Pending}, spec: {containers: [{}]}}", "0/1 | Pending | 0"},
		"its image is pulled":   {"{status: {phase: Pending, containerStatuses: [{state: {waiting: {reason: ContainerCreating}}}]}, spec: {containers: [{}]}}", "0/1 | ContainerCreating | 0"},
		"running":               {"{status: {phase: Running, containerStatuses: [{ready: true, state: {running: {}}}]}, spec: {containers: [{}]}}", "1/1 | Running | 0"},
		"running, not ready":    {"{status: {phase: Running, containerStatuses: [{state: {running: {}}}]}, spec: {containers: [{}]}}", "0/1 | Running | 0"},
		"no image":              {"{status: {phase: Pending, containerStatuses: [{state: {waiting: {reason: ImagePullBackOff}}}]}, spec: {containers: [{}]}}", "0/1 | ImagePullBackOff | 0"},
		"it crashes":            {"{status: {phase: Running, containerStatuses: [{restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 1, finishedAt: \"2026-05-01T11:59:55Z\"}}}]}, spec: {containers: [{}]}}", "0/1 | CrashLoopBackOff | 3 (5s ago)"},
		"it was out of memory":  {"{status: {phase: Running, containerStatuses: [{state: {terminated: {reason: OOMKilled, exitCode: 137}}}]}, spec: {containers: [{}]}}", "0/1 | OOMKilled | 0"},
		"it failed":             {"{status: {phase: Failed, containerStatuses: [{state: {terminated: {reason: Error, exitCode: 1}}}]}, spec: {containers: [{}]}}", "0/1 | Error | 0"},
		"an exit code alone":    {"{status: {phase: Failed, containerStatuses: [{state: {terminated: {exitCode: 7}}}]}, spec: {containers: [{}]}}", "0/1 | ExitCode:7 | 0"},
		"a signal alone":        {"{status: {phase: Failed, containerStatuses: [{state: {terminated: {signal: 9}}}]}, spec: {containers: [{}]}}", "0/1 | Signal:9 | 0"},
		"done":                  {"{status: {phase: Succeeded, containerStatuses: [{state: {terminated: {reason: Completed}}}]}, spec: {containers: [{}]}}", "0/1 | Completed | 0"},
		"one done, one runs":    {"{status: {phase: Running, conditions: [{type: Ready, status: \"True\"}], containerStatuses: [{state: {terminated: {reason: Completed}}}, {ready: true, state: {running: {}}}]}, spec: {containers: [{}, {}]}}", "1/2 | Running | 0"},
		"and the pod not ready": {"{status: {phase: Running, containerStatuses: [{state: {terminated: {reason: Completed}}}, {ready: true, state: {running: {}}}]}, spec: {containers: [{}, {}]}}", "1/2 | NotReady | 0"},
		"initializing":          {"{status: {phase: Pending, initContainerStatuses: [{name: i, state: {running: {}}}, {name: j, state: {waiting: {reason: PodInitializing}}}]}, spec: {containers: [{}], initContainers: [{name: i}, {name: j}]}}", "0/1 | Init:0/2 | 0"},
		"second initializing":   {"{status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {}}}, {name: j, state: {waiting: {reason: PodInitializing}}}]}, spec: {containers: [{}], initContainers: [{name: i}, {name: j}]}}", "0/1 | Init:1/2 | 0"},
		"init fails":            {"{status: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 2, state: {waiting: {reason: CrashLoopBackOff}}}]}, spec: {containers: [{}], initContainers: [{name: i}]}}", "0/1 | Init:CrashLoopBackOff | 2"},
		"init ends badly":       {"{status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2}}}]}, spec: {containers: [{}], initContainers: [{name: i}]}}", "0/1 | Init:ExitCode:2 | 0"},
		"init error":            {"{status: {phase: Pending, initContainerStatuses: [{name: i, state: {terminated: {exitCode: 2, reason: Error}}}]}, spec: {containers: [{}], initContainers: [{name: i}]}}", "0/1 | Init:Error | 0"},
		"initialized":           {"{status: {phase: Pending, initContainerStatuses: [{name: i, restartCount: 4, state: {terminated: {}}}], containerStatuses: [{state: {waiting: {reason: PodInitializing}}}]}, spec: {containers: [{}], initContainers: [{name: i}]}}", "0/1 | PodInitializing | 0"},
		"with a sidecar":        {"{status: {phase: Running, initContainerStatuses: [{name: s, started: true, ready: true, restartCount: 2, state: {running: {}}}], containerStatuses: [{ready: true, restartCount: 1, state: {running: {}}}]}, spec: {containers: [{}], initContainers: [{name: s, restartPolicy: Always}]}}", "2/2 | Running | 3"},
		"the sidecar starts":    {"{status: {phase: Pending, initContainerStatuses: [{name: s, started: false, state: {running: {}}}]}, spec: {containers: [{}], initContainers: [{name: s, restartPolicy: Always}]}}", "0/2 | Init:0/1 | 0"},
		"evicted":               {"{status: {phase: Failed, reason: Evicted}, spec: {containers: [{}]}}", "0/1 | Evicted | 0"},
		"ending":                {"{metadata: {deletionTimestamp: \"2026-05-01T11:59:55Z\"}, status: {phase: Running, containerStatuses: [{ready: true, state: {running: {}}}]}, spec: {containers: [{}]}}", "1/1 | Terminating | 0"},
		"ended while ending":    {"{metadata: {deletionTimestamp: \"2026-05-01T11:59:55Z\"}, status: {phase: Succeeded, containerStatuses: [{state: {terminated: {reason: Completed}}}]}, spec: {containers: [{}]}}", "0/1 | Completed | 0"},
		"its node is lost":      {"{metadata: {deletionTimestamp: \"2026-05-01T11:59:55Z\"}, status: {phase: Running, reason: NodeLost}, spec: {containers: [{}]}}", "0/1 | Unknown | 0"},
	} {
		t.Run(name, func(t *testing.T) {
			var p corev1.Pod
			if err := yaml.UnmarshalStrict([]byte(c.pod), &p); err != nil {
				t.Fatal(err)
			}
			p.Name, p.CreationTimestamp = "x", ago(2*time.Minute)
			want := "x | " + c.want + " | 2m | <none> | <none> | <none> | <none>"
			if got := shown(podRow(&p, noon)); got != want {
				t.Errorf("is  %s\nnot %s", got, want)
			}
		})
	}
	p := &corev1.Pod{
		Spec: corev1.PodSpec{NodeName: "node", ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "a"}, {ConditionType: "b"}}},
		Status: corev1.PodStatus{
			PodIPs: []corev1.PodIP{{IP: "10.244.0.5"}}, NominatedNodeName: "other",
			Conditions: []corev1.PodCondition{{Type: "a", Status: "True"}},
		},
	}
	if got, want := shown(podRow(p, noon)), " | 0/0 |  | 0 | <unknown> | 10.244.0.5 | node | other | 1/2"; got != want {
		t.Errorf("wide is  %s\nnot %s", got, want)
	}
}

func TestRowsOfTheOtherKinds(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "x", CreationTimestamp: ago(3 * time.Hour)}
	for name, c := range map[string]struct {
		kind *resource.Kind
		obj  resource.Object
		want string
	}{
		"a ready node with a role": {Node(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "x", CreationTimestamp: ago(3 * time.Hour), Labels: map[string]string{"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: "MemoryPressure", Status: "True"}, {Type: "Ready", Status: "True"}},
				Addresses:  []corev1.NodeAddress{{Type: "Hostname", Address: "h"}, {Type: "InternalIP", Address: "10.0.0.1"}},
				NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2", OSImage: "Debian", KernelVersion: "6.18", ContainerRuntimeVersion: "sampan://1"},
			},
		}, "x | Ready | control-plane,edge | 3h | v1.37.2 | 10.0.0.1 | <none> | Debian | 6.18 | sampan://1"},
		"a cordoned node that is not ready": {Node(), &corev1.Node{ObjectMeta: meta, Spec: corev1.NodeSpec{Unschedulable: true}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: "Ready", Status: "Unknown"}}}}, "x | NotReady,SchedulingDisabled | <none> | 3h |  | <none> | <none> | <unknown> | <unknown> | <unknown>"},
		"a node nobody heard of":            {Node(), &corev1.Node{ObjectMeta: meta}, "x | Unknown | <none> | 3h |  | <none> | <none> | <unknown> | <unknown> | <unknown>"},
		"a namespace":                       {Namespace(), &corev1.Namespace{ObjectMeta: meta, Status: corev1.NamespaceStatus{Phase: "Active"}}, "x | Active | 3h"},
		"a config map":                      {ConfigMap(), &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": ""}, BinaryData: map[string][]byte{"b": nil}}, "x | 2 | 3h"},
		"a secret":                          {Secret(), &corev1.Secret{ObjectMeta: meta, Type: "Opaque", Data: map[string][]byte{"a": nil}}, "x | Opaque | 1 | 3h"},
		"a service account":                 {ServiceAccount(), &corev1.ServiceAccount{ObjectMeta: meta}, "x | 0 | 3h"},
		"an event that came again": {Event(), &corev1.Event{
			ObjectMeta: meta, Type: "Warning", Reason: "BackOff", Message: " again\n", Count: 4, Source: corev1.EventSource{Component: "kubelet", Host: "n1"},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web", FieldPath: "spec.containers{a}"}, FirstTimestamp: ago(time.Hour), LastTimestamp: ago(time.Minute),
		}, "60s | Warning | BackOff | pod/web | spec.containers{a} | kubelet, n1 | again | 60m | 4 | x"},
		"an event of the new form": {Event(), &corev1.Event{
			ObjectMeta: meta, Type: "Normal", ReportingController: "sched", ReportingInstance: "sched-1",
			InvolvedObject: corev1.ObjectReference{Kind: "Node"}, EventTime: metav1.MicroTime(ago(time.Hour)),
		}, "60m | Normal |  | node |  | sched, sched-1 |  | 60m | 1 | x"},
		"an event of the new form that came again": {Event(), &corev1.Event{
			ObjectMeta: meta, InvolvedObject: corev1.ObjectReference{Kind: "Node"}, EventTime: metav1.MicroTime(ago(time.Hour)),
			Series: &corev1.EventSeries{Count: 9, LastObservedTime: metav1.MicroTime(ago(time.Second))},
		}, "1s |  |  | node |  |  |  | 60m | 9 | x"},
		"a service": {Service(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			Type: "ClusterIP", ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"}, Selector: map[string]string{"app": "a"},
			Ports: []corev1.ServicePort{{Port: 443, Protocol: "TCP"}, {Port: 80, NodePort: 30080, Protocol: "TCP"}},
		}}, "x | ClusterIP | 10.96.0.1 | <none> | 443/TCP,80:30080/TCP | 3h | app=a"},
		"a balanced service":                 {Service(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: "LoadBalancer", ExternalIPs: []string{"9.9.9.9"}}, Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{Hostname: "h"}, {IP: "1.1.1.1"}}}}}, "x | LoadBalancer | <none> | 1.1.1.1,h,9.9.9.9 | <none> | 3h | <none>"},
		"a service without its balancer yet": {Service(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: "LoadBalancer"}}, "x | LoadBalancer | <none> | <pending> | <none> | 3h | <none>"},
		"a service elsewhere":                {Service(), &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Type: "ExternalName", ExternalName: "a.b"}}, "x | ExternalName | <none> | a.b | <none> | 3h | <none>"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := shown(c.kind.Row(c.obj, noon)); got != c.want {
				t.Errorf("is  %s\nnot %s", got, c.want)
			}
		})
	}
}
