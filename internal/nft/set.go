package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
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
	Sets   []Set   // new ones
	Chains []Chain // new ones, without a base
	Rules  []Chain // rules to be added at the end of chains that are there
	Delete []Elements
	Add    []Elements
}

// Empty says that there is nothing to do.
func (c Change) Empty() bool {
	return len(c.Sets)+len(c.Chains)+len(c.Rules)+len(c.Delete)+len(c.Add) == 0
}

func (s Set) sameType(o Set) bool {
	return slices.Equal(s.Key, o.Key) && slices.Equal(s.Data, o.Data) && s.Ages == o.Ages && s.Ranges == o.Ranges
}
