package nft

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// steps are changes of everything, with whether they are possible.
func steps() map[string]struct {
	change Change
	fails  error
} {
	key := func(port uint16) Bytes { return Concat(service, TCP, port) }
	return map[string]struct {
		change Change
		fails  error
	}{
		"an element is replaced": {change: Change{
			Delete: []Elements{{"ends", []Element{{Key: Concat(service, TCP, uint16(90), uint32(0))}}}},
			Add:    []Elements{{"ends", []Element{{Key: Concat(service, TCP, uint16(90), uint32(0)), Data: Concat(other, uint16(1))}}}},
		}},
		"a set comes with its rule": {change: Change{
			Sets:  []Set{{Name: "three", Key: Type{Addr4, L4, Port16}, Elements: []Element{{Key: key(93)}}}},
			Rules: []Chain{{Name: "in", Rules: []Rule{{If: []Match{Family{}, Load{Destination4, 4}, Load{Protocol, 5}, Load{DestinationPort, 6}, InSet{Set: "three", Key: 4}}, Do: Drop{}}}}},
		}},
		"a chain comes with the way to it": {change: Change{
			Chains: []Chain{{Name: "new", Rules: []Rule{{Do: Drop{}}}}},
			Add:    []Elements{{"ways", []Element{{Key: Concat(pod), Jump: "new"}}}},
		}},
		"what is not there cannot be deleted":  {Change{Delete: []Elements{{"two", []Element{{Key: key(1)}}}}}, unix.ENOENT},
		"a value that is there is not changed": {Change{Add: []Elements{{"ends", []Element{{Key: Concat(service, TCP, uint16(90), uint32(0)), Data: Concat(other, uint16(1))}}}}}, unix.EEXIST},
	}
}

func TestChange(t *testing.T) {
	for name, step := range steps() {
		t.Run(name, func(t *testing.T) {
			ownNetwork(t)
			for _, kernel := range []Kernel{&Fake{}, New()} {
				if err := kernel.Replace(t.Context(), everything()); err != nil {
					t.Fatal(err)
				}
				step.change.Table = everything().Name
				err := kernel.Change(t.Context(), step.change)
				if !errors.Is(err, step.fails) {
					t.Errorf("%T: got error %v, want %v", kernel, err, step.fails)
				}
				if err != nil && !strings.Contains(err.Error(), "sampan-test") {
					t.Errorf("%T: the error does not name the table: %v", kernel, err)
				}
				// Whether it failed or not, the next step finds the connection in order.
				if err := kernel.Change(t.Context(), Change{Table: everything().Name, Delete: []Elements{{"sticky", everything().set("sticky").Elements}}}); err != nil {
					t.Errorf("%T: the next change: %v", kernel, err)
				}
			}
		})
	}
}

// TestManyElements: what is far larger than one netlink message is one transaction all the same.
func TestManyElements(t *testing.T) {
	ownNetwork(t)
	table := everything()
	ends := table.pointer("ends")
	for i := range uint32(30000) {
		ends.Elements = append(ends.Elements, Element{Key: Concat(service, UDP, uint16(i), i), Data: Concat(pod, uint16(i))})
	}
	conn := New()
	if err := conn.Replace(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	if err := conn.Change(t.Context(), Change{Table: table.Name, Delete: []Elements{{"ends", ends.Elements}}}); err != nil {
		t.Errorf("deleting all that was added: %v", err)
	}
}

func TestWatch(t *testing.T) {
	ownNetwork(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	conn := New()
	if err := conn.Replace(t.Context(), everything()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan struct{}, 100), make(chan error, 1)
	own, err := conn.ownPort()
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := listen(own) // in this thread, whose network it is
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		done <- watcher.follow(ctx, "sampan-test", func() { told <- struct{}{} })
	}()
	if err := conn.Change(ctx, Change{Table: "sampan-test", Delete: []Elements{{"two", everything().set("two").Elements}}}); err != nil {
		t.Fatal(err)
	}
	run(t, "nft", "add", "table", "inet", "other")
	run(t, "nft", "add", "chain", "inet", "other", "sampan-test")
	run(t, "nft", "delete", "chain", "inet", "sampan-test", "out")
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("what somebody else has deleted was not told")
	}
	run(t, "nft", "flush", "ruleset")
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("that somebody else has deleted all was not told")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the watch ended with %v", err)
	}
}
