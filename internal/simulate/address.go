package simulate

import (
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/loop"
)

// addressBook gives addresses for pods. Each node has 256 places, the same in each of its ranges; a place is taken while a pod that has not ended shows
// its address, or was given it and does not show it yet.
type addressBook struct {
	mu    sync.Mutex
	nodes map[string]*used
	given map[loop.Key]grant
}

type used [4]uint64

type grant struct {
	uid   types.UID
	place int
}

// firstPlace is the first that a pod can have: before it are the network itself and the bridge.
const firstPlace = 2

func (u *used) set(place int, is bool) {
	if place < firstPlace || place >= 256 {
		return
	}
	if is {
		u[place/64] |= 1 << (place % 64)
	} else {
		u[place/64] &^= 1 << (place % 64)
	}
}

func (u *used) free() (place int, ok bool) {
	for i := range u {
		taken := u[i]
		if i == 0 {
			taken |= 1<<firstPlace - 1
		}
		if i == 3 {
			taken |= 1 << 63 // the broadcast address
		}
		if taken != ^uint64(0) {
			return 64*i + bits.TrailingZeros64(^taken), true
		}
	}
	return 0, false
}

func (a *addressBook) of(node string) *used {
	u := a.nodes[node]
	if u == nil {
		u = &used{}
		a.nodes[node] = u
	}
	return u
}

// follow notes what a pod shows of its address.
func (a *addressBook) follow(node string, old, new *cache.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	was, is := placeOf(old), placeOf(new)
	u := a.of(node)
	if was != is && was >= 0 {
		u.set(was, false)
	}
	if is >= 0 {
		u.set(is, true)
	}
	if new == nil {
		key := loop.Key{Namespace: old.Namespace(), Name: old.Name()}
		if g, there := a.given[key]; there {
			u.set(g.place, false)
			delete(a.given, key)
		}
	} else if is >= 0 {
		delete(a.given, loop.Key{Namespace: new.Namespace(), Name: new.Name()})
	}
}

// placeOf is the place of the address that a pod shows and holds; -1 for none.
func placeOf(o *cache.Object) int {
	if o == nil {
		return -1
	}
	switch corev1.PodPhase(o.Field("status.phase")) {
	case corev1.PodSucceeded, corev1.PodFailed:
		return -1
	}
	if o.Field("spec.hostNetwork") == "true" {
		return -1
	}
	ip, err := netip.ParseAddr(o.Field("status.podIP"))
	if err != nil || !ip.Is4() {
		return -1
	}
	return int(ip.As4()[3])
}

// give gives a pod its addresses: always the same until it shows them. None are given by a node that has no range yet.
func (a *addressBook) give(node *corev1.Node, key loop.Key, uid types.UID) ([]corev1.PodIP, error) {
	if len(node.Spec.PodCIDRs) == 0 {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g, there := a.given[key]
	if !there || g.uid != uid {
		place, ok := a.of(node.Name).free()
		if !ok {
			return nil, fmt.Errorf("no address of %s is free on node %s", node.Spec.PodCIDRs[0], node.Name)
		}
		if there {
			a.of(node.Name).set(g.place, false)
		}
		g = grant{uid, place}
		a.given[key] = g
		a.of(node.Name).set(place, true)
	}
	var all []corev1.PodIP
	for _, text := range node.Spec.PodCIDRs {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("read the range of node %s: %w", node.Name, err)
		}
		bytes := r.Masked().Addr().AsSlice()
		bytes[len(bytes)-1] += byte(g.place)
		ip, _ := netip.AddrFromSlice(bytes)
		if !r.Contains(ip) {
			return nil, fmt.Errorf("no address of %s is free on node %s", r, node.Name)
		}
		all = append(all, corev1.PodIP{IP: ip.String()})
	}
	return all, nil
}

// podsOf are the pods of a node.
func (f *Fleet) podsOf(node string) iter.Seq[*cache.Object] {
	return f.cache.Snapshot().List(f.kinds.pods, cache.Selection{Fields: fields.OneTermEqualSelector("spec.nodeName", node)})
}
