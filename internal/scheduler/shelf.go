package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource/core"
)

// Claims shows the current claims, volumes and classes, which are shared and must not be changed. Nil: there is none.
type Claims interface {
	Claim(key loop.Key) *corev1.PersistentVolumeClaim
	Volume(name string) *corev1.PersistentVolume
	Class(name string) *storagev1.StorageClass
}

// shelf is the volumes that nobody has: from here a claim gets one when its pod gets a node. What is bound is looked up when it is asked for.
type shelf struct {
	source   Claims
	byName   map[string]*stored
	byClass  map[string]*rack    // of those that are kept for nobody
	kept     map[loop.Key]*rack  // by the claim that they are kept for
	promised map[string]loop.Key // volumes that have been chosen for a claim, until they are seen to be its, or given back
	chosen   map[loop.Key]string // the same by claim
}

// stored is one volume on the shelf.
type stored struct {
	volume *corev1.PersistentVolume
	size   int64
	nodes  *nodeaffinity.NodeSelector // that reach it; nil: all do
	label  string                     // of nodes that alone decides that; empty: it is more complicated
	values []string                   // that it may have
}

func newShelf(source Claims) *shelf {
	return &shelf{
		source: source, byName: map[string]*stored{}, byClass: map[string]*rack{}, kept: map[loop.Key]*rack{}, promised: map[string]loop.Key{}, chosen: map[loop.Key]string{},
	}
}

// Stock puts the volumes on the shelf, for who explains. Source shows the rest.
func (n *Nodes) Stock(source Claims, volumes []*corev1.PersistentVolume) {
	n.shelf = newShelf(source)
	for _, v := range volumes {
		n.shelf.set(v.Name, v)
	}
}

// set takes over what the volume of that name is now; nil: it is gone. It says which claims may have gained by it: all, or the one that it is for.
func (s *shelf) set(name string, v *corev1.PersistentVolume) (all bool, one loop.Key) {
	if old := s.byName[name]; old != nil {
		delete(s.byName, name)
		if r := old.volume.Spec.ClaimRef; r != nil {
			drop(s.kept, loop.Key{Namespace: r.Namespace, Name: r.Name}, old)
		} else {
			drop(s.byClass, core.VolumeClass(old.volume), old)
		}
	}
	if v == nil {
		s.release(name)
		return false, one
	}
	r := v.Spec.ClaimRef
	if r != nil {
		s.release(name) // it has been given by now, to whomever
	}
	if v.DeletionTimestamp != nil || v.Status.Phase == corev1.VolumeBound || r == nil && v.Status.Phase != corev1.VolumeAvailable {
		return false, one // nobody gets it; and who has it hears of that by the claim
	}
	o := newStored(v)
	s.byName[name] = o
	if r != nil {
		one = loop.Key{Namespace: r.Namespace, Name: r.Name}
		put(s.kept, one, o)
		return false, one
	}
	put(s.byClass, core.VolumeClass(v), o)
	return true, one
}

// promise keeps a volume for a claim.
func (s *shelf) promise(name string, to loop.Key) {
	s.release(s.chosen[to])
	s.promised[name], s.chosen[to] = to, name
}

// release takes a promise back.
func (s *shelf) release(name string) {
	if to, is := s.promised[name]; is {
		delete(s.promised, name)
		delete(s.chosen, to)
	}
}

// rack is volumes with something in common, the smallest first, so that a node is asked only for those that it reaches.
type rack struct {
	loose  []*stored                       // of no single label of nodes
	pinned map[string]map[string][]*stored // the others, by label and value
	count  int
}

func put[K comparable](m map[K]*rack, key K, o *stored) {
	r := m[key]
	if r == nil {
		r = &rack{pinned: map[string]map[string][]*stored{}}
		m[key] = r
	}
	r.count++
	add := func(list []*stored) []*stored {
		at, _ := slices.BinarySearchFunc(list, o, smaller)
		return slices.Insert(list, at, o)
	}
	if o.label == "" {
		r.loose = add(r.loose)
		return
	}
	if r.pinned[o.label] == nil {
		r.pinned[o.label] = map[string][]*stored{}
	}
	for _, value := range o.values {
		r.pinned[o.label][value] = add(r.pinned[o.label][value])
	}
}

func drop[K comparable](m map[K]*rack, key K, o *stored) {
	r := m[key]
	if r.count--; r.count == 0 {
		delete(m, key)
		return
	}
	without := func(list []*stored) []*stored {
		return slices.DeleteFunc(list, func(x *stored) bool { return x == o })
	}
	if o.label == "" {
		r.loose = without(r.loose)
		return
	}
	for _, value := range o.values {
		if r.pinned[o.label][value] = without(r.pinned[o.label][value]); len(r.pinned[o.label][value]) == 0 {
			delete(r.pinned[o.label], value)
		}
	}
}

func smaller(a, b *stored) int {
	return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.volume.Name, b.volume.Name))
}

// all yields the volumes of a rack, some of them several times.
func (r *rack) all(yield func(*stored) bool) {
	for _, o := range r.loose {
		if !yield(o) {
			return
		}
	}
	for _, byValue := range r.pinned {
		for _, list := range byValue {
			for _, o := range list {
				if !yield(o) {
					return
				}
			}
		}
	}
}

func newStored(v *corev1.PersistentVolume) *stored {
	o := &stored{volume: v, size: claim.Size(v.Spec.Capacity)}
	a := v.Spec.NodeAffinity
	if a == nil || a.Required == nil {
		return o
	}
	o.nodes, _ = nodeaffinity.NewNodeSelector(a.Required) // validation lets no other in
	if o.nodes == nil {
		o.nodes, _ = nodeaffinity.NewNodeSelector(&corev1.NodeSelector{}) // nothing matches it
	}
	// Volumes on the disks of nodes nearly always ask for one label: those are found by it, without asking each volume of each node.
	if terms := a.Required.NodeSelectorTerms; len(terms) == 1 && len(terms[0].MatchExpressions) == 1 && len(terms[0].MatchFields) == 0 {
		if r := terms[0].MatchExpressions[0]; r.Operator == corev1.NodeSelectorOpIn {
			o.label, o.values = r.Key, r.Values
		}
	}
	return o
}

func (o *stored) reaches(node *Node) bool { return o.nodes == nil || o.nodes.Match(node.object) }

// wanting is one claim that gets its volume when its pod gets a node, and the volumes that it may get.
type wanting struct {
	claim *corev1.PersistentVolumeClaim
	key   loop.Key
	rack  *rack                   // where its volumes are, if they do; nil: there are none
	does  func(*stored) bool      // for the claim
	loose []*stored               // of the rack, those that do
	class *storagev1.StorageClass // whose provisioner makes a volume if none does; nil: nobody does
	only  string                  // the node that has been chosen for it before; empty: none
}

// want finds out what a claim that waits for a node may get.
func (s *shelf) want(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *wanting {
	w := &wanting{claim: c, key: loop.Key{Namespace: c.Namespace, Name: c.Name}, only: c.Annotations[claim.SelectedNode]}
	if class != nil && class.Provisioner != "" && class.Provisioner != claim.NoProvisioner {
		w.class = class
	}
	if w.only != "" {
		return w // somebody makes it a volume
	}
	w.does = func(o *stored) bool { return claim.Best(c, []*corev1.PersistentVolume{o.volume}, true) != nil }
	if w.rack = s.kept[w.key]; w.rack == nil || !slices.ContainsFunc(slices.Collect(w.rack.all), w.does) {
		w.rack = s.byClass[core.ClaimClass(c)]
		w.does = func(o *stored) bool {
			_, taken := s.promised[o.volume.Name]
			return !taken && claim.Does(o.volume, c)
		}
	}
	if name := s.chosen[w.key]; name != "" { // another pod with this claim was there first: both go to where that volume is
		w.does = func(o *stored) bool { return o.volume.Name == name }
	}
	if w.rack == nil {
		return w
	}
	for _, o := range w.rack.loose {
		if w.does(o) {
			w.loose = append(w.loose, o)
		}
	}
	return w
}

// on is the smallest volume that the claim may get on a node and that is not taken by another claim of the pod; nil: none.
func (w *wanting) on(node *Node, taken []*stored) *stored {
	if w.rack == nil {
		return nil
	}
	best := first(w.loose, func(o *stored) bool { return !slices.Contains(taken, o) && o.reaches(node) })
	for label, byValue := range w.rack.pinned {
		if value, has := node.object.Labels[label]; has {
			o := first(byValue[value], func(o *stored) bool { return !slices.Contains(taken, o) && w.does(o) && o.reaches(node) })
			if o != nil && (best == nil || smaller(o, best) < 0) {
				best = o
			}
		}
	}
	return best
}

func first(list []*stored, is func(*stored) bool) *stored {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return nil
}

// found are the names of the volumes that do for the claim, wherever they are.
func (w *wanting) found() (names []string) {
	if w.rack == nil {
		return nil
	}
	for o := range w.rack.all {
		if w.does(o) {
			names = append(names, o.volume.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// provisioned says whether somebody may make a volume for the claim that the node reaches.
func (w *wanting) provisioned(node *Node) bool {
	if w.class == nil || w.only != "" && w.only != node.Name {
		return false
	}
	if len(w.class.AllowedTopologies) == 0 {
		return true
	}
	return slices.ContainsFunc(w.class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, has := node.object.Labels[r.Key]
			return !has || !slices.Contains(r.Values, value)
		})
	})
}
