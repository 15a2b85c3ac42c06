package netpol

import (
	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// group is pods that rules speak of, as a set of each family: the addresses of those that a selection finds, or the addresses and numbers of those that have a
// port of some name. All rules that speak of the same share it; without any it goes.
type group struct {
	name    string
	refs    int
	choose  selection
	port    port                     // with a name: it is of those that have it
	members map[loop.Key][]nft.Bytes // what each pod has in the sets
}

func (g *group) set(v6 bool) string { return setName(g.name, v6) }

func setName(name string, v6 bool) string {
	if v6 {
		return name + "-v6"
	}
	return name + "-v4"
}

// selected is the group of a selection.
func selected(s selection) *group {
	return &group{name: s.name(), choose: s, members: map[loop.Key][]nft.Bytes{}}
}

// named is the group of pods that have a port of that name.
func named(p port) *group {
	return &group{name: p.set(), port: p, members: map[loop.Key][]nft.Bytes{}}
}

func (g *group) byPort() bool { return g.port.name != "" }

func (g *group) defs(v6 bool) nft.Set {
	def := nft.Set{Name: g.set(v6), Key: nft.Type{nft.AddrOf(v6)}}
	if g.byPort() {
		def.Key = append(def.Key, nft.Port16)
	}
	return def
}

// numbers are the addresses of a pod with each number that it gives the port.
func (g *group) numbers(pod *Pod) (all []nft.Bytes) {
	for _, n := range pod.Ports {
		if n.Name != g.port.name || n.Proto != g.port.proto {
			continue
		}
		for _, a := range pod.Addrs {
			all = append(all, nft.Concat(a, n.Number))
		}
	}
	return all
}

// wants is what a pod shall have in the group's sets.
func (g *group) wants(p *program, pod *Pod) []nft.Bytes {
	switch {
	case pod == nil:
		return nil
	case g.byPort():
		return g.numbers(pod)
	}
	namespace, known := p.namespaces[pod.Namespace]
	if !g.choose.matches(pod, namespace, known) {
		return nil
	}
	all := make([]nft.Bytes, len(pod.Addrs))
	for i, a := range pod.Addrs {
		all[i] = nft.Concat(a)
	}
	return all
}

// concerns says that a pod of that namespace may belong to the group.
func (g *group) concerns(namespace string) bool {
	return g.byPort() || g.choose.namespaces != nil || g.choose.namespace == namespace
}

// update makes the sets have what the pod shall have there.
func (p *program) update(g *group, key loop.Key, pod *Pod) {
	had, wants := g.members[key], g.wants(p, pod)
	for _, e := range wants {
		p.add(p.setOf(g, e), nft.Element{Key: e})
	}
	for _, e := range had {
		p.take(p.setOf(g, e), e)
	}
	if len(wants) == 0 {
		delete(g.members, key)
	} else {
		g.members[key] = wants
	}
}

// setOf is the set that an element belongs into, by its length.
func (p *program) setOf(g *group, e nft.Bytes) string {
	return g.set(len(e) >= 16)
}

// use takes a group into use once more, and makes it first if need be.
func (p *program) use(g *group) {
	if have := p.groups[g.name]; have != nil {
		have.refs++
		return
	}
	g.refs = 1
	p.groups[g.name] = g
	p.addSet(g.defs(false))
	p.addSet(g.defs(true))
	for key, pod := range p.pods {
		if g.concerns(pod.Namespace) {
			p.update(g, key, pod)
		}
	}
}

// unuse ends one use of a group, and the group with the last.
func (p *program) unuse(name string) {
	g := p.groups[name]
	if g.refs--; g.refs > 0 {
		return
	}
	delete(p.groups, name)
	p.dropSet(g.set(false))
	p.dropSet(g.set(true))
}

// groupsOf are the groups that rules speak of.
func groupsOf(rules []rule) (all []*group) {
	for _, r := range rules {
		for _, s := range r.groups {
			all = append(all, selected(s))
		}
		for _, port := range r.ports {
			if port.name != "" {
				all = append(all, named(port))
			}
		}
	}
	return all
}
