package e2e

import (
	"fmt"
	"strings"
	"testing"

	"sampan.dev/test/images"
)

// TestAPodCallsTheAPI runs client-go in a pod, which is told nothing: it finds the API by what each pod is given.
func TestAPodCallsTheAPI(t *testing.T) {
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Testprog))
	c.kubectl("create", "serviceaccount", "robot")
	run := func(name, more, steps string) {
		c.apply(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {serviceAccountName: robot, restartPolicy: Never, terminationGracePeriodSeconds: 1%s,
  containers: [{name: c, image: "testprog:1", imagePullPolicy: Never, args: [%s]}]}}`, name, more, steps))
	}
	const where = "/var/run/secrets/kubernetes.io/serviceaccount"
	run("calls", "", `"api:/version", "api:/openid/v1/jwks", "api:/api/v1/namespaces/default/pods"`)
	run("user", ", securityContext: {runAsUser: 1234}", `"api:/apis"`)
	run("looks", "", `"ls:`+where+`", "read:`+where+`/namespace"`)
	run("without", ", automountServiceAccountToken: false", `"api:/version"`)
	for name, phase := range map[string]string{"calls": "Succeeded", "user": "Succeeded", "looks": "Succeeded", "without": "Failed"} {
		c.eventually(name, ".status.phase", phase)
	}
	log := c.kubectl("logs", "calls")
	if got := strings.Count(log, "200 OK"); got != 4 { // by address and by name
		t.Errorf("%d requests went well:\n%s", got, log)
	}
	contains(t, "the version", log, `"gitVersion"`)
	contains(t, "the keys", log, `"kty":"EC"`)
	contains(t, "what it may not", log, `pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\"`)
	contains(t, "a user that is not root", c.kubectl("logs", "user"), `"kind":"APIGroupList"`)
	contains(t, "the directory", c.kubectl("logs", "looks"), "token")
	contains(t, "the namespace", c.kubectl("logs", "looks"), "default")
}
