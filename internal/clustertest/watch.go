package clustertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

// target is what a script looks at: `pod/web`, or all pods as `pods`.
type target struct {
	kind *resource.Kind
	name string // empty: all of the selection, of which there is a count
	sel  cache.Selection
}

// parseTarget reads [-n NAMESPACE] [-l LABELS] KIND[/NAME], and returns the other arguments.
func parseTarget(table *resource.Table, args []string) (t target, rest []string, err error) {
	t.sel.Namespace = "default"
	for len(args) > 1 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-n":
			t.sel.Namespace = args[1]
		case "-l":
			if t.sel.Labels, err = labels.Parse(args[1]); err != nil {
				return t, nil, err
			}
		default:
			return t, nil, fmt.Errorf("unknown flag %s", args[0])
		}
		args = args[2:]
	}
	if len(args) == 0 {
		return t, nil, fmt.Errorf("KIND/NAME or KIND is missing")
	}
	of, name, named := strings.Cut(args[0], "/")
	for _, k := range table.All() {
		if of == k.Plural || of == k.Singular || slices.Contains(k.ShortNames, of) {
			t.kind, t.name = k, name
		}
	}
	if t.kind == nil {
		return t, nil, fmt.Errorf("there is no kind %s", of)
	}
	if !t.kind.Namespaced {
		t.sel.Namespace = ""
	}
	if named {
		t.sel.Fields = fields.OneTermEqualSelector("metadata.name", name)
	}
	return t, args[1:], nil
}

// follow is a source's.
func (c *Cluster) follow(ctx context.Context, t target, seen func(state []byte) bool) error {
	select {
	case <-c.Cache.Ready(): // before, there is no revision to watch from
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		s := c.Cache.Snapshot()
		objects := map[string][]byte{}
		for o := range s.List(t.kind, t.sel) {
			objects[o.Key()] = o.JSON()
		}
		if !seen(t.state(objects)) {
			return nil
		}
		w, err := c.Cache.Watch(t.kind, t.sel, s.Revision())
		if err != nil {
			return err
		}
		more, err := t.watch(ctx, w, objects, seen)
		if !more {
			return err
		}
	}
}

// watch returns true if the watcher was closed, and the state must be read anew.
func (t target) watch(ctx context.Context, w *cache.Watcher, objects map[string][]byte, seen func([]byte) bool) (bool, error) {
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case e, open := <-w.Events():
			if !open {
				return true, nil
			}
			if e.Type == watch.Deleted {
				delete(objects, e.Object.Key())
			} else {
				objects[e.Object.Key()] = e.Object.JSON()
			}
			if !seen(t.state(objects)) {
				return false, nil
			}
		}
	}
}

func (t target) state(objects map[string][]byte) []byte {
	if t.name == "" {
		return fmt.Appendf(nil, `{"count": %d}`, len(objects))
	}
	for _, o := range objects {
		return o
	}
	return nil
}

// source is a cluster that can be followed: one in this process, or any other.
type source interface {
	// follow calls seen with each state of the target, one after another without a gap, until seen returns false or ctx
	// ends. A state is the object's JSON (nil while there is none), or {"count": N}.
	follow(ctx context.Context, t target, seen func(state []byte) bool) error
	table() *resource.Table
}

func (c *Cluster) table() *resource.Table { return c.Table }

// guards are the conditions that must hold until the end of a script.
type guards struct {
	mu      sync.Mutex
	running sync.WaitGroup
	broken  []string
}

// add begins to guard a condition; it must hold already.
func (g *guards) add(ctx context.Context, c source, name string, t target, cond condition) error {
	first := make(chan string, 1)
	g.running.Go(func() {
		started := false
		_ = c.follow(ctx, t, func(state []byte) bool {
			ok, why := cond.holds(state)
			if !started {
				started = true
				first <- why
				return ok
			}
			if !ok {
				g.mu.Lock()
				defer g.mu.Unlock()
				g.broken = append(g.broken, fmt.Sprintf("always %s '%s': %s, in the state\n%s", name, cond.text, why, state))
			}
			return ok
		})
		if !started {
			first <- "it could not be watched"
		}
	})
	if why := <-first; why != "" {
		return fmt.Errorf("always %s '%s': it does not hold now: %s", name, cond.text, why)
	}
	return nil
}

// check returns what has been broken so far.
func (g *guards) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.broken) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(g.broken, "\n"))
}
