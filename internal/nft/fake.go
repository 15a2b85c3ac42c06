package nft

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Fake keeps tables as the kernel would, counts what was sent, and answers where a packet would go.
type Fake struct {
	Sent  int // transactions
	Local []netip.Addr
	Rand  func(below uint32) uint32 // for Random; nil: math/rand

	done remembered

	watching sync.Mutex // guards watchers
	watchers map[int]watcher
}

type watcher struct {
	table   string
	changed func()
}

// Set implements Kernel.
func (f *Fake) Set(_ context.Context, wanted Table) error {
	f.done.mu.Lock()
	defer f.done.mu.Unlock()
	old, known := f.done.tables[wanted.Name]
	if known && Compare(old, wanted).Empty() {
		return nil
	}
	if f.done.tables == nil {
		f.done.tables = map[string]Table{}
	}
	f.done.tables[wanted.Name] = wanted.clone()
	f.Sent++
	return nil
}

// Replace implements Kernel.
func (f *Fake) Replace(ctx context.Context, wanted Table) error { return f.Set(ctx, wanted) }

// Change implements Kernel.
func (f *Fake) Change(_ context.Context, c Change) error {
	if c.Nothing() {
		return nil
	}
	f.done.mu.Lock()
	defer f.done.mu.Unlock()
	t, known := f.done.tables[c.Table]
	if !known {
		return fmt.Errorf("change nft table %s: %w", c.Table, unix.ENOENT)
	}
	t = t.clone()
	if err := t.Apply(c); err != nil {
		return fmt.Errorf("change nft table %s: %w", c.Table, err)
	}
	f.done.tables[c.Table] = t
	f.Sent++
	return nil
}

// Remove implements Kernel.
func (f *Fake) Remove(_ context.Context, name string) error {
	f.done.mu.Lock()
	defer f.done.mu.Unlock()
	if _, known := f.done.tables[name]; known {
		delete(f.done.tables, name)
		f.Sent++
	}
	return nil
}

// Watch implements Kernel.
func (f *Fake) Watch(ctx context.Context, name string, began, changed func()) error {
	f.watching.Lock()
	if f.watchers == nil {
		f.watchers = map[int]watcher{}
	}
	id := len(f.watchers)
	f.watchers[id] = watcher{name, changed}
	f.watching.Unlock()
	began()
	<-ctx.Done()
	f.watching.Lock()
	defer f.watching.Unlock()
	f.watchers[id] = watcher{}
	return nil
}

// Disturb empties a table, as somebody else might, and tells those who watch it.
func (f *Fake) Disturb(name string) {
	f.done.mu.Lock()
	f.done.tables[name] = Table{Name: name}
	f.done.mu.Unlock()
	f.watching.Lock()
	defer f.watching.Unlock()
	for _, w := range f.watchers {
		if w.table == name {
			w.changed()
		}
	}
}

// Table returns the table as it was set; its name is empty if there is none.
func (f *Fake) Table(name string) Table {
	f.done.mu.Lock()
	defer f.done.mu.Unlock()
	return f.done.tables[name]
}

// Packet is the first packet of a connection, as far as rules look at it.
type Packet struct {
	In, Out  string // links; In is empty for a packet of this machine, Out for one that stays
	From, To netip.Addr
	Proto    Proto
	Port     uint16 // destination; of ICMP, the message's type
	State    ConnState

	local      func(netip.Addr) bool
	random     func(below uint32) uint32
	translated bool
	words      [64]byte // what the rule at hand has loaded
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Fate       string // "accept", "drop" or "reject"
	By         string // chain whose rule ended it; empty for a policy
	Masquerade bool
	To         netip.Addr // after translation
	Port       uint16
}

// Trace sends a packet through all tables: a forwarded one if it has both links, one for this machine if it has no Out, one
// of this machine if it has no In. Routing is the caller's: the links do not change when the destination does.
func (f *Fake) Trace(p Packet) Verdict {
	f.done.mu.Lock()
	defer f.done.mu.Unlock()
	if p.State == 0 {
		p.State = Starting
	}
	p.local = func(a netip.Addr) bool { return slices.Contains(f.Local, a) }
	if p.random = f.Rand; p.random == nil {
		p.random = rand.Uint32N
	}
	way := []Hook{Prerouting, Forward, Postrouting}
	switch {
	case p.In == "":
		way = []Hook{Output, Postrouting}
	case p.Out == "":
		way = []Hook{Prerouting, Input}
	}
	v := Verdict{Fate: "accept"}
	for _, hook := range way {
		for _, at := range f.at(hook) {
			if f.walk(at.table, at.chain, &p, &v) == ended && v.Fate != "accept" {
				return v
			}
		}
	}
	v.To, v.Port = p.To, p.Port
	return v
}

