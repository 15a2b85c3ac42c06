package netpol

import (
	"maps"
	"slices"

	"sampan.dev/internal/nft"
)

// tables is the table's sets and chains as they shall be, and what has been touched since the last step was told: a step is the difference, however often
// a thing was changed on the way.
type tables struct {
	name   string
	sets   map[string]*content
	chains map[string][]nft.Rule

	wasSet   map[string]bool                      // sets that came or went: whether they were there
	wasIn    map[string]map[nft.Bytes]nft.Element // elements that were touched, as they were; with no key, there was none
	wasChain map[string]bool                      // chains that were touched: whether they were there
}

// content is a set with its elements, which are there as often as they were added.
type content struct {
	def   nft.Set
	has   map[nft.Bytes]nft.Element
	count map[nft.Bytes]int
}

func newTables(name string) *tables {
	t := &tables{name: name, sets: map[string]*content{}, chains: map[string][]nft.Rule{}}
	t.begin()
	return t
}

// begin forgets what was touched.
func (t *tables) begin() {
	t.wasSet, t.wasIn, t.wasChain = map[string]bool{}, map[string]map[nft.Bytes]nft.Element{}, map[string]bool{}
}

func (t *tables) addSet(def nft.Set) {
	if _, touched := t.wasSet[def.Name]; !touched {
		t.wasSet[def.Name] = false
	}
	t.sets[def.Name] = &content{def: def, has: map[nft.Bytes]nft.Element{}, count: map[nft.Bytes]int{}}
}

// dropSet takes an empty set away.
func (t *tables) dropSet(name string) {
	if _, touched := t.wasSet[name]; !touched {
		t.wasSet[name] = true
	}
	delete(t.sets, name)
}

// touch notes how an element was before this step.
func (t *tables) touch(set string, key nft.Bytes) {
	was := t.wasIn[set]
	if was == nil {
		was = map[nft.Bytes]nft.Element{}
		t.wasIn[set] = was
	}
	if _, touched := was[key]; !touched {
		was[key] = t.sets[set].has[key]
	}
}

// add puts an element in, once more if it is there. Of those of the same key, all have the same value.
func (t *tables) add(set string, e nft.Element) {
	s := t.sets[set]
	t.touch(set, e.Key)
	s.has[e.Key] = e
	s.count[e.Key]++
}

// take takes an element out once.
func (t *tables) take(set string, key nft.Bytes) {
	s := t.sets[set]
	t.touch(set, key)
	if s.count[key]--; s.count[key] <= 0 {
		delete(s.count, key)
		delete(s.has, key)
	}
}

// put makes the element of a key be that one alone, whatever was there.
func (t *tables) put(set string, e nft.Element) {
	t.touch(set, e.Key)
	t.sets[set].has[e.Key], t.sets[set].count[e.Key] = e, 1
}

func (t *tables) setChain(name string, rules []nft.Rule) {
	t.touchChain(name)
	t.chains[name] = rules
}

func (t *tables) dropChain(name string) {
	t.touchChain(name)
	delete(t.chains, name)
}

func (t *tables) touchChain(name string) {
	if _, touched := t.wasChain[name]; !touched {
		_, t.wasChain[name] = t.chains[name]
	}
}

// step is what makes the table so, from how it was when the last one was told.
func (t *tables) step() nft.Change {
	c := nft.Change{Table: t.name}
	for _, name := range slices.Sorted(maps.Keys(t.wasSet)) {
		s, is := t.sets[name]
		switch was := t.wasSet[name]; {
		case is && !was:
			c.Sets = append(c.Sets, s.whole())
		case !is && was:
			c.RemoveSets = append(c.RemoveSets, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.wasIn)) {
		s := t.sets[name]
		if was, touched := t.wasSet[name]; touched && (!was || s == nil) {
			continue // new, with all that it has; or gone
		}
		var gone, added []nft.Element
		for _, key := range slices.Sorted(maps.Keys(t.wasIn[name])) {
			was, is := t.wasIn[name][key], s.has[key]
			if was == is {
				continue
			}
			if was.Key != "" {
				gone = append(gone, was)
			}
			if is.Key != "" {
				added = append(added, is)
			}
		}
		if len(gone) > 0 {
			c.Delete = append(c.Delete, nft.Elements{Set: name, List: gone})
		}
		if len(added) > 0 {
			c.Add = append(c.Add, nft.Elements{Set: name, List: added})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.wasChain)) {
		rules, is := t.chains[name]
		switch was := t.wasChain[name]; {
		case is && was:
			c.Empty, c.Rules = append(c.Empty, name), append(c.Rules, nft.Chain{Name: name, Rules: rules})
		case is:
			c.Chains = append(c.Chains, nft.Chain{Name: name, Rules: rules})
		case was:
			c.Empty, c.RemoveChains = append(c.Empty, name), append(c.RemoveChains, name)
		}
	}
	t.begin()
	return c
}

func (s *content) whole() nft.Set {
	def := s.def
	for _, key := range slices.Sorted(maps.Keys(s.has)) {
		def.Elements = append(def.Elements, s.has[key])
	}
	return def
}

// whole is all of the sets, and the chains besides those that the kernel calls.
func (t *tables) whole() (sets []nft.Set, chains []nft.Chain) {
	for _, name := range slices.Sorted(maps.Keys(t.sets)) {
		sets = append(sets, t.sets[name].whole())
	}
	for _, name := range slices.Sorted(maps.Keys(t.chains)) {
		chains = append(chains, nft.Chain{Name: name, Rules: t.chains[name]})
	}
	t.begin()
	return sets, chains
}
