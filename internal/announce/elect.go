package announce

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"sampan.dev/internal/loop"

	"k8s.io/apimachinery/pkg/types"
)

// Wanted is what is to be announced for one Service.
type Wanted struct {
	UID       types.UID
	Addresses []netip.Addr
	Nodes     map[string]bool // that may take its packets; nil: any
}

// Node is a node that may announce.
type Node struct {
	Serves    bool // it is ready, and not left out
	Addresses []netip.Addr
	Renewed   time.Time     // its lease, by its own clock
	Lease     time.Duration // how long that holds; zero: it has none, and is believed
}

// View is what is read of the cluster.
type View interface {
	// Ready is closed once the view holds what the API holds.
	Ready() <-chan struct{}
	Services() []loop.Key
	// Service says what is to be announced for a Service: nothing, if it is not there.
	Service(key loop.Key) Wanted
	Nodes() []string
	Node(name string) (Node, bool)
	// OnService and OnNode call when what they name has changed. What they call only marks. They are called once, before the view is run.
	OnService(func(key loop.Key))
	OnNode(func(name string))
}

// Elect names the node that announces an address; empty: none can. Each node comes to the same result by itself; a node that goes moves only what it had. Nodes that
// have an address in the network that the address is of go before others, if there are such: the others are hardly on that link.
func Elect(ip netip.Addr, network netip.Prefix, nodes map[string][]netip.Addr) (winner string) {
	var most uint64
	near := func(name string) bool { return slices.ContainsFunc(nodes[name], network.Contains) }
	winnerNear := false
	for name := range nodes {
		weight, isNear := weigh(name, ip), near(name)
		switch {
		case winner == "", isNear && !winnerNear, isNear == winnerNear && (weight > most || weight == most && name < winner):
			winner, most, winnerNear = name, weight, isNear
		}
	}
	return winner
}

// weigh is a number that depends on the name and the address, in each of its bits.
func weigh(name string, ip netip.Addr) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write(ip.AsSlice())
	x := h.Sum64() // the last bytes have moved only some of its bits
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
