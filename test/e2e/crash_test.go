package e2e

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sampan.dev/test/images"
)

// counter is a pod that writes a number a line, so that a lost or doubled line shows.
const counter = `{apiVersion: v1, kind: Pod, metadata: {name: counter}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "busybox:latest",
  imagePullPolicy: Never, command: [sh, -c, 'i=0; while true; do echo line $i; i=$((i+1)); usleep 2000; done']}]}}`

type identity struct{ container, restarts, started, ip string }

func (c *cluster) identity(pod string) identity {
	c.t.Helper()
	f := strings.Split(c.field(pod, ".status.containerStatuses[0].containerID}|{.status.containerStatuses[0].restartCount}|{.status.containerStatuses[0].state.running.startedAt}|{.status.podIP"), "|")
	return identity{f[0], f[1], f[2], f[3]}
}

// unbroken checks that a log counts on without a gap, and returns its last number.
func (c *cluster) unbroken(pod string) int {
	c.t.Helper()
	next := 0
	for line := range strings.Lines(c.kubectl("logs", pod)) {
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "line ")))
		if err != nil || n != next {
			c.t.Fatalf("the log of %s says %q where line %d belongs", pod, strings.TrimSpace(line), next)
		}
		next++
	}
	return next
}

func TestAKillLosesNothing(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(counter)
	c.kubectl("create", "configmap", "kept", "--from-literal=a=b")
	c.waitReady("counter")
	first := c.identity("counter")
	version := c.kubectl("get", "configmap", "kept", "-o", "yaml")
	lines := 0
	check := func(what string) {
		t.Helper()
		c.waitReady("counter")
		if now := c.identity("counter"); now != first {
			t.Errorf("after %s the pod is %+v, was %+v", what, now, first)
		}
		n := c.unbroken("counter")
		if n <= lines {
			t.Errorf("after %s the log has %d lines, before it had %d", what, n, lines)
		}
		lines = n
		if now := c.kubectl("get", "configmap", "kept", "-o", "yaml"); now != version {
			t.Errorf("after %s the config map is\n%s\nwas\n%s", what, now, version)
		}
	}
	check("the start")

	kill(t, c.pid("sampan"))
	time.Sleep(200 * time.Millisecond) // the pod writes on while nobody reads
	c.up()
	check("kill -9 of sampan")

	runtime := c.pid("sampan-runtime")
	kill(t, runtime)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if out, _ := c.try("status", "-o", "json"); strings.Contains(out, `"sampan-runtime"`) && !strings.Contains(out, strconv.Itoa(runtime)) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the runtime was not started again")
		}
	}
	check("kill -9 of sampan-runtime")

	sampan, runtime := c.pid("sampan"), c.pid("sampan-runtime")
	kill(t, sampan)
	kill(t, runtime)
	time.Sleep(200 * time.Millisecond)
	c.up()
	check("kill -9 of both")
}

func TestAfterARebootPodsRunAgain(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(counter)
	c.waitReady("counter")
	first := c.identity("counter")

	// As a machine that lost power: no process is left, but mounts and files are as they were.
	pids := c.containers()
	kill(t, c.pid("sampan-runtime"))
	kill(t, c.pid("sampan"))
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // some go with others
	}
	for len(c.containers()) > 0 {
		pause()
	}
	c.up()
	c.eventually("counter", ".status.containerStatuses[0].restartCount", "1")
	c.waitReady("counter")
	now := c.identity("counter")
	if now.container == first.container {
		t.Errorf("the container is still %s", now.container)
	}
	contains(t, "logs --previous", c.kubectl("logs", "counter", "--previous", "--tail=1"), "line ")
}

func TestDownStopsThePodsAndUpRunsThemAgain(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(counter)
	c.waitReady("counter")
	contains(t, "down", c.sampan("down"), "Stopped")
	if left := c.containers(); len(left) > 0 {
		t.Errorf("after down there still run %v", left)
	}
	contains(t, "a second down", c.sampan("down"), "Nothing runs")
	if out, err := c.try("status"); err == nil {
		t.Errorf("status of a stopped cluster succeeds:\n%s", out)
	}
	c.up()
	c.waitReady("counter")
	if _, err := c.try("up", "--detach"); err == nil || !strings.Contains(err.Error(), "already runs") {
		t.Errorf("a second up says %v", err)
	}
}

func TestTwoClustersOnOneMachine(t *testing.T) {
	a, b := newCluster(t, 1), newCluster(t, 2)
	manifest := `{apiVersion: v1, kind: Pod, metadata: {name: hello}, spec: {containers: [{name: hello, image: "sampan.dev/hello:1"}]}}`
	a.apply(manifest)
	b.apply(strings.Replace(manifest, "hello:1", "hello:2", 1))
	a.waitReady("hello")
	b.waitReady("hello")
	contains(t, "the first cluster's pod", get(t, "http://"+a.field("hello", ".status.podIP")+"/"), "1")
	contains(t, "the second cluster's pod", get(t, "http://"+b.field("hello", ".status.podIP")+"/"), "2")
	a.sampan("reset")
	contains(t, "the second cluster's pod after the first one's reset", get(t, "http://"+b.field("hello", ".status.podIP")+"/"), "2")
}

// TestAKillInTheMiddleOfARolloutDelaysItAtMost kills the control plane while pods are being replaced.
func TestAKillInTheMiddleOfARolloutDelaysItAtMost(t *testing.T) {
	c := newCluster(t, 0)
	c.kubectl("create", "deployment", "web", "--image=sampan.dev/hello:1", "--replicas=8")
	c.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	for _, image := range []string{"sampan.dev/hello:2", "sampan.dev/hello:1"} {
		c.kubectl("set", "image", "deployment/web", "hello="+image)
		kill(t, c.pid("sampan"))
		c.up()
		c.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
		c.kubectl("wait", "--for=jsonpath={.status.availableReplicas}=8", "deployment/web", "--timeout=60s")
		c.kubectl("wait", "--for=jsonpath={.status.terminatingReplicas}=0", "deployment/web", "--timeout=60s")
		out := c.kubectl("get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.spec.containers[0].image}{"\n"}{end}`)
		if n := strings.Count(out, image+"\n"); n != 8 || len(strings.Fields(out)) != 8 {
			t.Errorf("pods:\n%s, want 8 of %s", out, image)
		}
	}
	if out := c.kubectl("get", "replicasets", "-o", "name"); len(strings.Fields(out)) != 2 {
		t.Errorf("ReplicaSets:\n%s", out)
	}
}
