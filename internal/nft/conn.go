package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn sets tables in the kernel, in the network namespace of whoever calls it first. It keeps one socket open.
type Conn struct {
	done remembered

	socket sync.Mutex // guards the fields below
	nl     *nftables.Conn
	port   uint32 // of the socket, by which the kernel tells whose change it was
}

// New returns a Conn that has set nothing yet: the first Set of a table replaces whatever the kernel has under its name.
func New() *Conn { return &Conn{done: remembered{tables: map[string]Table{}}} }

// bufferSize bounds how long one transaction and the answers to it may be; the kernel takes only as much of it as is needed.
const bufferSize = 64 << 20

// transact sends what fill says as one transaction.
func (c *Conn) transact(fill func(nl *nftables.Conn) error) (err error) {
	c.socket.Lock()
	defer c.socket.Unlock()
	if c.nl == nil {
		if err := c.open(); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil { // answers may be left unread
			_ = c.nl.CloseLasting()
			c.nl = nil
		}
	}()
	if err := fill(c.nl); err != nil {
		return err
	}
	return c.nl.Flush()
}

func (c *Conn) open() error {
	size := func(conn *netlink.Conn) error {
		raw, err := conn.SyscallConn()
		if err != nil {
			return err
		}
		var sockErr error
		err = raw.Control(func(fd uintptr) {
			var name unix.Sockaddr
			if name, sockErr = unix.Getsockname(int(fd)); sockErr == nil {
				c.port = name.(*unix.SockaddrNetlink).Pid
			}
		})
		return errors.Join(err, sockErr, conn.SetWriteBuffer(bufferSize), conn.SetReadBuffer(bufferSize))
	}
	nl, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(size))
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	c.nl = nl
	return nil
}

// Set implements Kernel.
func (c *Conn) Set(_ context.Context, wanted Table) error {
	c.done.mu.Lock()
	defer c.done.mu.Unlock()
	old, known := c.done.tables[wanted.Name]
	diff := Diff{Whole: true}
	if known {
		diff = Compare(old, wanted)
	}
	if diff.Empty() {
		return nil
	}
	if err := c.send(old, wanted, diff); err != nil {
		delete(c.done.tables, wanted.Name) // unknown is safe: next time the whole table is sent
		return fmt.Errorf("set nft table %s: %w", wanted.Name, err)
	}
	c.done.tables[wanted.Name] = wanted.clone()
	return nil
}

// Forget makes the next Set of a table send all of it, for when somebody else may have changed it.
func (c *Conn) Forget(name string) {
	c.done.mu.Lock()
	defer c.done.mu.Unlock()
	delete(c.done.tables, name)
}

// Remove implements Kernel.
func (c *Conn) Remove(_ context.Context, name string) error {
	c.done.mu.Lock()
	defer c.done.mu.Unlock()
	delete(c.done.tables, name)
	err := c.transact(func(nl *nftables.Conn) error {
		nl.DelTable(kernelTable(name))
		return nil
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nft table %s: %w", name, err)
	}
	return nil
}

// Replace implements Kernel.
func (c *Conn) Replace(_ context.Context, wanted Table) error {
	c.Forget(wanted.Name)
	if err := c.send(Table{}, wanted, Diff{Whole: true}); err != nil {
		return fmt.Errorf("replace nft table %s: %w", wanted.Name, err)
	}
	return nil
}

// Change implements Kernel.
func (c *Conn) Change(_ context.Context, step Change) error {
	if step.Nothing() {
		return nil
	}
	err := c.transact(func(nl *nftables.Conn) error {
		table := kernelTable(step.Table)
		for _, d := range step.Delete {
			if err := eachPart(d.List, func(part []nftables.SetElement) error {
				return nl.SetDeleteElements(&nftables.Set{Table: table, Name: d.Set}, part)
			}); err != nil {
				return fmt.Errorf("set %s: %w", d.Set, err)
			}
		}
		for i, s := range step.Sets {
			if err := nl.AddSet(kernelSet(table, s, uint32(i+1)), nil); err != nil {
				return fmt.Errorf("set %s: %w", s.Name, err)
			}
			step.Add = append([]Elements{{Set: s.Name, List: s.Elements}}, step.Add...)
		}
		for _, chain := range step.Chains {
			nl.AddChain(kernelChain(table, chain))
		}
		for _, name := range step.Empty {
			nl.FlushChain(&nftables.Chain{Name: name, Table: table})
		}
		sets := step.sets(table)
		for _, chain := range slices.Concat(step.Chains, step.Rules) {
			addRules(nl, table, chain, sets)
		}
		for _, a := range step.Add {
			if err := eachPart(a.List, func(part []nftables.SetElement) error {
				return nl.SetAddElements(&nftables.Set{Table: table, Name: a.Set}, part)
			}); err != nil {
				return fmt.Errorf("set %s: %w", a.Set, err)
			}
		}
		for _, name := range step.RemoveChains {
			nl.DelChain(&nftables.Chain{Name: name, Table: table})
		}
		for _, name := range step.RemoveSets {
			nl.DelSet(&nftables.Set{Name: name, Table: table})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("change nft table %s: %w", step.Table, err)
	}
	return nil
}

// send makes one transaction of the difference.
func (c *Conn) send(old, wanted Table, d Diff) error {
	return c.transact(func(nl *nftables.Conn) error { return fill(nl, old, wanted, d) })
}

func fill(nl *nftables.Conn, old, wanted Table, d Diff) error {
	table := kernelTable(wanted.Name)
	if d.Whole {
		// Adding a table that is there does nothing, so that deleting it cannot fail.
		nl.AddTable(table)
		nl.DelTable(table)
		nl.AddTable(table)
		old = Table{}
		d = Compare(old, wanted)
	}
	for _, name := range d.RemoveChains { // emptied first: chains may jump to one another
		nl.FlushChain(&nftables.Chain{Name: name, Table: table})
	}
	sets := map[string]*nftables.Set{}
	for i, s := range wanted.Sets {
		sets[s.Name] = kernelSet(table, s, uint32(i+1))
	}
	for _, name := range d.AddSets {
		if err := nl.AddSet(sets[name], nil); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	for _, name := range d.AddChains {
		nl.AddChain(kernelChain(table, wanted.chain(name)))
	}
	for _, name := range slices.Concat(d.AddSets, d.ChangeSets) {
		gone, added := []Element(nil), wanted.set(name).Elements
		if slices.Contains(d.ChangeSets, name) {
			gone, added = changes(old.set(name), wanted.set(name))
		}
		err := errors.Join(
			eachPart(gone, func(part []nftables.SetElement) error { return nl.SetDeleteElements(sets[name], part) }),
			eachPart(added, func(part []nftables.SetElement) error { return nl.SetAddElements(sets[name], part) }),
		)
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	for _, name := range d.ChangeChains {
		nl.FlushChain(&nftables.Chain{Name: name, Table: table})
	}
	for _, name := range slices.Concat(d.AddChains, d.ChangeChains) {
		addRules(nl, table, wanted.chain(name), sets)
	}
	for _, name := range d.RemoveChains {
		nl.DelChain(&nftables.Chain{Name: name, Table: table})
	}
	for _, name := range d.RemoveSets {
		nl.DelSet(&nftables.Set{Name: name, Table: table})
	}
	return nil
}
