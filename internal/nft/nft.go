// Package nft says what the kernel's packet rules shall be, as values, and makes them so.
//
// A Table is a plain value: sets, maps, chains and rules. Set sends the difference between it and what was set before in one netlink
// transaction; nothing is sent when there is none. It reads nothing back: what this process set is what it compares with. A table of
// thousands of elements is set once with Replace, and goes on in steps with Change. Watch tells when somebody else changes a table.
// Always: the kernel holds either the old table or the new one, never a part; tables of other owners are not touched.
package nft

import (
	"context"
	"slices"
	"sync"
)

// Kernel is where tables are set: Conn, and Fake in tests.
type Kernel interface {
	// Set makes the table of that name be exactly as given, in one transaction.
	Set(ctx context.Context, table Table) error
	// Replace does as Set does, and keeps no copy to compare with: all is sent each time. What follows is told by Change.
	Replace(ctx context.Context, table Table) error
	// Change takes one step from what Replace has set, in one transaction. It fails, and nothing is changed, if an element to be deleted
	// is not there or one to be added is there with another value.
	Change(ctx context.Context, change Change) error
	// Remove makes the table of that name not be. It is no error if it was not.
	Remove(ctx context.Context, name string) error
	// Watch calls changed whenever somebody else changes the table of that name, and when it may have been so. From the moment at which it calls began it misses
	// nothing; what was before is not known. It returns nil when ctx ends.
	Watch(ctx context.Context, name string, began, changed func()) error
}

// Table is a table of the inet family.
type Table struct {
	Name   string
	Sets   []Set
	Chains []Chain
}

// Proto is an IP protocol number.
type Proto uint8

// Protocols.
const (
	ICMP   Proto = 1
	TCP    Proto = 6
	UDP    Proto = 17
	ICMPv6 Proto = 58
	SCTP   Proto = 132
)

// Chain is a list of rules. With a hook the kernel calls it; without, only a rule that jumps to it does.
type Chain struct {
	Name  string
	Base  *Base
	Rules []Rule
}

// Base says where and when the kernel calls a chain. The policy is always accept: a table of ours drops by rule, with a reason.
type Base struct {
	Kind     Kind
	Hook     Hook
	Priority int // lower comes first
}

// Kind is what a base chain may do.
type Kind int

// Kinds of base chains.
const (
	Filter Kind = iota
	NAT
)

// Hook is a place on a packet's way.
type Hook int

// Hooks.
const (
	Prerouting Hook = iota
	Input
	Forward
	Output
	Postrouting
)

// Priorities that nft gives names to.
const (
	PriorityDstNAT = -100
	PriorityFilter = 0
	PrioritySrcNAT = 100
	PriorityRaw    = -300
)

// Rule does something with the packets that meet all of its matches. Without an action the next rule follows: its matches have done what was to be done.
type Rule struct {
	If      []Match
	Do      Action
	Comment string // shown by `nft list`
}

// Diff is what changes one table into another, as names. Whole says that the table must be made anew.
type Diff struct {
	Whole        bool
	AddSets      []string
	ChangeSets   []string // the same type, other elements
	RemoveSets   []string
	AddChains    []string
	ChangeChains []string // the same base, other rules
	RemoveChains []string
}

// Empty says that nothing changes.
func (d Diff) Empty() bool {
	return !d.Whole && len(d.AddSets)+len(d.ChangeSets)+len(d.RemoveSets)+len(d.AddChains)+len(d.ChangeChains)+len(d.RemoveChains) == 0
}

// Compare says what changes old into wanted.
func Compare(old, wanted Table) Diff {
	var d Diff
	for _, s := range wanted.Sets {
		i := slices.IndexFunc(old.Sets, func(o Set) bool { return o.Name == s.Name })
		switch {
		case i < 0:
			d.AddSets = append(d.AddSets, s.Name)
		case !old.Sets[i].sameType(s):
			return Diff{Whole: true}
		case !sameElements(old.Sets[i].Elements, s.Elements):
			d.ChangeSets = append(d.ChangeSets, s.Name)
		}
	}
	for _, s := range old.Sets {
		if !slices.ContainsFunc(wanted.Sets, func(w Set) bool { return w.Name == s.Name }) {
			d.RemoveSets = append(d.RemoveSets, s.Name)
		}
	}
	for _, c := range wanted.Chains {
		i := slices.IndexFunc(old.Chains, func(o Chain) bool { return o.Name == c.Name })
		switch {
		case i < 0:
			d.AddChains = append(d.AddChains, c.Name)
		case !sameBase(old.Chains[i].Base, c.Base):
			return Diff{Whole: true}
		case !slices.EqualFunc(old.Chains[i].Rules, c.Rules, sameRule):
			d.ChangeChains = append(d.ChangeChains, c.Name)
		}
	}
	for _, c := range old.Chains {
		if !slices.ContainsFunc(wanted.Chains, func(w Chain) bool { return w.Name == c.Name }) {
			d.RemoveChains = append(d.RemoveChains, c.Name)
		}
	}
	return d
}

func sameElements(a, b []Element) bool {
	if len(a) != len(b) {
		return false
	}
	has := make(map[Element]bool, len(a))
	for _, e := range a {
		has[e] = true
	}
	for _, e := range b {
		if !has[e] {
			return false
		}
	}
	return true
}

func sameBase(a, b *Base) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// sameRule compares by value: every match and action is a comparable type.
func sameRule(a, b Rule) bool {
	return a.Do == b.Do && a.Comment == b.Comment && slices.Equal(a.If, b.If)
}

// remembered is what was set, by name.
type remembered struct {
	mu     sync.Mutex
	tables map[string]Table
}

// clone copies what a caller may go on changing.
func (t Table) clone() Table {
	t.Sets = slices.Clone(t.Sets)
	for i := range t.Sets {
		t.Sets[i].Elements = slices.Clone(t.Sets[i].Elements)
	}
	t.Chains = slices.Clone(t.Chains)
	for i := range t.Chains {
		t.Chains[i].Rules = slices.Clone(t.Chains[i].Rules)
		for j := range t.Chains[i].Rules {
			t.Chains[i].Rules[j].If = slices.Clone(t.Chains[i].Rules[j].If)
		}
	}
	return t
}

func (t Table) set(name string) Set { return *t.pointer(name) }

func (t Table) pointer(name string) *Set {
	return &t.Sets[slices.IndexFunc(t.Sets, func(s Set) bool { return s.Name == name })]
}

func (t Table) chain(name string) Chain {
	return t.Chains[slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == name })]
}
