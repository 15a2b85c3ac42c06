package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whoever may not share a datastore is told why, in one sentence, and what to do.
func TestWhoMayShareADatastore(t *testing.T) {
	t.Parallel()
	d := newDatastore(t, "swdc", "192.168.93", 1)
	one, two, three := newMachine(t, "share1", "swsc", "192.168.94.10"), newMachine(t, "share2", "swsc", "192.168.94.11"), newMachine(t, "share3", "swsc", "192.168.94.12")
	for i, m := range []*machine{one, two, three} {
		m.reachesStore(d, "192.168.93."+[]string{"21", "22", "23"}[i])
	}
	flags := append(d.flags(), "--no-agent", "--node-ip=192.168.94.10")
	first := one.serve(t, flags...)
	token := strings.TrimSpace(first.sampan("token", "create", "--server"))
	token = token[strings.LastIndex(token, "\n")+1:]

	refused := func(what, want string, c *cluster, args ...string) {
		t.Helper()
		began := time.Now()
		out, err := c.try(append([]string{"server", "--merge-kubeconfig=false", "--no-agent"}, args...)...)
		if err == nil {
			t.Fatalf("%s: it has started:\n%s", what, out)
		}
		contains(t, what, err.Error(), want)
		lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
		t.Logf("%s, after %v: %s", what, time.Since(began).Round(100*time.Millisecond), lines[len(lines)-1])
	}
	// with is the datastore's flags, with another value for one.
	with := func(args ...string) []string { return append(d.flags(), args...) }
	named := "--node-name=share2"
	refused("no token", "give it with --token; `sampan token create --server` prints it", two.node(t), with(named)...)
	refused("another token", "the token is not that of the cluster in the datastore", two.node(t), with(named, "--token="+strings.Repeat("0", 64))...)
	refused("half a token", "a server's token has 64 hexadecimal digits", two.node(t), with(named, "--token="+token[:40])...)
	refused("a name that is taken", `the name "share1" is that of the server at 192.168.94.10:6443: start this one with another --node-name`, two.node(t), with("--node-name=share1", "--token="+token)...)
	refused("an expired certificate", "ended on "+time.Now().Add(-time.Minute).UTC().Format(time.DateOnly)+": put a new one there", two.node(t),
		with(named, "--token="+token, "--datastore-cert="+d.file("expired.crt"), "--datastore-key="+d.file("expired.key"))...)
	refused("no certificate", "there is no trust between etcd and this server", two.node(t), named, "--token="+token, d.flags()[0], d.flags()[1])
	refused("another authority", "there is no trust between etcd and this server", two.node(t), with(named, "--token="+token, "--datastore-ca="+filepath.Join(first.dir, "pki", "ca.crt"))...)
	refused("other ranges", "start it with --pod-range 10.244.0.0/16 --service-range 10.96.0.0/16", two.node(t), with(named, "--token="+token, "--pod-range=10.10.0.0/16")...)

	// A directory with a cluster of its own.
	own := three.serve(t, "--no-agent")
	kill(t, own.server())
	refused("the keys of another cluster", "the keys there are of another cluster than the datastore's: choose another --data-dir", own, with("--node-name=share3", "--token="+token)...)
	if left, err := os.ReadFile(filepath.Join(own.dir, "pki", "ca.crt")); err != nil || len(left) == 0 {
		t.Errorf("its keys: %v", err)
	}
	empty := newDatastore(t, "swdd", "192.168.95", 1)
	run(t, "ip", "link", "set", three.storePort(), "master", empty.bridge)
	three.run("ip", "addr", "add", "192.168.95.23/24", "dev", "eth1")
	emptyFlags := empty.flags()
	other := three.node(t)
	refused("an empty datastore, and a store of its own", "moves it there", own, append(emptyFlags, "--node-name=share3")...)
	own.sampan("server", "--detach", "--merge-kubeconfig=false", "--no-agent") // it is as it was
	eventually(t, "the cluster has said who its authority is", func() bool {   // which tells its objects from another's
		_, err := own.try("kubectl", "get", "configmap", "-n", "kube-system", "kube-root-ca.crt")
		return err == nil
	})
	kill(t, own.server())
	contains(t, "the move", own.sampan(append([]string{"migrate"}, emptyFlags...)...), "keys are in https://192.168.95.11:2379 now, and compared")
	refused("the objects of another cluster", "holds the objects of another cluster", other, append(emptyFlags, "--node-name=other")...)
}
