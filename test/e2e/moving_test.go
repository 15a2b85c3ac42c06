package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// objects are all that people and controllers have made, by kind, name and uid.
func (c *cluster) objects() []string {
	c.t.Helper()
	out := c.kubectl("get", "nodes,namespaces,pods,deployments,replicasets,services,endpointslices.discovery.k8s.io,configmaps,secrets,serviceaccounts,controllerrevisions,poddisruptionbudgets", "-A",
		"-o", `jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.uid}{"\n"}{end}`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return lines
}

// stop ends the server and leaves pods running.
func (c *cluster) stop() {
	c.t.Helper()
	pid := c.server()
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, fmt.Sprintf("process %d ends", pid), func() bool { return c.server() == 0 })
}

// again starts the server with what it remembers.
func (c *cluster) again(flags ...string) {
	c.t.Helper()
	c.sampan(append([]string{"server", "--detach", "--merge-kubeconfig=false", "--log-level=info"}, flags...)...)
}

// maps watches the ConfigMaps of the default namespace after a revision, and tells each event as TYPE NAME VALUE.
func (c *caller) maps(ctx context.Context, after string) (<-chan string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/api/v1/namespaces/default/configmaps?watch=true&resourceVersion="+after, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	told := make(chan string, 100)
	go func() {
		defer close(told)
		defer resp.Body.Close()
		for in := json.NewDecoder(resp.Body); ; {
			var e struct {
				Type   string
				Object struct {
					corev1.ConfigMap
					Reason string
				}
			}
			if in.Decode(&e) != nil {
				return
			}
			told <- strings.TrimSpace(e.Type + " " + e.Object.Name + e.Object.Reason + " " + e.Object.Data["v"])
		}
	}()
	return told, nil
}

// version is the resourceVersion that a list has now.
func (c *caller) version(t testing.TB) string {
	t.Helper()
	var list corev1.ConfigMapList
	if err := c.do(t.Context(), http.MethodGet, "/api/v1/namespaces/default/configmaps", nil, &list); err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}

// expired fails unless a watch after a revision of another store is told to list again.
func (c *caller) expired(t testing.TB, after string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	told, err := c.maps(ctx, after)
	if err != nil {
		t.Fatal(err)
	}
	if e := <-told; e != "ERROR Expired" {
		t.Errorf("a watch after %s, which the store before has given, is told %q", after, e)
	}
}

