package e2e

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"

	"sampan.dev/internal/instance"
)

// fleet is several servers without a node on one datastore, and an agent that lists them all.
type fleet struct {
	t       *testing.T
	store   *datastore
	servers []*cluster
	callers []*caller
	agent   *cluster
	node    string // of the agent
	since   string // since when it is Ready
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t: t, store: newDatastore(t, "swdb", "192.168.91", 3)}
	flags := append(f.store.flags(), "--no-agent", "--merge-kubeconfig=false", "--log-level=info")
	var addrs []string
	for i, name := range []string{"s1", "s2", "s3"} {
		m := newMachine(t, name, "sws", "192.168.90.2"+name[1:])
		m.reachesStore(f.store, "192.168.91.2"+name[1:])
		s := m.node(t)
		s.args = append([]string{"--node-name=" + name, "--node-ip=" + m.addr}, flags...)
		words := append([]string{"server", "--detach"}, s.args...)
		if i > 0 {
			words = append(words, "--token="+f.token(0))
		}
		s.sampan(words...)
		f.servers, addrs = append(f.servers, s), append(addrs, m.addr)
	}
	reachable(t, "sws", "192.168.90.1")
	for _, s := range f.servers {
		f.callers = append(f.callers, s.caller())
	}
	m := newMachine(t, "a1", "sws", "192.168.90.31")
	f.agent = m.node(t)
	f.agent.args = []string{"--log-level=info", "--node-name=a1", "--server=" + strings.Join(addrs, ",")}
	f.agent.sampan(append([]string{"agent", "--detach", "--token=" + f.servers[0].token()}, f.agent.args...)...)
	return f
}

// token is what another server joins with.
func (f *fleet) token(server int) string {
	f.t.Helper()
	lines := strings.Split(strings.TrimSpace(f.servers[server].sampan("token", "create", "--server")), "\n")
	return lines[len(lines)-1]
}

func (f *fleet) start(i int) {
	f.t.Helper()
	f.servers[i].sampan(append([]string{"server", "--detach"}, f.servers[i].args...)...)
}

