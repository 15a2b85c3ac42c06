package e2e

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"sampan.dev/test/images"
)

// guarded is a server that only some may ask, and some who ask.
const guarded = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: sampan.dev/hello:1
    ports: [{name: http, containerPort: 80}]
    readinessProbe: {httpGet: {path: /healthz, port: http}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {role: friend}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "busybox:latest", imagePullPolicy: Never, command: [sleep, "100000"]}]
`

func TestNetworkPolicies(t *testing.T) {
	away := outside(t)
	c := newCluster(t, 0)
	c.load(images.Archive(t, images.Busybox))
	c.apply(guarded)
	c.waitReady("web", "friend", "stranger")
	address := c.field("web", ".status.podIP")
	// asks says whether a pod gets an answer, by a way and in a time that is long for one and short for a dropped packet.
	asks := func(pod, url string) bool {
		out, err := c.try("kubectl", "exec", pod, "--", "sh", "-c", "(wget -qO- "+url+" & p=$!; (sleep 3; kill $p 2>/dev/null) & wait $p)")
		return err == nil && strings.Contains(out, "host: web")
	}
	outside := func() bool {
		out, _ := exec.Command(away[0], slices.Concat(away[1:], []string{"curl", "-sS", "--noproxy", "*", "--max-time", "3", "http://" + outsideNode + ":30080/"})...).CombinedOutput()
		return strings.Contains(string(out), "host: web")
	}
	expect := func(when string, friend, stranger, byService, fromOutside bool) {
		t.Helper()
		for _, q := range []struct {
			who  string
			got  bool
			want bool
		}{
			{"the friend", asks("friend", "http://"+address+"/"), friend},
			{"the stranger", asks("stranger", "http://"+address+"/"), stranger},
			{"the friend by the Service's name", asks("friend", "http://web/"), byService},
			{"the machine outside", outside(), fromOutside},
		} {
			if q.got != q.want {
				t.Errorf("%s: %s is answered: %t, wanted %t", when, q.who, q.got, q.want)
			}
		}
		if _, err := askOnce("http://" + address + "/"); err != nil {
			t.Errorf("%s: the node is not answered: %v", when, err) // probes come from there
		}
	}
	expect("without a policy", true, true, true, true)
	c.apply(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, spec: {podSelector: {matchLabels: {app: web}},
  ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]}}`)
	expect("for friends alone", true, false, true, false)
	c.apply(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: outside}, spec: {podSelector: {matchLabels: {app: web}},
  ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}}`)
	expect("for the world outside as well", true, false, true, true)
	c.kubectl("label", "pod", "stranger", "role=friend")
	expect("with a stranger who is a friend now", true, true, true, true)
	c.kubectl("label", "pod", "stranger", "role-")
	c.apply(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: mute}, spec: {podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress],
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}}`)
	expect("with a friend who cannot ask for names", true, false, false, true)
	c.apply(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: names}, spec: {podSelector: {}, policyTypes: [Egress],
  egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}]}}`)
	expect("with names for everybody", true, false, true, true)
	kill(t, c.pid("sampan"))
	if !outside() { // nobody else can be asked to ask now
		t.Error("while sampan is away the machine outside is not answered")
	}
	c.up()
	expect("once it is back", true, false, true, true)
	c.kubectl("delete", "networkpolicies", "--all")
	expect("with the policies gone", true, true, true, true)
}
