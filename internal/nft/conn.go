package nft

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Conn sets tables in the kernel, in the network namespace of whoever calls.
type Conn struct{ done remembered }

// New returns a Conn that has set nothing yet: the first Set of a table replaces whatever the kernel has under its name.
func New() *Conn { return &Conn{done: remembered{tables: map[string]Table{}}} }

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
	if err := send(old, wanted, diff); err != nil {
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
	nl, err := nftables.New()
	if err != nil {
		return fmt.Errorf("remove nft table %s: %w", name, err)
	}
	nl.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	if err := nl.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nft table %s: %w", name, err)
	}
	return nil
}

// send makes one transaction of the difference.
func send(old, wanted Table, d Diff) error {
	nl, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: wanted.Name, Family: nftables.TableFamilyINet}
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
		if err := nl.AddSet(sets[name], elements(wanted.set(name))); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	for _, name := range d.ChangeSets {
		gone, added := changes(old.set(name), wanted.set(name))
		if len(gone) > 0 {
			if err := nl.SetDeleteElements(sets[name], kernelElements(wanted.set(name).Type, gone)); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
		if len(added) > 0 {
			if err := nl.SetAddElements(sets[name], kernelElements(wanted.set(name).Type, added)); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	for _, name := range d.AddChains {
		nl.AddChain(kernelChain(table, wanted.chain(name)))
	}
	for _, name := range d.ChangeChains {
		nl.FlushChain(&nftables.Chain{Name: name, Table: table})
	}
	for _, names := range [][]string{d.AddChains, d.ChangeChains} {
		for _, name := range names {
			for _, rule := range wanted.chain(name).Rules {
				nl.AddRule(&nftables.Rule{
					Table: table, Chain: &nftables.Chain{Name: name, Table: table}, Exprs: encode(rule, sets), UserData: comment(rule),
				})
			}
		}
	}
	for _, name := range d.RemoveChains {
		nl.DelChain(&nftables.Chain{Name: name, Table: table})
	}
	for _, name := range d.RemoveSets {
		nl.DelSet(&nftables.Set{Name: name, Table: table})
	}
	return nl.Flush()
}

func encode(r Rule, sets map[string]*nftables.Set) []expr.Any {
	var all []expr.Any
	for _, m := range r.If {
		all = append(all, m.encode(sets)...)
	}
	all = append(all, &expr.Counter{})
	return append(all, r.Do.does()...)
}

func comment(r Rule) []byte {
	if r.Comment == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.Comment)
}

func kernelSet(table *nftables.Table, s Set, id uint32) *nftables.Set {
	set := &nftables.Set{Table: table, Name: s.Name, ID: id, KeyType: nftables.TypeIPAddr}
	if s.Type == AddrPorts {
		set.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
		set.Concatenation = true
	}
	return set
}

func elements(s Set) []nftables.SetElement { return kernelElements(s.Type, s.Elements) }

func kernelElements(t Type, list []Element) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, len(list))
	for _, e := range list {
		key := e.Addr.AsSlice()
		if t == AddrPorts { // every part is filled up to 32 bits
			key = append(key, byte(e.Proto), 0, 0, 0, byte(e.Port>>8), byte(e.Port), 0, 0)
		}
		out = append(out, nftables.SetElement{Key: key})
	}
	return out
}

// changes is which elements to take out of old and which to add.
func changes(old, wanted Set) (gone, added []Element) {
	keep := make(map[Element]bool, len(wanted.Elements))
	for _, e := range wanted.Elements {
		keep[e] = true
	}
	for _, e := range old.Elements {
		if !keep[e] {
			gone = append(gone, e)
		}
		delete(keep, e)
	}
	for _, e := range wanted.Elements {
		if keep[e] {
			added = append(added, e)
			delete(keep, e)
		}
	}
	return gone, added
}

func kernelChain(table *nftables.Table, c Chain) *nftables.Chain {
	chain := &nftables.Chain{Name: c.Name, Table: table}
	if c.Base == nil {
		return chain
	}
	accept := nftables.ChainPolicyAccept
	chain.Policy = &accept
	chain.Type = map[Kind]nftables.ChainType{Filter: nftables.ChainTypeFilter, NAT: nftables.ChainTypeNAT}[c.Base.Kind]
	chain.Hooknum = map[Hook]*nftables.ChainHook{
		Prerouting: nftables.ChainHookPrerouting, Input: nftables.ChainHookInput, Forward: nftables.ChainHookForward,
		Output: nftables.ChainHookOutput, Postrouting: nftables.ChainHookPostrouting,
	}[c.Base.Hook]
	chain.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(c.Base.Priority))
	return chain
}
