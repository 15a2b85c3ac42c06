package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/instance"
)

// machine is a network namespace that a process of its own holds, on a switch that is the run's.
type machine struct {
	t    testing.TB
	pid  int
	name string
	addr string
}

// newMachine makes a machine with an address on a switch. Neither the machine nor the switch has a way out.
func newMachine(t testing.TB, name, bridge, addr string) *machine {
	t.Helper()
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	m := &machine{t: t, pid: holder.Process.Pid, name: name, addr: addr}
	switchOf(t, bridge)
	port := "to-" + name
	run(t, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(m.pid))
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", port).Run() }) // its namespace goes later, in its own time
	run(t, "ip", "link", "set", port, "master", bridge, "up")
	m.run("ip", "link", "set", "lo", "up")
	m.run("ip", "addr", "add", addr+"/24", "dev", "eth0")
	m.run("ip", "link", "set", "eth0", "up")
	return m
}

// switchOf makes a switch, if it is not there yet.
func switchOf(t testing.TB, bridge string) {
	t.Helper()
	if exec.Command("ip", "link", "show", bridge).Run() != nil {
		run(t, "ip", "link", "add", bridge, "type", "bridge")
		run(t, "ip", "link", "set", bridge, "up")
		t.Cleanup(func() { _ = exec.Command("ip", "link", "del", bridge).Run() })
	}
}

// words are a command that runs on the machine.
func (m *machine) words(words ...string) []string {
	return append([]string{"nsenter", "--target=" + strconv.Itoa(m.pid), "--net", "--"}, words...)
}

func (m *machine) run(words ...string) string {
	m.t.Helper()
	words = m.words(words...)
	return run(m.t, words[0], words[1:]...)
}

// ask sends one HTTP request from the machine, and says whether it was answered in time.
func (m *machine) ask(url string) bool {
	words := m.words("curl", "-s", "-m", "2", "-o", "/dev/null", url)
	return exec.Command(words[0], words[1:]...).Run() == nil
}

// node is a data directory on a machine that some cluster's server or agent is started on.
func (m *machine) node(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), m.name), on: m}
	inst, err := instance.At(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	remember(inst.ID)
	t.Cleanup(func() {
		if t.Failed() {
			c.evidence()
		}
		if out, err := c.command(context.Background(), "reset").CombinedOutput(); err != nil {
			t.Errorf("reset: %v\n%s", err, out)
		}
	})
	return c
}

// serve starts a server on the machine.
func (m *machine) serve(t testing.TB, flags ...string) *cluster {
	t.Helper()
	c := m.node(t)
	c.args = append([]string{"--merge-kubeconfig=false", "--log-level=info", "--node-name=" + m.name}, flags...)
	c.sampan(append([]string{"server", "--detach"}, c.args...)...)
	return c
}

// join makes the machine a node of a server's cluster.
func (m *machine) join(t testing.TB, server *cluster, flags ...string) *cluster {
	t.Helper()
	c := m.node(t)
	c.args = append([]string{"--log-level=info", "--node-name=" + m.name, "--server=" + server.on.addr}, flags...)
	c.sampan(append([]string{"agent", "--detach", "--token=" + server.token()}, c.args...)...)
	return c
}

func (c *cluster) token() string {
	c.t.Helper()
	lines := strings.Split(strings.TrimSpace(c.sampan("token", "create")), "\n")
	return lines[len(lines)-1]
}

// dies ends all of a machine's processes at once, and its link: nobody says goodbye.
func (c *cluster) dies() {
	c.t.Helper()
	c.on.run("ip", "link", "set", "eth0", "down")
	agent, runtime := c.pid("sampan"), c.pid("sampan-runtime")
	kill(c.t, agent)
	kill(c.t, runtime)
	for _, pid := range c.containers() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: sampan.dev/hello:1
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 3
  serviceName: db
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: db}}}}]}}
      containers: [{name: db, image: "sampan.dev/hello:1"}]
