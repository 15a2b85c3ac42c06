package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"sampan.dev/test/images"
)

// perNode is a server and a client on each node, and one node port that asks any server, one that asks those of the node alone.
const perNode = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: echo}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: echo, image: "sampan.dev/hello:1", readinessProbe: {httpGet: {path: /healthz, port: 80}, periodSeconds: 1}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: box}
spec:
  selector: {matchLabels: {app: box}}
  template:
    metadata: {labels: {app: box}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: box
        image: busybox:latest
        imagePullPolicy: Never
        command: [sh, -c, "mkdir /www && head -c 4000000 /dev/urandom > /www/big && exec httpd -f -p 8080 -h /www"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {type: NodePort, selector: {app: echo}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: NodePort, externalTrafficPolicy: Local, selector: {app: echo}, ports: [{port: 80, nodePort: 30081}]}
`

// podsOf are the pods of an app, and their addresses, by node.
func (c *cluster) podsOf(app string) (names, addresses map[string]string) {
	c.t.Helper()
	names, addresses = map[string]string{}, map[string]string{}
	out := c.kubectl("get", "pods", "-l", "app="+app, "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.status.podIP}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 {
			names[f[0]], addresses[f[0]] = f[1], f[2]
		}
	}
	return names, addresses
}

// wget asks from within a pod of busybox, and says what came; nothing within a few seconds is nothing.
func (c *cluster) wget(pod, url string) (string, bool) {
	out, err := c.try("kubectl", "exec", pod, "--", "sh", "-c", "(wget -qO- "+url+" & p=$!; (sleep 4; kill $p 2>/dev/null) & wait $p)")
	return out, err == nil
}

// Two nodes share a link with each other, the third is behind a router, which knows nothing of pods.
func TestTheNetworkReachesEveryNode(t *testing.T) {
	const near, away = "sw3", "sw4"
	one, two := newMachine(t, "one", near, "192.168.81.10"), newMachine(t, "two", near, "192.168.81.11")
	far, client := newMachine(t, "far", away, "192.168.82.12"), newMachine(t, "client", near, "192.168.81.50")
	router(t, near, away, "192.168.81.1", "192.168.82.1")
	for _, m := range []*machine{one, two, client} {
		m.run("ip", "route", "add", "default", "via", "192.168.81.1")
	}
	far.run("ip", "route", "add", "default", "via", "192.168.82.1")
	c := one.serve(t, "--load-balancer-pool=192.168.81.200-192.168.81.207")
	machines, nodes := map[string]*machine{"one": one, "two": two, "far": far}, map[string]*cluster{"one": c}
	nodes["two"], nodes["far"] = two.join(t, c), far.join(t, c)
	for _, n := range nodes {
		n.load(images.Archive(t, images.Busybox))
	}
	c.apply(perNode)
	c.kubectl("rollout", "status", "daemonset/echo", "--timeout=60s")
	c.kubectl("rollout", "status", "daemonset/box", "--timeout=60s")
	echo, echoAt := c.podsOf("echo")
	box, boxAt := c.podsOf("box")
	if len(echo) != 3 || len(box) != 3 {
		t.Fatalf("not every node has its pods: %v %v", echo, box)
	}

	sums := map[string]string{}
	for node := range machines {
		sums[node] = strings.Fields(c.kubectl("exec", box[node], "--", "md5sum", "/www/big"))[0]
	}
	for from := range machines {
		for to := range machines {
			if out, ok := c.wget(box[from], "http://"+echoAt[to]+"/from-"+from); ok { // there is no such page, but the asking is logged
				t.Errorf("a page that is not there: %s", out)
			}
			if log := c.kubectl("logs", echo[to]); !strings.Contains(log, "/from-"+from+`" from `+boxAt[from]+":") && !strings.Contains(log, "/from-"+from+" from "+boxAt[from]+":") {
				t.Errorf("the pod on %s was not asked by the address %s of the pod on %s:\n%s", to, boxAt[from], from, log)
			}
			// More than a packet, in both directions, whatever the links between take at once.
			if got := strings.Fields(c.kubectl("exec", box[from], "--", "sh", "-c", "wget -qO- http://"+boxAt[to]+":8080/big | md5sum"))[0]; got != sums[to] {
				t.Errorf("4 MB from %s to %s arrive as %s, not %s", to, from, got, sums[to])
			}
		}
		if out, ok := c.wget(box[from], "http://echo.default.svc.cluster.local/"); !ok || !strings.Contains(out, "Hello") {
			t.Errorf("by its name from %s: %q", from, out)
		}
	}

	// A node port that stays on its node keeps the client's address, also from behind the router.
	for name, m := range machines {
		for range 9 { // to pods of all nodes
			if !client.ask("http://" + m.addr + ":30080/") {
				t.Errorf("the node port of %s does not answer", name)
				break
			}
		}
		client.ask("http://" + m.addr + ":30081/by-" + name)
		contains(t, "the log of the pod on "+name, c.kubectl("logs", echo[name]), client.addr+":")
	}

	t.Run("policies", func(t *testing.T) { policiesAcross(t, c, box, echoAt) })
	t.Run("a load balancer's address moves", func(t *testing.T) { addressMoves(t, c, client, machines) })
	t.Run("a node has another address", func(t *testing.T) {
		two.run("ip", "addr", "flush", "dev", "eth0")
		two.run("ip", "addr", "add", "192.168.81.77/24", "dev", "eth0")
		two.run("ip", "route", "replace", "default", "via", "192.168.81.1")
		c.kubectl("wait", "--for=jsonpath={.status.addresses[0].address}=192.168.81.77", "node/two", "--timeout=60s")
		for from := range machines {
			reached(t, "the pod on two from "+from, func() bool { _, ok := c.wget(box[from], "http://"+echoAt["two"]+"/"); return ok })
			reached(t, "the pod on "+from+" from two", func() bool { _, ok := c.wget(box["two"], "http://"+echoAt[from]+"/"); return ok })
		}
		contains(t, "a log from its new address", c.kubectl("logs", echo["two"]), "listens on")
	})
	t.Run("a node moves behind the router, and its packets into the tunnel", func(t *testing.T) {
		run(t, "ip", "link", "set", "to-two", "master", away)
		two.run("ip", "addr", "flush", "dev", "eth0")
		two.run("ip", "addr", "add", "192.168.82.11/24", "dev", "eth0")
		two.run("ip", "route", "add", "default", "via", "192.168.82.1")
		c.kubectl("wait", "--for=jsonpath={.status.addresses[0].address}=192.168.82.11", "node/two", "--timeout=60s")
		for _, from := range []string{"one", "far"} {
			reached(t, "the pod on two from "+from, func() bool { _, ok := c.wget(box[from], "http://"+echoAt["two"]+"/"); return ok })
		}
		contains(t, "the way from one", one.run("ip", "route", "get", echoAt["two"]), "dev spvx-")
		if way := far.run("ip", "route", "get", echoAt["two"]); strings.Contains(way, "spvx-") {
			t.Errorf("far and two share a link now, and the way is %s", way)
		}
	})
	t.Run("a node that is deleted has no route any more", func(t *testing.T) {
		nodes["two"].sampan("down")
		c.kubectl("delete", "node", "two")
		reached(t, "the end of the way to two", func() bool {
			words := one.words("ip", "route", "get", echoAt["two"])
			return exec.Command(words[0], words[1:]...).Run() != nil // unreachable: it dies here
		})
	})
}

