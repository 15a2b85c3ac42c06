package e2e

import (
	"testing"

	"sampan.dev/test/images"
)

// TestProbes has readiness found by HTTP and by a command, and a container that is dead made again.
func TestProbes(t *testing.T) {
	c := newCluster(t, 0)
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: web
    image: sampan.dev/hello:1
    ports: [{name: http, containerPort: 80}]
    startupProbe: {tcpSocket: {port: http}, periodSeconds: 1}
    readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: ill}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: ill
    image: sampan.dev/hello:1
    livenessProbe: {httpGet: {path: /no-such-page, port: 80}, periodSeconds: 1, failureThreshold: 2}
    readinessProbe: {httpGet: {path: /no-such-page, port: 80}, periodSeconds: 1}
`)
	c.waitReady("web")
	c.eventually("ill", ".status.containerStatuses[0].restartCount", "1")
	events := c.kubectl("get", "events", "--field-selector=involvedObject.name=ill", "-o", "custom-columns=R:.reason,M:.message")
	for _, want := range []string{
		"Liveness probe failed: HTTP probe failed with statuscode: 404", "Readiness probe failed: HTTP probe failed with statuscode: 404",
		"Container ill failed liveness probe, will be restarted",
	} {
		contains(t, "events", events, want)
	}
	if ready := c.field("ill", ".status.containerStatuses[0].ready"); ready != "false" {
		t.Errorf("the container that is ill is ready: %s", ready)
	}
	if restarts := c.field("web", ".status.containerStatuses[0].restartCount"); restarts != "0" {
		t.Errorf("the container that is well was restarted %s times", restarts)
	}
}

// TestProbesByCommand needs an image with a shell.
func TestProbesByCommand(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: gate}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:latest
    imagePullPolicy: Never
    command: [sleep, "1000"]
    readinessProbe: {exec: {command: [test, -f, /tmp/open]}, periodSeconds: 1}
    livenessProbe: {exec: {command: [sleep, "100"]}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 1000}
`)
	c.eventually("gate", ".status.phase", "Running")
	if ready := c.field("gate", ".status.containerStatuses[0].ready"); ready != "false" {
		t.Errorf("ready before its file is there: %s", ready)
	}
	c.kubectl("exec", "gate", "--", "touch", "/tmp/open")
	c.waitReady("gate")
	c.kubectl("exec", "gate", "--", "rm", "/tmp/open")
	c.kubectl("wait", "--for=condition=Ready=false", "pod/gate", "--timeout=60s")
	contains(t, "events", c.kubectl("get", "events", "-o", "custom-columns=M:.message"), `Liveness probe failed: command timed out: "sleep 100" timed out after 1s`)
}