`

func TestAMachineDiesAndItsPodsComeBackElsewhere(t *testing.T) {
	one, two, three := newMachine(t, "one", "sw0", "192.168.78.10"), newMachine(t, "two", "sw0", "192.168.78.11"), newMachine(t, "three", "sw0", "192.168.78.12")
	c := one.serve(t, "--default-toleration-seconds=3")
	two.join(t, c, "--node-labels=topology.kubernetes.io/zone=b")
	dying := three.join(t, c)
	if out := c.kubectl("get", "nodes", "-o", "wide"); strings.Count(out, " Ready ") != 3 {
		t.Fatalf("not all nodes are Ready:\n%s", out)
	}
	contains(t, "the second node", c.kubectl("get", "node", "two", "--show-labels"), "topology.kubernetes.io/zone=b")
	c.apply(web)
	c.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.kubectl("rollout", "status", "statefulset/db", "--timeout=60s")

	// Every node's port leads to pods of all nodes, from every machine, and pods see each other by their own addresses.
	for _, from := range []*machine{one, two, three} {
		for _, to := range []string{"127.0.0.1", "192.168.78.10", "192.168.78.11", "192.168.78.12"} {
			for range 6 {
				if !from.ask("http://" + to + ":30080/") {
					t.Errorf("from %s by %s: no answer", from.name, to)
					break
				}
			}
		}
	}
	at := func(node string) []string {
		return strings.Fields(c.kubectl("get", "pods", "-l", "app=web", "--field-selector=spec.nodeName="+node, "-o", "jsonpath={.items[*].metadata.name}"))
	}
	if len(at("one")) == 0 || len(at("two")) == 0 || len(at("three")) == 0 {
		t.Fatalf("the pods are not spread:\n%s", c.kubectl("get", "pods", "-o", "wide"))
	}
	contains(t, "a log from another machine", c.kubectl("logs", at("two")[0]), "listens on")
	pod := at("two")[0]
	contains(t, "a command on another machine", c.kubectl("exec", pod, "--", "/hello", "ask", "http://web.default.svc.cluster.local/", "12"), "Hello")
	ip := c.field(at("three")[0], ".status.podIP")
	contains(t, "pod to pod", c.kubectl("exec", pod, "--", "/hello", "ask", "http://"+ip+"/"), "Hello")
	contains(t, "what nodes use", c.kubectl("top", "nodes"), "three")
	contains(t, "a node by its own server", c.kubectl("get", "--raw", "/api/v1/nodes/three/proxy/healthz"), "ok")

	lost := at("three")
	db := c.kubectl("get", "pods", "-l", "app=db", "--field-selector=spec.nodeName=three", "-o", "jsonpath={.items[*].metadata.name}")
	dying.dies()
	c.kubectl("wait", "--for=condition=Ready=Unknown", "node/three", "--timeout=60s")
	// From here on the Service sends nobody there any more; rules on another machine follow at their own pace, but soon.
	failed := 0
	for answered := 0; answered < 60; {
		if one.ask("http://127.0.0.1:30080/") && two.ask("http://127.0.0.1:30080/") {
			answered++
			continue
		}
		if failed++; failed > 20 {
			t.Fatal("the Service goes on sending to a machine that is lost")
		}
		answered = 0
	}
	c.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=6", "deployment/web", "--timeout=90s")
	for _, pod := range lost {
		c.kubectl("wait", "--for=delete", "pod/"+pod, "--timeout=90s")
	}
	c.kubectl("rollout", "status", "statefulset/db", "--timeout=90s")
	for _, pod := range strings.Fields(db) {
		if node := c.field(pod, ".spec.nodeName"); node == "three" {
			t.Errorf("%s is on the lost machine", pod)
		}
	}
	if n := len(at("one")) + len(at("two")); n != 6 {
		t.Errorf("%d pods are on the others:\n%s", n, c.kubectl("get", "pods", "-o", "wide"))
	}

	// It comes back, without a token, with another address; and joins by itself.
	three.run("ip", "addr", "flush", "dev", "eth0")
	three.run("ip", "addr", "add", "192.168.78.99/24", "dev", "eth0")
	three.run("ip", "link", "set", "eth0", "up")
	dying.sampan(append([]string{"agent", "--detach"}, dying.args...)...)
	c.kubectl("wait", "--for=condition=Ready", "node/three", "--timeout=60s")
	c.kubectl("wait", "--for=jsonpath={.status.addresses[0].address}=192.168.78.99", "node/three", "--timeout=60s")
	if left := dying.containers(); len(left) > 0 {
		t.Errorf("processes of pods that are elsewhere now: %v", left)
	}
	c.kubectl("scale", "deployment/web", "--replicas=9")
	c.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	if len(at("three")) == 0 {
		t.Errorf("no pod comes to the machine that is back:\n%s", c.kubectl("get", "pods", "-o", "wide"))
	}
	for range 9 {
		if !two.ask("http://192.168.78.99:30080/") {
			t.Error("no answer from its new address")
		}
	}
	contains(t, "a log from its new address", c.kubectl("logs", at("three")[0]), "listens on")
}

func TestWhoMayJoin(t *testing.T) {
	one, two, three := newMachine(t, "one", "sw1", "192.168.79.10"), newMachine(t, "two", "sw1", "192.168.79.11"), newMachine(t, "three", "sw1", "192.168.79.12")
	c := one.serve(t)
	other := three.serve(t)
	token := c.token()
	refused := func(what, want string, args ...string) {
		t.Helper()
		n := two.node(t)
		words := append([]string{"agent", "--node-name=two"}, args...)
		if !strings.Contains(strings.Join(args, " "), "--server") {
			words = append(words, "--server=192.168.79.10")
		}
		out, err := n.try(words...)
		if err == nil {
			t.Fatalf("%s: it has joined:\n%s", what, out)
		}
		contains(t, what, err.Error(), want)
		if _, err := os.Stat(filepath.Join(n.dir, "pki", "node.crt")); err == nil {
			t.Errorf("%s: it has a certificate", what)
		}
	}
	id, rest, _ := strings.Cut(token, ".")
	secret, pin, _ := strings.Cut(rest, "@")
	refused("no token", "give the last line of `sampan token create`")
	refused("half a token", "this is no join token", "--token="+id+"."+secret)
	refused("another cluster's token", "is not of the cluster that the token is for", "--token="+other.token())
	refused("a wrong secret", "does not know the token "+id, "--token="+id+"."+strings.Repeat("0", 16)+"@"+pin)
	refused("a token that has been deleted", "does not know the token", "--token="+func() string {
		gone := c.token()
		c.sampan("token", "delete", strings.SplitN(gone, ".", 2)[0])
		return gone
	}())
	refused("a server's name", `a node named "one" belongs to this cluster already`, "--token="+token, "--node-name=one")
	refused("nobody there", "refused", "--token="+token, "--server=192.168.79.10:1")
	// Two machines claim one name: the first has it.
	two.join(t, c)
	n := three.node(t)
	if out, err := n.try("agent", "--node-name=two", "--server=192.168.79.10", "--token="+c.token(), "--node-port=10260"); err == nil {
		t.Errorf("a second machine has joined as two:\n%s", out)
	} else {
		contains(t, "a name that is taken", err.Error(), `choose another name with --node-name`)
	}
	if n := strings.Count(c.kubectl("get", "nodes", "-o", "name"), "node/"); n != 2 {
		t.Errorf("there are %d nodes", n)
	}
}

// A machine that reaches no server stops what may run elsewhere by now, before it is made there.
func TestAMachineThatIsCutOffStopsItsPods(t *testing.T) {
	one, two := newMachine(t, "one", "sw2", "192.168.80.10"), newMachine(t, "two", "sw2", "192.168.80.11")
	c := one.serve(t, "--default-toleration-seconds=3")
	n := two.join(t, c)
	c.kubectl("cordon", "one")
	c.apply(strings.ReplaceAll(web, "replicas: 6", "replicas: 1"))
	c.kubectl("rollout", "status", "statefulset/db", "--timeout=60s")
	c.kubectl("uncordon", "one")
	if len(n.containers()) == 0 {
		t.Fatal("nothing runs there")
	}
	two.run("ip", "link", "set", "eth0", "down")
	// Whoever sees the pods elsewhere sees none of them here.
	c.kubectl("wait", "--for=condition=Ready=Unknown", "node/two", "--timeout=60s")
	for end := time.Now().Add(90 * time.Second); ; pause() {
		node, _ := c.try("kubectl", "get", "pod", "db-0", "-o", "jsonpath={.spec.nodeName}")
		if node == "one" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("db-0 is not made again:\n%s", c.kubectl("get", "pods", "-o", "wide"))
		}
	}
	if left := n.containers(); len(left) > 0 {
		t.Errorf("db-0 is on another machine, and these processes run still: %v", left)
	}
	two.run("ip", "link", "set", "eth0", "up")
	c.kubectl("wait", "--for=condition=Ready", "node/two", "--timeout=60s")
	c.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=3", "statefulset/db", "--timeout=60s")
}