// savedAndRestored saves a snapshot, changes what there is, and brings it back, at one server; a watch at another sees it all.
func savedAndRestored(t *testing.T, c *cluster, watched *caller) {
	t.Helper()
	c.kubectl("create", "configmap", "kept", "--from-literal=v=1")
	c.kubectl("create", "configmap", "gone", "--from-literal=v=1")
	lines := strings.Split(strings.TrimSpace(c.sampan("snapshot", "save")), "\n")
	file := lines[len(lines)-1]
	name := file[strings.LastIndex(file, "/")+1:]
	contains(t, "the list", c.sampan("snapshot", "list"), name)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, err := watched.maps(ctx, watched.version(t))
	if err != nil {
		t.Fatal(err)
	}
	next := func(want ...string) {
		t.Helper()
		for range want {
			select {
			case e, ok := <-told:
				if !ok {
					t.Fatalf("the watch has ended before %v", want)
				}
				if !slices.Contains(want, e) {
					t.Errorf("the watch is told %q, want one of %q", e, want)
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("the watch is not told %v", want)
			}
		}
	}
	c.kubectl("patch", "configmap", "kept", "--type=merge", `-p={"data":{"v":"2"}}`)
	c.kubectl("delete", "configmap", "gone")
	c.kubectl("create", "configmap", "new", "--from-literal=v=1")
	c.kubectl("scale", "deployment/idle", "--replicas=3")
	c.kubectl("rollout", "status", "deployment/idle", "--timeout=60s")
	next("MODIFIED kept 2")
	next("DELETED gone 1")
	next("ADDED new 1")
	contains(t, "a restore", c.sampan("snapshot", "restore", name), "Done: ")
	next("MODIFIED kept 1", "ADDED gone 1", "DELETED new 1") // in any order
	if out := c.kubectl("get", "configmaps", "-o", "jsonpath={.items[*].metadata.name} {.items[*].data.v}"); out != "gone kept kube-root-ca.crt 1 1" {
		t.Errorf("after the restore there are %s", out)
	}
	c.kubectl("wait", "--for=jsonpath={.status.replicas}=2", "deployment/idle", "--timeout=60s")
	c.kubectl("rollout", "status", "deployment/idle", "--timeout=60s")
	c.kubectl("delete", "configmap", "kept", "gone")
	eventually(t, "the pod that is no more wanted has gone", func() bool {
		return len(strings.Fields(c.kubectl("get", "pods", "-l", "app=idle", "-o", "name"))) == 2
	})
}

// A cluster is saved and brought back, and moves from its own store to etcd and back again, and its pods notice nothing of it.
func TestMovingBetweenStores(t *testing.T) {
	t.Parallel()
	d := newDatastore(t, "swde", "192.168.97", 1)
	one, two, node := newMachine(t, "move1", "swse", "192.168.96.10"), newMachine(t, "move2", "swse", "192.168.96.11"), newMachine(t, "move3", "swse", "192.168.96.12")
	reachable(t, "swse", "192.168.96.1")
	one.reachesStore(d, "192.168.97.21")
	two.reachesStore(d, "192.168.97.22")
	c := one.serve(t, "--no-agent", "--node-ip="+one.addr)
	agent := node.join(t, c)
	f := &fleet{t: t, servers: []*cluster{c}, agent: agent}
	c.apply(idle)
	c.kubectl("rollout", "status", "deployment/idle", "--timeout=60s")
	f.ready("move3")
	before, processes := f.runs("idle")
	at := c.caller()
	savedAndRestored(t, c, at)
	f.same(before, processes, "after a restore")

	refused := func(what, want string, args ...string) {
		t.Helper()
		out, err := c.try(append([]string{"migrate"}, args...)...)
		if err == nil {
			t.Fatalf("%s: it has moved:\n%s", what, out)
		}
		contains(t, what, err.Error(), want)
	}
	// moved is what must hold after each move.
	moved := func(what, version string, was []string, pods string) {
		t.Helper()
		if now := c.objects(); !slices.Equal(now, was) {
			t.Errorf("%s: there were\n%s\nand are\n%s", what, strings.Join(was, "\n"), strings.Join(now, "\n"))
		}
		at.expired(t, version)
		c.apply(strings.ReplaceAll(strings.ReplaceAll(idle, "idle", pods), "replicas: 2", "replicas: 1")) // which the agent has to hear of
		c.kubectl("rollout", "status", "deployment/"+pods, "--timeout=60s")
		f.ready("move3")
		f.noneEvicted(what)
		f.same(before, processes, what)
	}

	refused("while the server runs", "stop it first, with Ctrl-C or `kill ", d.flags()...)
	was, version := c.objects(), at.version(t)
	c.stop()
	contains(t, "the move", c.sampan(append([]string{"migrate"}, d.flags()...)...), "keys are in https://192.168.97.11:2379 now, and compared. Start `sampan server` again")
	refused("a second time", "is on the datastore https://192.168.97.11:2379 already", d.flags()...)
	c.again()
	moved("moved to etcd", version, was, "after-move")

	other := two.node(t)
	lines := strings.Split(strings.TrimSpace(c.sampan("token", "create", "--server")), "\n")
	other.sampan(append([]string{"server", "--detach", "--merge-kubeconfig=false", "--no-agent", "--node-name=move2", "--node-ip=" + two.addr, "--token=" + lines[len(lines)-1]}, d.flags()...)...)
	savedAndRestored(t, other, at)
	f.same(before, processes, "after a restore of etcd")

	was, version = c.objects(), at.version(t)
	c.stop()
	refused("while another server runs", "the server at 192.168.96.11:6443 runs on the datastore: stop all servers first", "--embedded")
	other.stop()
	contains(t, "the move back", c.sampan("migrate", "--embedded"), "and compared. Start `sampan server` again")
	c.again()
	moved("moved back", version, was, "after-move-back")
}