// reached asks until it is so; a hang alone ends it.
func reached(t testing.TB, what string, holds func() bool) {
	t.Helper()
	begun := time.Now()
	for !holds() {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%s: not within a minute", what)
		}
		pause()
	}
	t.Logf("%s: %v", what, time.Since(begun).Round(time.Millisecond))
}

func policiesAcross(t *testing.T, c *cluster, box, echoAt map[string]string) {
	c.kubectl("label", "pod", box["far"], "role=friend")
	c.apply(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: friends}, spec: {podSelector: {matchLabels: {app: echo}}, ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]}}`)
	for _, node := range []string{"one", "far"} {
		url := "http://" + echoAt[node] + "/"
		reached(t, "the friend's way to "+node, func() bool { _, ok := c.wget(box["far"], url); return ok })
		reached(t, "the end of a stranger's way to "+node, func() bool { _, ok := c.wget(box["two"], url); return !ok })
	}
	c.kubectl("delete", "networkpolicy", "friends")
	reached(t, "a stranger's way again", func() bool { _, ok := c.wget(box["two"], "http://"+echoAt["one"]+"/"); return ok })
}

// addressMoves takes a load balancer's address from a machine that announces it: another one does.
func addressMoves(t *testing.T, c *cluster, client *machine, machines map[string]*machine) {
	two := machines["two"]
	mac := strings.Fields(two.run("cat", "/sys/class/net/eth0/address"))[0]
	if own := strings.Fields(two.run("sh", "-c", "ip -o link show eth0 | sed 's/.*ether \\([0-9a-f:]*\\).*/\\1/'")); len(own) == 1 {
		mac = own[0]
	}
	holder := func(ip string) bool { return strings.Contains(client.run("ip", "neigh", "show", ip), mac) }
	var service, ip string
	for i := range 8 { // who announces is drawn by the address
		service = fmt.Sprintf("lb-%d", i)
		c.apply(`{apiVersion: v1, kind: Service, metadata: {name: ` + service + `}, spec: {type: LoadBalancer, selector: {app: echo}, ports: [{port: 80}]}}`)
		c.kubectl("wait", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}", "service/"+service, "--timeout=60s")
		ip = c.service(service, ".status.loadBalancer.ingress[0].ip")
		reached(t, "load balancer "+ip, func() bool { return client.ask("http://" + ip + "/") })
		if holder(ip) {
			break
		}
	}
	if !holder(ip) {
		t.Fatalf("of eight addresses none is announced by two:\n%s", client.run("ip", "neigh"))
	}
	two.run("ip", "link", "set", "eth0", "down")
	reached(t, ip+" at another machine", func() bool { return client.ask("http://"+ip+"/") && !holder(ip) })
	two.run("ip", "link", "set", "eth0", "up")
	two.run("ip", "route", "replace", "default", "via", "192.168.81.1")
	c.kubectl("wait", "--for=condition=Ready", "node/two", "--timeout=60s")
}

// A link that is slow and loses packets makes no node look dead, and a short break does neither; one way alone being dead does.
func TestABadLink(t *testing.T) {
	const bridge = "sw5"
	one, two := newMachine(t, "one", bridge, "192.168.83.10"), newMachine(t, "two", bridge, "192.168.83.11")
	link := rewire(t, two, bridge)
	link.delay.Store(int64(60 * time.Millisecond))
	link.loss.Store(50)
	c := one.serve(t, "--default-toleration-seconds=600")
	node := two.join(t, c)
	c.kubectl("cordon", "one")
	c.apply(strings.ReplaceAll(web, "replicas: 6", "replicas: 3"))
	c.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	c.kubectl("set", "image", "deployment/web", "web=sampan.dev/hello:2")
	c.kubectl("rollout", "status", "deployment/web", "--timeout=90s")
	var names []string
	reached(t, "the end of the old pods", func() bool {
		names = strings.Fields(c.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"))
		return len(names) == 3
	})
	for _, pod := range names {
		contains(t, "a log over a bad link", c.kubectl("logs", pod), "listens on")
		contains(t, "a command over a bad link", c.kubectl("exec", pod, "--", "/hello", "ask", "http://web.default.svc.cluster.local/", "3"), "version: 2")
	}
	// A break shorter than what the lease is good for.
	lease := func() string {
		return c.kubectl("get", "lease", "two", "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}")
	}
	renewed := func(what string) {
		t.Helper()
		before := lease()
		reached(t, what, func() bool { return lease() != before })
	}
	renewed("a lease over a bad link")
	link.cut.Store(toMachine | fromMachine)
	time.Sleep(3 * time.Second) // the break itself
	link.cut.Store(0)
	renewed("a lease after a break")
	if out := c.kubectl("get", "events", "-A", "--field-selector=reason=NodeNotReady"); strings.Contains(out, "two") {
		t.Errorf("a bad link was taken for a dead node:\n%s", out)
	}
	running := node.containers()
	slices.Sort(running)
	// What the machine says is lost; it hears all.
	link.loss.Store(0)
	link.cut.Store(fromMachine)
	c.kubectl("wait", "--for=condition=Ready=Unknown", "node/two", "--timeout=60s")
	link.cut.Store(0)
	c.kubectl("wait", "--for=condition=Ready", "node/two", "--timeout=60s")
	after := node.containers()
	if slices.Sort(after); !slices.Equal(running, after) {
		t.Errorf("processes of pods before: %v, after: %v", running, after)
	}
}
