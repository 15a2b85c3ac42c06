package loadbalancer

import (
	"maps"
	"net/netip"
	"slices"

	"sampan.dev/internal/loop"
)

// give writes down that a Service has these addresses.
func (b *Book) give(c *Claim, addrs []netip.Addr) {
	b.grants[c.Key] = &grant{c, addrs}
	for _, a := range addrs {
		if b.holders[a] == nil {
			b.holders[a] = map[loop.Key]*Claim{}
		}
		b.holders[a][c.Key] = c
		for _, p := range c.Ports {
			b.ports[at(a, p)] = c.Key
		}
		if c.Sharing != "" {
			if b.sharing[c.Sharing] == nil {
				b.sharing[c.Sharing] = map[netip.Addr]int{}
			}
			b.sharing[c.Sharing][a]++
		}
	}
}

// release gives back all that a Service has, and says what that is.
func (b *Book) release(key loop.Key) (freed []slot) {
	g := b.grants[key]
	if g == nil {
		return nil
	}
	delete(b.grants, key)
	for _, a := range g.addrs {
		delete(b.holders[a], key)
		freed = append(freed, whole(a))
		if len(b.holders[a]) == 0 {
			delete(b.holders, a)
			b.reopen(a)
		}
		for _, p := range g.claim.Ports {
			delete(b.ports, at(a, p))
			freed = append(freed, at(a, p))
		}
		if s := b.sharing[g.claim.Sharing]; s != nil {
			if s[a]--; s[a] == 0 {
				delete(s, a)
			}
			if len(s) == 0 {
				delete(b.sharing, g.claim.Sharing)
			}
		}
	}
	return freed
}

// reopen has the search for free addresses begin no later than at a.
func (b *Book) reopen(a netip.Addr) {
	for i, r := range b.ground.Pools {
		if r.Contains(a) && (!b.next[i].IsValid() || a.Less(b.next[i])) {
			b.next[i] = a
		}
	}
}

// free is what of the slots that were given back was not given again at once.
func (b *Book) free(back []slot) (free []slot) {
	for _, s := range back {
		if s.port == (Port{}) {
			if len(b.holders[s.addr]) == 0 || b.shared(s.addr) {
				free = append(free, s, anyFree(s.v6))
			}
		} else if _, there := b.ports[s]; !there {
			free = append(free, s)
		}
	}
	return free
}

// shared says that more than one Service may have the address: who waits for it may fit now, though it has a holder.
func (b *Book) shared(a netip.Addr) bool {
	for _, c := range b.holders[a] {
		return c.Sharing != ""
	}
	return false
}

func (b *Book) wait(c *Claim, until slot) {
	if b.waits[until] == nil {
		b.waits[until] = map[loop.Key]*Claim{}
	}
	b.waits[until][c.Key], b.waiting[c.Key] = c, until
}

func (b *Book) unwait(key loop.Key) {
	s, waits := b.waiting[key]
	if !waits {
		return
	}
	delete(b.waiting, key)
	if delete(b.waits[s], key); len(b.waits[s]) == 0 {
		delete(b.waits, s)
	}
}

// concerned are those who wait for one of the slots, the older first.
func (b *Book) concerned(freed []slot) (keys []loop.Key) {
	claims := map[loop.Key]*Claim{}
	for _, s := range freed {
		maps.Copy(claims, b.waits[s])
	}
	for _, c := range slices.SortedFunc(maps.Values(claims), (*Claim).before) {
		keys = append(keys, c.Key)
	}
	return keys
}
