package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/instance"
	"sampan.dev/test/images"
)

// writers are a pod that writes little and one that fills the node's disk; limited exceeds its own limit.
const (
	writers = `
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sh, -c, "echo much > /v/f; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  terminationGracePeriodSeconds: 600
  containers:
  - {name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sh, -c, "dd if=/dev/zero of=/v/f bs=1M count=350; dd if=/dev/zero of=/f bs=1M count=2; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, emptyDir: {}}]
`
	limited = `
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sh, -c, "dd if=/dev/zero of=/v/f bs=1M count=2; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
`
)

// spared tolerates the node's pressure, and is evicted; the cluster cannot do without the other.
const spared = `
apiVersion: v1
kind: Pod
metadata: {name: taken}
spec:
  terminationGracePeriodSeconds: 600
  tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}]
  containers: [{name: c, image: "sampan.dev/hello:1", resources: {requests: {memory: 4Ki}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: spared, namespace: kube-system}
spec:
  priorityClassName: system-node-critical
  terminationGracePeriodSeconds: 0
  tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}]
  containers: [{name: c, image: "sampan.dev/hello:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: refused}
spec:
  nodeName: node
  containers: [{name: c, image: "sampan.dev/hello:1"}]
`

// A node that wants nearly all of its memory to be left is short of it, whatever else runs on the machine.
func TestANodeThatIsShortOfMemoryEvicts(t *testing.T) {
	c := newCluster(t, 0, "--eviction-hard=memory.available<99.99%")
	c.kubectl("wait", "--for=condition=MemoryPressure", "node/node", "--timeout=60s")
	c.apply(spared)
	c.eventually("refused", ".status.message", "Pod was rejected: The node had condition: [MemoryPressure]. ")
	c.eventually("taken", ".status.reason", "Evicted")
	message := c.field("taken", ".status.message")
	contains(t, "the evicted pod", message, "The node was low on resource: memory. Threshold quantity: ")
	contains(t, "the evicted pod", message, "Container c was using ")
	contains(t, "the evicted pod", message, "request is 4Ki, has larger consumption of memory. ")
	c.kubectl("wait", "--for=condition=Ready", "-n", "kube-system", "pod/spared", "--timeout=60s")
}

// The node's data are on a small file system of their own, so that the test need not fill the machine's.
func TestANodeWhoseDiskIsFullMakesRoom(t *testing.T) {
	small := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=500m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	c := &cluster{t: t, dir: filepath.Join(small, "data")}
	inst, err := instance.At(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	remember(inst.ID)
	c.args = []string{"--merge-kubeconfig=false", "--node-name=node", "--eviction-hard=nodefs.available<40%", "--eviction-pressure-transition-period=1s"}
	t.Cleanup(func() {
		if t.Failed() {
			c.evidence()
		}
		c.sampan("reset")
	})
	c.up()
	c.load(images.Archive(t, images.Busybox))
	for !strings.Contains(c.kubectl("get", "node", "node", "-o", "jsonpath={.status.images[*].names}"), "busybox:latest") {
		pause() // the node looks every ten seconds
	}

	c.apply(writers)
	c.waitReady("modest")
	c.kubectl("wait", "--for=condition=DiskPressure", "node/node", "--timeout=60s")
	c.kubectl("wait", `--for=jsonpath={.spec.taints[?(@.key=="node.kubernetes.io/disk-pressure")].effect}=NoSchedule`, "node/node", "--timeout=60s")
	c.eventually("greedy", ".status.reason", "Evicted")
	status := c.field("greedy", ".status.phase") + ": " + c.field("greedy", ".status.message")
	contains(t, "the evicted pod", status, "Failed: The node was low on resource: ephemeral-storage. Threshold quantity: 209715203, available: ")
	contains(t, "the evicted pod", c.field("greedy", `.status.conditions[?(@.type=="DisruptionTarget")].reason`), "TerminationByKubelet")
	c.kubectl("wait", "--for=condition=DiskPressure=false", "node/node", "--timeout=60s")
	contains(t, "the pod that wrote little", c.field("modest", ".status.phase"), "Running")
	for _, reason := range []string{"EvictionThresholdMet", "NodeHasDiskPressure", "NodeHasNoDiskPressure", "RegisteredNode"} {
		for !strings.Contains(c.kubectl("describe", "node", "node"), reason) {
			pause() // events are written behind
		}
	}

	c.apply(limited) // the node takes pods again
	c.eventually("limited", ".status.reason", "Evicted")
	contains(t, "the pod above its limit", c.field("limited", ".status.message"), `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `)
	contains(t, "the pod that wrote little", c.field("modest", ".status.phase"), "Running")
}
