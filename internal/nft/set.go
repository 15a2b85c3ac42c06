package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Set is a named set of elements of one type that rules refer to; with a Data type it is a map from such elements to values.
type Set struct {
	Name     string
	Key      Type
	Data     Type          // nil: a set
	Ages     time.Duration // not zero: rules add elements (Remember), which go after that time or the rule's own; Elements is empty
	Ranges   bool          // the last field of each key is a range, from Element.Key to Element.End
	Elements []Element
}

// Type is what a key or a value is made of, field by field.
type Type []Field

// Field is one part of a key or value.
type Field uint8

// Fields. Each takes whole words of 32 bits.
const (
	Addr4     Field = iota // an IPv4 address: one word
	Addr6                  // an IPv6 address: four words
	L4                     // a Proto: one word
	Port16                 // a port: one word
	Num32                  // a number: one word
	ChainName              // a chain that is jumped to: the only field of its type, and only of values
)

// AddrOf is the field of addresses of that family.
func AddrOf(v6 bool) Field {
	if v6 {
		return Addr6
	}
	return Addr4
}

// Words is the size of a key or value of that type, in words of 32 bits.
func (t Type) Words() (n int) {
	for _, f := range t {
		if f == Addr6 {
			n += 3
		}
		n++
	}
	return n
}

// Bytes is a key or a value as the kernel has it: its fields one after another, each filled up to whole words. Made by Concat.
type Bytes string

// Concat makes a key or a value of addresses, Protos, ports (uint16) and numbers (uint32).
func Concat(fields ...any) Bytes {
	b := make([]byte, 0, 24)
	for _, f := range fields {
		switch f := f.(type) {
		case netip.Addr:
			b = append(b, f.AsSlice()...)
		case Proto:
			b = append(b, byte(f), 0, 0, 0)
		case uint16:
			b = append(b, byte(f>>8), byte(f), 0, 0)
		case uint32:
			b = binary.NativeEndian.AppendUint32(b, f)
		default:
			panic("nft: a key has a field of an unknown type")
		}
	}
	return Bytes(b)
}

// Element is one member of a set or map. Fields that the set's type does not have are empty.
type Element struct {
	Key  Bytes
	End  Bytes // of a set of ranges: the last key, included
	Data Bytes
	Jump string // of a map of chains: the one that is jumped to
}

// Elements are some elements of one set.
type Elements struct {
	Set  string
	List []Element
}

// Change is a small step from one state of a table to the next, for tables that are too large to be compared whole.
// Deletions come first, so that an element of the same key may be added again with another value.
type Change struct {
	Table  string
	Sets   []Set    // new ones
	Chains []Chain  // new ones, without a base
	Empty  []string // chains that are there, and lose their rules first
	Rules  []Chain  // rules to be added at the end of chains that are there
	Delete []Elements
	Add    []Elements

	RemoveChains, RemoveSets []string // at last, when nothing refers to them any more
}

// Nothing says that there is nothing to do.
func (c Change) Nothing() bool {
	return len(c.Sets)+len(c.Chains)+len(c.Empty)+len(c.Rules)+len(c.Delete)+len(c.Add)+len(c.RemoveChains)+len(c.RemoveSets) == 0
}

// Apply takes a step with a table that is a plain value: what Kernel.Change does with one in the kernel.
func (t *Table) Apply(c Change) error {
	for _, d := range c.Delete {
		set := t.pointer(d.Set)
		gone := make(map[[2]Bytes]bool, len(d.List))
		for _, e := range d.List {
			gone[[2]Bytes{e.Key, e.End}] = true
		}
		set.Elements = slices.DeleteFunc(set.Elements, func(e Element) bool {
			k := [2]Bytes{e.Key, e.End}
			found := gone[k]
			delete(gone, k)
			return found
		})
		if len(gone) > 0 {
			return fmt.Errorf("delete from %s: %w", d.Set, unix.ENOENT)
		}
	}
	t.Sets = append(t.Sets, c.Sets...)
	t.Chains = append(t.Chains, c.Chains...)
	for _, name := range c.Empty {
		t.Chains[slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == name })].Rules = nil
	}
	for _, more := range c.Rules {
		chain := &t.Chains[slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == more.Name })]
		chain.Rules = append(chain.Rules, more.Rules...)
	}
	for _, a := range c.Add {
		set := t.pointer(a.Set)
		there := make(map[[2]Bytes]Element, len(set.Elements))
		for _, e := range set.Elements {
			there[[2]Bytes{e.Key, e.End}] = e
		}
		for _, e := range a.List {
			switch old, known := there[[2]Bytes{e.Key, e.End}]; {
			case !known:
				set.Elements = append(set.Elements, e)
			case old != e:
				return fmt.Errorf("add to %s: %w", a.Set, unix.EEXIST)
			}
		}
	}
	return t.remove(c)
}

// remove takes chains and sets away, unless something still refers to them: the kernel does not do that either.
func (t *Table) remove(c Change) error {
	t.Chains = slices.DeleteFunc(t.Chains, func(chain Chain) bool { return slices.Contains(c.RemoveChains, chain.Name) })
	t.Sets = slices.DeleteFunc(t.Sets, func(set Set) bool { return slices.Contains(c.RemoveSets, set.Name) })
	for _, chain := range t.Chains {
		for _, r := range chain.Rules {
			target := ""
			switch do := r.Do.(type) {
			case Jump:
				target = do.Chain
			case Goto:
				target = do.Chain
			}
			if slices.Contains(c.RemoveChains, target) {
				return fmt.Errorf("remove chain %s: %w", target, unix.EBUSY)
			}
			for _, m := range r.If {
				if in, is := m.(InSet); is && slices.Contains(c.RemoveSets, in.Set) {
					return fmt.Errorf("remove set %s: %w", in.Set, unix.EBUSY)
				}
			}
		}
	}
	for _, set := range t.Sets {
		for _, e := range set.Elements {
			if e.Jump != "" && slices.Contains(c.RemoveChains, e.Jump) {
				return fmt.Errorf("remove chain %s: %w", e.Jump, unix.EBUSY)
			}
		}
	}
	return nil
}

func (s Set) sameType(o Set) bool {
	return slices.Equal(s.Key, o.Key) && slices.Equal(s.Data, o.Data) && s.Ages == o.Ages && s.Ranges == o.Ranges
}
