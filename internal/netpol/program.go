package netpol

import (
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/nft"
)

// Network is what the rules have to know of the pods' network.
type Network struct {
	Table  string // name of the nftables table
	Bridge string // the link that this node's pods hang on
}

// program is what the table holds, kept so that each change can be told as a small step, and all of it again when it has to be made anew.
type program struct {
	*tables
	network Network

	namespaces map[string]labels.Set
	pods       map[loop.Key]*Pod
	here       map[string]map[loop.Key]bool // this node's pods, by namespace
	policies   map[string]map[loop.Key]*policy
	groups     map[string]*group
	gates      map[string]int // how many pods' addresses are sent to each
	placed     map[loop.Key]place
	claims     map[netip.Addr][]loop.Key // this node's isolated pods of an address: the last one has it
}

// place is what a pod of this node has in the table.
type place struct {
	addrs []netip.Addr
	gates [2]string // by direction; empty where nothing isolates it
}

func newProgram(n Network) *program {
	p := &program{
		tables: newTables(n.Table), network: n, namespaces: map[string]labels.Set{}, pods: map[loop.Key]*Pod{}, here: map[string]map[loop.Key]bool{},
		policies: map[string]map[loop.Key]*policy{}, groups: map[string]*group{}, gates: map[string]int{}, placed: map[loop.Key]place{}, claims: map[netip.Addr][]loop.Key{},
	}
	sets, _ := base(n)
	for _, s := range sets {
		p.addSet(s)
	}
	return p
}

// table is all of it. What follows is told as steps from there.
func (p *program) table() nft.Table {
	t := nft.Table{Name: p.network.Table}
	_, calls := base(p.network)
	t.Sets, t.Chains = p.whole()
	t.Chains = append(t.Chains, calls...)
	return t
}

// setNamespace takes over a namespace's labels; nil if it is not there.
func (p *program) setNamespace(name string, now labels.Set) {
	if was, there := p.namespaces[name]; there == (now != nil) && maps.Equal(was, now) {
		return
	}
	delete(p.namespaces, name)
	if now != nil {
		p.namespaces[name] = now
	}
	var chosen []*group
	for _, g := range p.groups {
		if g.choose.namespaces != nil {
			chosen = append(chosen, g)
		}
	}
	if len(chosen) == 0 {
		return
	}
	for key, pod := range p.pods {
		if pod.Namespace != name {
			continue
		}
		for _, g := range chosen {
			p.update(g, key, pod)
		}
	}
}

// setPod takes over a pod; nil if it is not there, or no policy is about it.
func (p *program) setPod(key loop.Key, now *Pod) {
	delete(p.pods, key)
	if now != nil {
		p.pods[key] = now
	}
	if set := p.here[key.Namespace]; now != nil && now.Here {
		if set == nil {
			set = map[loop.Key]bool{}
			p.here[key.Namespace] = set
		}
		set[key] = true
	} else if delete(set, key); len(set) == 0 {
		delete(p.here, key.Namespace)
	}
	for _, g := range p.groups {
		if g.concerns(key.Namespace) || g.members[key] != nil {
			p.update(g, key, now)
		}
	}
	p.place(key)
}

// setPolicy takes over a policy; nil if it is not there.
func (p *program) setPolicy(key loop.Key, now *policy) {
	was := p.policies[key.Namespace][key]
	if was == nil && now == nil {
		return
	}
	if now != nil { // before the former one's are given back, so that what both speak of stays
		for _, g := range groupsOf(slices.Concat(now.in, now.out)) {
			p.use(g)
		}
		p.setChain(chainOf(key, ingress), rulesOf(now, ingress))
		p.setChain(chainOf(key, egress), rulesOf(now, egress))
		if p.policies[key.Namespace] == nil {
			p.policies[key.Namespace] = map[loop.Key]*policy{}
		}
		p.policies[key.Namespace][key] = now
	} else if delete(p.policies[key.Namespace], key); len(p.policies[key.Namespace]) == 0 {
		delete(p.policies, key.Namespace)
	}
	if was == nil || now == nil || was.ingress != now.ingress || was.egress != now.egress || was.pods.String() != now.pods.String() {
		for pod := range p.here[key.Namespace] {
			p.place(pod)
		}
	}
	if now == nil {
		p.dropChain(chainOf(key, ingress))
		p.dropChain(chainOf(key, egress))
	}
	if was != nil {
		for _, g := range groupsOf(slices.Concat(was.in, was.out)) {
			p.unuse(g.name)
		}
	}
}

// isolating names the chains of the policies that hold for a pod in a direction.
func (p *program) isolating(pod *Pod, d direction) (chains []string) {
	for key, policy := range p.policies[pod.Namespace] {
		isolates := policy.ingress
		if d == egress {
			isolates = policy.egress
		}
		if isolates && policy.pods.Matches(pod.Labels) {
			chains = append(chains, chainOf(key, d))
		}
	}
	slices.Sort(chains)
	return chains
}

// place sends a pod's packets to the gates that they have to pass.
func (p *program) place(key loop.Key) {
	was := p.placed[key]
	var now place
	if pod := p.pods[key]; pod != nil && pod.Here && len(pod.Addrs) > 0 {
		for _, d := range []direction{ingress, egress} {
			if chains := p.isolating(pod, d); len(chains) > 0 {
				name, rules := gate(d, chains)
				if p.gates[name] == 0 && p.chains[name] == nil {
					p.setChain(name, rules)
				}
				now.gates[d] = name
			}
		}
		if now.gates != [2]string{} {
			now.addrs = pod.Addrs
		}
	}
	if slices.Equal(was.addrs, now.addrs) && was.gates == now.gates {
		return
	}
	for _, name := range now.gates {
		if name != "" {
			p.gates[name]++
		}
	}
	if p.placed[key] = now; len(now.addrs) == 0 {
		delete(p.placed, key)
	}
	for _, a := range now.addrs {
		if !slices.Contains(p.claims[a], key) {
			p.claims[a] = append(p.claims[a], key)
		}
		p.send(a)
	}
	for _, a := range was.addrs {
		if !slices.Contains(now.addrs, a) {
			p.claims[a] = slices.DeleteFunc(p.claims[a], func(k loop.Key) bool { return k == key })
			p.send(a)
		}
	}
	for _, name := range was.gates {
		if name == "" {
			continue
		}
		if p.gates[name]--; p.gates[name] == 0 {
			delete(p.gates, name)
			p.dropChain(name)
		}
	}
}

// send makes the maps say where packets of an address go: to the gates of the pod that has claimed it last.
func (p *program) send(a netip.Addr) {
	owners := p.claims[a]
	var gates [2]string
	if len(owners) > 0 {
		gates = p.placed[owners[len(owners)-1]].gates
	} else {
		delete(p.claims, a)
	}
	key := nft.Concat(a)
	for _, d := range []direction{ingress, egress} {
		if name := d.pods(a.Is6()); gates[d] != "" {
			p.put(name, nft.Element{Key: key, Jump: gates[d]})
		} else {
			p.take(name, key)
		}
	}
	if twice := nft.Concat(a, a); len(owners) > 0 {
		p.put(setName(itself, a.Is6()), nft.Element{Key: twice})
	} else {
		p.take(setName(itself, a.Is6()), twice)
	}
}
