package e2e

import (
	"regexp"
	"testing"

	"sampan.dev/test/images"
)

// busy is a pod that uses all of the processor that it may, with an autoscaler that wants that shared.
const busy = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sh, -c, "while :; do :; done"], resources: {requests: {cpu: 50m}, limits: {cpu: 100m}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: busy}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: busy}
  minReplicas: 1
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
`

func TestWhatPodsUseIsShownAndScalesThem(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(busy)
	c.kubectl("rollout", "status", "deployment/busy", "--timeout=60s")
	if out := c.kubectl("top", "nodes"); !regexp.MustCompile(`(?m)^node +[1-9]\d*m +\d+% +\d+Mi +\d+%`).MatchString(out) {
		t.Errorf("top nodes says\n%s", out)
	}
	for out := ""; !regexp.MustCompile(`(?m)^busy-\S+ +[1-9]\d+m +\d+Mi`).MatchString(out); pause() { // a moment after its start there is no rate yet
		out, _ = c.try("kubectl", "top", "pods", "-l", "app=busy")
	}
	c.kubectl("wait", "--for=jsonpath={.spec.replicas}=2", "deployment/busy", "--timeout=100s")
	contains(t, "the autoscaler", c.kubectl("get", "hpa", "busy", "-o", "jsonpath={.status.conditions[?(@.type=='ScalingActive')].status}"), "True")
	contains(t, "its events", c.kubectl("describe", "hpa", "busy"), "New size: 2; reason: cpu resource utilization (percentage of request) above target")
}
