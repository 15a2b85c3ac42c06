package nft

import (
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

func kernelTable(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

func addRules(nl *nftables.Conn, table *nftables.Table, chain Chain, sets map[string]*nftables.Set) {
	for _, rule := range chain.Rules {
		nl.AddRule(&nftables.Rule{
			Table: table, Chain: &nftables.Chain{Name: chain.Name, Table: table}, Exprs: encode(rule, sets), UserData: comment(rule),
		})
	}
}

// encode makes a rule's expressions. Rules that decide by steps are not counted: each new connection passes them.
func encode(r Rule, sets map[string]*nftables.Set) []expr.Any {
	var all []expr.Any
	counted := true
	for _, m := range r.If {
		all = append(all, m.encode(sets)...)
		if _, step := m.(Load); step {
			counted = false
		}
	}
	if counted {
		all = append(all, &expr.Counter{})
	}
	if r.Do == nil {
		return all
	}
	return append(all, r.Do.does(sets)...)
}

func comment(r Rule) []byte {
	if r.Comment == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.Comment)
}

// sets are the sets that a change's rules refer to, by name: they are in the kernel already, or among the new ones.
func (c Change) sets(table *nftables.Table) map[string]*nftables.Set {
	all := map[string]*nftables.Set{}
	note := func(name string, isMap bool) {
		if name != "" {
			all[name] = &nftables.Set{Table: table, Name: name, IsMap: isMap}
		}
	}
	for _, chain := range slices.Concat(c.Chains, c.Rules) {
		for _, rule := range chain.Rules {
			for _, m := range rule.If {
				switch m := m.(type) {
				case InSet:
					note(m.Set, false)
				case Lookup:
					note(m.Map, true)
				case Remember:
					note(m.Set, false)
				case Forget:
					note(m.Set, false)
				}
			}
			if j, is := rule.Do.(JumpOf); is {
				note(j.Map, true)
			}
		}
	}
	return all
}

var fieldTypes = map[Field]nftables.SetDatatype{
	Addr4: nftables.TypeIPAddr, Addr6: nftables.TypeIP6Addr, L4: nftables.TypeInetProto, Port16: nftables.TypeInetService,
	Num32: nftables.TypeMark, ChainName: nftables.TypeVerdict,
}

func (t Type) kernel() nftables.SetDatatype {
	if len(t) == 1 {
		return fieldTypes[t[0]]
	}
	parts := make([]nftables.SetDatatype, len(t))
	for i, f := range t {
		parts[i] = fieldTypes[f]
	}
	return nftables.MustConcatSetType(parts...)
}

func kernelSet(table *nftables.Table, s Set, id uint32) *nftables.Set {
	set := &nftables.Set{
		Table: table, Name: s.Name, ID: id, KeyType: s.Key.kernel(), Concatenation: len(s.Key) > 1, Interval: s.Ranges,
		Dynamic: s.Ages > 0, HasTimeout: s.Ages > 0, Timeout: s.Ages,
	}
	if s.Data != nil {
		set.IsMap, set.DataType = true, s.Data.kernel()
	}
	return set
}

// eachPart hands elements on in parts that fit into one netlink attribute, which is 64 KiB long at most.
func eachPart(list []Element, do func([]nftables.SetElement) error) error {
	const most = 400
	for len(list) > 0 {
		n := min(most, len(list))
		part := make([]nftables.SetElement, n)
		for i, e := range list[:n] {
			part[i] = nftables.SetElement{Key: []byte(e.Key), KeyEnd: []byte(e.End), Val: []byte(e.Data)}
			if e.Jump != "" {
				part[i].VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.Jump}
			}
		}
		if err := do(part); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
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

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }
