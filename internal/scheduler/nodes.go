package scheduler

import (
	"hash/fnv"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/loop"
)

// Node is what the scheduler keeps of a node: what it offers and what is taken of it. It is brought up to date with
// each pod that comes or goes, never counted anew.
type Node struct {
	Name string

	exists      bool         // false while only pods name it
	object      *corev1.Node // name and labels alone, for selectors
	taints      []corev1.Taint
	cordoned    bool
	allocatable amounts
	podsMost    int64

	used, scored amounts // sums over the pods
	pods         int64
	ports        []port
	hash         uint64 // of the name, to break ties

	members map[loop.Key]*member // its pods
	owners  map[types.UID]int    // how many of them each controller has that are not being deleted
	images  map[string]int64     // bytes, by name

	promises []promise // pods that room is made for here
}

// Nodes are all nodes, as one goroutine sees and changes them.
type Nodes struct {
	byName map[string]*Node
	list   []*Node // those that exist, in no order that means anything
	next   int     // where in list the next search begins, so that a search that stops early is fair

	// Namespaces gives the labels of a namespace, for pods that select others by them.
	Namespaces Namespaces

	demanding map[loop.Key]*member // pods that ask something of their neighbours
	holders   map[string]int       // of each image: on how many nodes it is
	promised  map[loop.Key]*Node   // where room is made for a pod
	users     map[loop.Key]int     // of each claim: pods that have a node
	shelf     *shelf               // the volumes that claims may get; nil: claims ask for nothing
	scratch   []scored             // of Pick
}

// NewNodes is a cluster without nodes.
func NewNodes() *Nodes {
	return &Nodes{
		byName: map[string]*Node{}, demanding: map[loop.Key]*member{}, holders: map[string]int{}, promised: map[loop.Key]*Node{}, users: map[loop.Key]int{},
		Namespaces: func(string) map[string]string { return nil },
	}
}

// Len is the number of nodes that exist.
func (n *Nodes) Len() int { return len(n.list) }

// Set takes over what the node object says, and returns which filters may let more pods pass than before.
func (n *Nodes) Set(object *corev1.Node) (*Node, Filters) {
	node := n.get(object.Name)
	allocatable, podsMost := amountsOf(object.Status.Allocatable), object.Status.Allocatable.Pods().Value()
	var gained Filters
	switch {
	case !node.exists:
		gained = everyFilter
		node.exists = true
		n.list = append(n.list, node)
	default:
		if allocatable.grew(node.allocatable) || podsMost > node.podsMost {
			gained |= byResources
		}
		if !maps.Equal(node.object.Labels, object.Labels) {
			gained |= byAffinity | bySpread | byNeighbours | byStorage // the labels are the topologies, too
		}
		if !slices.EqualFunc(node.taints, object.Spec.Taints, sameTaint) {
			gained |= byTaints | bySpread // which may leave nodes out that do not take the pod
		}
		if node.cordoned && !object.Spec.Unschedulable {
			gained |= byCordon
		}
	}
	if node.object == nil || !maps.Equal(node.object.Labels, object.Labels) {
		node.object = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: object.Name, Labels: object.Labels}}
	}
	node.taints, node.cordoned = object.Spec.Taints, object.Spec.Unschedulable
	node.allocatable, node.podsMost = allocatable, podsMost
	n.hold(node, object.Status.Images)
	return node, gained
}

// Remove forgets what the node offers. What pods take there is kept until they are gone too.
func (n *Nodes) Remove(name string) {
	node := n.byName[name]
	if node == nil || !node.exists {
		return
	}
	i := slices.Index(n.list, node)
	n.list = slices.Delete(n.list, i, i+1)
	node.exists, node.object, node.taints = false, nil, nil
	n.hold(node, nil)
	n.drop(node)
}

func (n *Nodes) get(name string) *Node {
	node := n.byName[name]
	if node == nil {
		h := fnv.New64a()
		_, _ = h.Write([]byte(name))
		node = &Node{Name: name, hash: h.Sum64()}
		n.byName[name] = node
	}
	return node
}

// drop forgets a node that neither exists nor holds pods.
func (n *Nodes) drop(node *Node) {
	if !node.exists && node.pods == 0 {
		delete(n.byName, node.Name)
	}
}

// use is what one pod takes of its node.
type use struct {
	asked, scored amounts
	ports         []port
}

func useOf(pod *corev1.Pod) use {
	asked, scored := requests(pod)
	return use{asked: asked, scored: scored, ports: ports(pod)}
}

// add counts a pod on the node of that name, which need not exist.
func (n *Nodes) add(name string, u use) *Node {
	node := n.get(name)
	node.used = node.used.plus(u.asked, 1)
	node.scored = node.scored.plus(u.scored, 1)
	node.ports = append(node.ports, u.ports...)
	node.pods++
	return node
}

// take away what add has counted.
func (n *Nodes) take(node *Node, u use) {
	node.used = node.used.plus(u.asked, -1)
	node.scored = node.scored.plus(u.scored, -1)
	for _, p := range u.ports {
		if i := slices.Index(node.ports, p); i >= 0 {
			node.ports = slices.Delete(node.ports, i, i+1)
		}
	}
	node.pods--
	n.drop(node)
}

func sameTaint(a, b corev1.Taint) bool {
	return a.Key == b.Key && a.Value == b.Value && a.Effect == b.Effect
}