// leader is which server holds the Lease of the control loops, as the server asked says; -1: none of them.
func (f *fleet) leader(asked int) int {
	var lease coordinationv1.Lease
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
	defer cancel()
	if f.callers[asked].do(ctx, http.MethodGet, "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/sampan-control-loops", nil, &lease) != nil || lease.Spec.HolderIdentity == nil {
		return -1
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return slices.IndexFunc(f.servers, func(s *cluster) bool { return s.on.name == name })
}

// leads is who holds the Lease, and the how manieth that is.
func (f *fleet) leads() string {
	f.t.Helper()
	return f.servers[f.alive()].kubectl("get", "lease", "-n", "kube-system", "sampan-control-loops", "-o", "jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}")
}

// nextLeader waits until one leads that did not.
func (f *fleet) nextLeader(asked, old int, since time.Time) int {
	f.t.Helper()
	now := -1
	eventually(f.t, "another server leads", func() bool { now = f.leader(asked); return now >= 0 && now != old })
	f.t.Logf("%s leads after %s, %v later", f.servers[now].on.name, f.servers[old].on.name, time.Since(since).Round(10*time.Millisecond))
	return now
}

// asks are the servers that the agent's machine has connections with.
func (f *fleet) asks() (all []int) {
	out := f.agent.on.run("ss", "-tnH", "state", "established", "dport", "=", ":6443")
	for i, s := range f.servers {
		if strings.Contains(out, s.on.addr+":6443") {
			all = append(all, i)
		}
	}
	return all
}

// runs is which containers there are and how often each was started, as the cluster says, and their processes.
func (f *fleet) runs(app string) (text string, pids []int) {
	f.t.Helper()
	text = f.servers[f.alive()].kubectl("get", "pods", "-l", "app="+app, "-o", `jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n"), f.agent.containers()
}

// alive is a server that runs.
func (f *fleet) alive() int {
	return slices.IndexFunc(f.servers, func(s *cluster) bool { return s.server() != 0 })
}

// server is the process of a data directory.
func (c *cluster) server() int {
	inst, err := instance.At(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return inst.Running()
}

// ready waits until a node is Ready, and notes since when it has been so.
func (f *fleet) ready(node string) {
	f.t.Helper()
	f.node = node
	s := f.servers[f.alive()]
	s.kubectl("wait", "--for=condition=Ready", "node/"+node, "--timeout=60s")
	f.since = s.kubectl("get", "node", node, "-o", readySince)
}

const readySince = `jsonpath={.status.conditions[?(@.type=="Ready")].status} since {.status.conditions[?(@.type=="Ready")].lastTransitionTime}`

// wellAllAlong fails if the node has not been Ready since the last call of ready, or if a pod was evicted.
func (f *fleet) wellAllAlong(when string) {
	f.t.Helper()
	if now := f.servers[f.alive()].kubectl("get", "node", f.node, "-o", readySince); now != f.since {
		f.t.Errorf("%s: Ready of the node is %s, it was %s", when, now, f.since)
	}
	f.noneEvicted(when)
}

// noneEvicted fails if a pod was evicted, or is about to be.
func (f *fleet) noneEvicted(when string) {
	f.t.Helper()
	s := f.servers[f.alive()]
	if out := s.kubectl("get", "events", "-A", "-o", `jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}`); strings.Contains(out, "TaintManagerEviction") {
		f.t.Errorf("%s: a pod was evicted:\n%s", when, out)
	}
	if taints := s.kubectl("get", "node", f.node, "-o", "jsonpath={.spec.taints}"); taints != "" {
		f.t.Errorf("%s: the node has taints: %s", when, taints)
	}
}

// same fails if not all containers that there were run on.
func (f *fleet) same(before string, processes []int, when string) {
	f.t.Helper()
	now, pids := f.runs("idle")
	if now != before {
		f.t.Errorf("%s: containers were\n%s\nand are\n%s", when, before, now)
	}
	for _, pid := range processes {
		if !slices.Contains(pids, pid) {
			f.t.Errorf("%s: process %d has gone", when, pid)
		}
	}
}

// slowPlainly is what readyz says of a store whose writes take long.
var slowPlainly = regexp.MustCompile(`(?m)^\[-\]store-pace failed: (the disk|etcd) is slow: .*\d+(\.\d+)?s$`)

const idle = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle}
spec:
  replicas: 2
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: idle, image: "sampan.dev/hello:1"}]
`

// hasty is a pod that does not tolerate for long that its node is not reached.
const hasty = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: hasty}
spec:
  replicas: 1
  selector: {matchLabels: {app: hasty}}
  template:
    metadata: {labels: {app: hasty}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]
      containers: [{name: hasty, image: "sampan.dev/hello:1"}]
`

// Servers and members of etcd are killed, cut off and stopped, in turn, while clients write: see the steps.
func TestServersOnADatastore(t *testing.T) {
	t.Parallel() // with the others that wait for the most part
	f := newFleet(t)
	f.servers[0].apply(idle)
	f.servers[1].kubectl("rollout", "status", "deployment/idle", "--timeout=60s")
	before, processes := f.runs("idle")
	same := func(after string) { t.Helper(); f.same(before, processes, after) }
	reconciles := func(by int, app string) {
		t.Helper()
		f.servers[by].apply(strings.ReplaceAll(strings.ReplaceAll(idle, "idle", app), "replicas: 2", "replicas: 1"))
		f.servers[by].kubectl("rollout", "status", "deployment/"+app, "--timeout=60s")
	}

	l := newLoad(t, 4, f.callers...)
	l.goesOn("at first")

	// The server that leads is killed.
	old := f.leader(0)
	if old < 0 {
		t.Fatal("no server leads")
	}
	killed := time.Now()
	kill(t, f.servers[old].server())
	l.goesOn("the leading server was killed")

	// And so is a member of etcd: the one that leads.
	m := f.store.leads()
	m.signal(t, unix.SIGKILL)
	l.goesOn("the leading member of etcd was killed")
	f.nextLeader(f.alive(), old, killed)
	reconciles(f.alive(), "after-kill")
	same("the leading server was killed, and a member")
	f.start(old)
	f.store.start(m, func() {})

	// The server that leads, and those that the agent speaks with, lose etcd without a word.
	old = f.leader(f.alive())
	lost := []int{old}
	if asked := f.asks(); len(asked) == 1 && asked[0] != old {
		lost = append(lost, asked[0])
	}
	since := time.Now()
	rest := 0
	for i := range f.servers {
		if slices.Contains(lost, i) {
			f.servers[i].on.loseStore(f.store)
		} else {
			rest = i
		}
	}
	l.goesOn("servers lost etcd")
	f.nextLeader(rest, old, since)
	reconciles(rest, "after-cut")
	same("servers lost etcd")
	var told string
	_ = f.callers[old].do(t.Context(), http.MethodGet, "/readyz?verbose", nil, &told)
	contains(t, "readyz of a server that lost etcd", told, "[-]etcd failed: no answer within 2s (https://192.168.91.11:2379: ")
	t.Logf("readyz of a server that lost etcd:\n%s", told)
	for _, i := range lost {
		f.servers[i].on.findStore(f.store)
	}
	for _, c := range f.callers {
		eventually(t, c.base+" is ready", func() bool { return c.do(t.Context(), http.MethodGet, "/readyz", nil, nil) == nil })
	}
	l.goesOn("they found it again")
	f.ready("a1")

	// Members of etcd stand still for two seconds, in turns: requests are slow, and that is all.
	leads := f.leads()
	slow := false
	for _, m := range f.store.members {
		m.signal(t, unix.SIGSTOP)
		over := time.After(2 * time.Second)
		var asked sync.WaitGroup
		for _, c := range f.callers {
			asked.Go(func() {
				if err := c.do(t.Context(), http.MethodGet, "/livez", nil, nil); err != nil {
					t.Errorf("%s is not alive while a member of etcd stands still: %v", c.base, err)
				}
			})
		}
		for waiting := true; waiting; {
			var told string
			for _, c := range f.callers {
				if c.do(t.Context(), http.MethodGet, "/readyz?verbose", nil, &told) != nil && slowPlainly.MatchString(told) {
					slow = true
				}
			}
			select {
			case <-over:
				waiting = false
			default:
				pause()
			}
		}
		m.signal(t, unix.SIGCONT)
		asked.Wait()
		l.goesOn("a member of etcd stood still")
	}
	if !slow {
		t.Error("no server's readyz has said that etcd is slow")
	}
	f.wellAllAlong("members of etcd stood still in turns")
	if now := f.leads(); now != leads {
		t.Errorf("members of etcd stood still in turns: the loops are led by %s, and were by %s", now, leads)
	}
	l.end()

	// All of them stand still, for longer than a node's lease and its pods' tolerations last. The agent asks all servers, who say so: nothing is stopped.
	f.servers[0].apply(hasty)
	f.servers[0].kubectl("rollout", "status", "deployment/hasty", "--timeout=60s")
	hastyBefore, _ := f.runs("hasty")
	for _, m := range f.store.members {
		m.signal(t, unix.SIGSTOP)
	}
	time.Sleep(50 * time.Second)
	for _, m := range f.store.members {
		m.signal(t, unix.SIGCONT)
	}
	for i, c := range f.callers {
		eventually(t, c.base+" is ready after etcd stood still", func() bool { return c.do(t.Context(), http.MethodGet, "/readyz", nil, nil) == nil })
		reconciles(i, "after-stop-"+strconv.Itoa(i))
	}
	f.wellAllAlong("etcd stood still")
	same("etcd stood still")
	if now, _ := f.runs("hasty"); now != hastyBefore {
		t.Errorf("etcd stood still: containers were\n%s\nand are\n%s", hastyBefore, now)
	}
	for _, s := range f.servers {
		if s.server() == 0 {
			t.Errorf("%s does not run", s.on.name)
		}
	}
}