type placed struct {
	table Table
	chain Chain
}

// at lists the chains of a hook in the order in which the kernel calls them.
func (f *Fake) at(hook Hook) []placed {
	var all []placed
	for _, t := range f.done.tables {
		for _, c := range t.Chains {
			if c.Base != nil && c.Base.Hook == hook {
				all = append(all, placed{t, c})
			}
		}
	}
	slices.SortFunc(all, func(a, b placed) int {
		if a.chain.Base.Priority != b.chain.Base.Priority {
			return a.chain.Base.Priority - b.chain.Base.Priority
		}
		return strings.Compare(a.table.Name, b.table.Name)
	})
	return all
}

type walked int

const (
	fellThrough walked = iota
	returned
	ended
)

func (f *Fake) walk(t Table, c Chain, p *Packet, v *Verdict) walked {
	for _, r := range c.Rules {
		if slices.ContainsFunc(r.If, func(m Match) bool { return !m.meets(p, &t) }) {
			continue
		}
		switch do := r.Do.(type) {
		case Accept:
			v.By = c.Name
			return ended
		case Drop:
			v.Fate, v.By = "drop", c.Name
			return ended
		case Reject, Reset:
			v.Fate, v.By = "reject", c.Name
			return ended
		case Return:
			return returned
		case Jump:
			if f.walk(t, t.chain(do.Chain), p, v) == ended {
				return ended
			}
		case Goto:
			f.walk(t, t.chain(do.Chain), p, v)
			return ended
		case JumpOf:
			set := t.set(do.Map)
			if e, there := set.lookup(p.get(do.Key, set.Key.Words())); there && f.walk(t, t.chain(e.Jump), p, v) == ended {
				return ended
			}
		case DNATWords:
			words := 1
			if do.V6 {
				words = 4
			}
			p.To, _ = netip.AddrFromSlice([]byte(p.get(do.Addr, words)))
			p.Port, p.translated = binary.BigEndian.Uint16([]byte(p.get(do.Addr+words, 1))), true
			v.By = c.Name
			return ended
		case Masquerade:
			v.Masquerade, v.By = true, c.Name
			return ended
		case DNAT:
			p.To, p.translated = do.To, true
			if do.Port != 0 {
				p.Port = do.Port
			}
			v.By = c.Name
			return ended
		}
	}
	return fellThrough
}

// lookup finds the element of that key, or the one whose range holds it.
func (s Set) lookup(key Bytes) (Element, bool) {
	for _, e := range s.Elements {
		if e.Key == key {
			return e, true
		}
		if last := len(key) - 4*s.Key[len(s.Key)-1:].Words(); s.Ranges && e.Key[:last] == key[:last] && e.Key <= key && key <= e.End {
			return e, true
		}
	}
	return Element{}, false
}

func (m From) meets(p *Packet, _ *Table) bool { return m.Prefix.Contains(p.From) != m.Not }
func (m To) meets(p *Packet, _ *Table) bool   { return m.Prefix.Contains(p.To) != m.Not }
func (m In) meets(p *Packet, _ *Table) bool   { return linkIs(m.Link, p.In) != m.Not }
func (m Out) meets(p *Packet, _ *Table) bool  { return linkIs(m.Link, p.Out) != m.Not }

func (m Port) meets(p *Packet, _ *Table) bool { return m.Proto == p.Proto && m.Port == p.Port }
func (m Ports) meets(p *Packet, _ *Table) bool {
	return m.Proto == p.Proto && m.First <= p.Port && p.Port <= m.Last
}
func (m Of) meets(p *Packet, _ *Table) bool       { return m.Proto == p.Proto }
func (m State) meets(p *Packet, _ *Table) bool    { return m.In&p.State != 0 }
func (Translated) meets(p *Packet, _ *Table) bool { return p.translated }
func (m ToICMP) meets(p *Packet, _ *Table) bool {
	return p.Proto == m.proto() && uint8(p.Port) == m.Type
}

func (m ToLocal) meets(p *Packet, _ *Table) bool {
	return (p.local(p.To) || p.To.IsLoopback()) != m.Not
}

func (m FromLocal) meets(p *Packet, _ *Table) bool {
	return (p.local(p.From) || p.From.IsLoopback()) != m.Not
}

func linkIs(wanted, link string) bool {
	if prefix, wild := strings.CutSuffix(wanted, "*"); wild {
		return strings.HasPrefix(link, prefix)
	}
	return wanted == link
}
