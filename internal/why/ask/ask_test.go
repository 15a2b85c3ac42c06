package ask

import (
	"testing"

	"sampan.dev/internal/resource/kinds"
)

func TestWhatPeopleNameThingsBy(t *testing.T) {
	table := kinds.Table()
	for _, c := range []struct {
		args             []string
		kind, name, fail string
	}{
		{args: []string{"pod/web-1"}, kind: "pods", name: "web-1"},
		{args: []string{"po", "web-1"}, kind: "pods", name: "web-1"},
		{args: []string{"Pods/web-1"}, kind: "pods", name: "web-1"},
		{args: []string{"deploy/web"}, kind: "deployments", name: "web"},
		{args: []string{"deployments.apps/web"}, kind: "deployments", name: "web"},
		{args: []string{"deployments.batch/web"}, name: "web"},
		{args: []string{"rs/web"}, kind: "replicasets", name: "web"},
		{args: []string{"sts/db"}, kind: "statefulsets", name: "db"},
		{args: []string{"ds/log"}, kind: "daemonsets", name: "log"},
		{args: []string{"job/sum"}, kind: "jobs", name: "sum"},
		{args: []string{"svc/web"}, kind: "services", name: "web"},
		{args: []string{"ns", "shop"}, kind: "namespaces", name: "shop"},
		{args: []string{"no/n1"}, kind: "nodes", name: "n1"},
		{args: []string{"pdb/web"}, kind: "poddisruptionbudgets", name: "web"},
		{args: []string{"thing/x"}, name: "x"},
		{args: []string{"web-1"}, fail: `"web-1" is not KIND/NAME, such as pod/web-1`},
		{args: []string{"pod/"}, fail: `"pod/" is not KIND/NAME, such as pod/web-1`},
		{args: []string{"pod/a/b"}, fail: `"pod/a/b" is not KIND/NAME, such as pod/web-1`},
		{args: []string{"pod/a", "b"}, fail: `"pod/a b": one object at a time, as KIND/NAME or KIND NAME`},
		{args: []string{"pod", "a", "b"}, fail: `unexpected argument "b"`},
		{fail: `what is to be explained? KIND/NAME, such as pod/web-1`},
	} {
		word, name, err := target(c.args)
		if err != nil || c.fail != "" {
			if err == nil || err.Error() != c.fail {
				t.Errorf("%q: %v, want %q", c.args, err, c.fail)
			}
			continue
		}
		plural := ""
		if k := kindOf(table, word); k != nil {
			plural = k.Plural
		}
		if plural != c.kind || name != c.name {
			t.Errorf("%q is %s %s, want %s %s", c.args, plural, name, c.kind, c.name)
		}
	}
}

// What is explained, and what is read on the way, is served.
func TestReadersAreOfKindsThatAreServed(t *testing.T) {
	table := kinds.Table()
	for plural := range readers {
		if k := kindOf(table, plural); k == nil || k.Plural != plural {
			t.Errorf("no kind is called %s", plural)
		}
	}
}

func TestLogsDoNotMoveTheCursor(t *testing.T) {
	if got, want := printable("a\x1b[2J\tb\x7f é\r"), "a[2J\tb é"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
