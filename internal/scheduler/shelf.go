package scheduler

import (
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
	byClass  map[string]map[string]*stored // of those that are kept for nobody
	kept     map[loop.Key]map[string]*stored
	promised map[string]loop.Key // volumes that have been chosen for a claim, until they are seen to be its, or given back
}

// stored is one volume on the shelf.
type stored struct {
	volume *corev1.PersistentVolume
	nodes  *nodeaffinity.NodeSelector // that reach it; nil: all do
	label  string                     // of nodes that alone decides that; empty: it is more complicated
	values []string                   // that it may have
}

func newShelf(source Claims) *shelf {
	return &shelf{
		source: source, byName: map[string]*stored{}, byClass: map[string]map[string]*stored{}, kept: map[loop.Key]map[string]*stored{}, promised: map[string]loop.Key{},
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
			drop(s.kept, loop.Key{Namespace: r.Namespace, Name: r.Name}, name)
		} else {
			drop(s.byClass, core.VolumeClass(old.volume), name)
		}
	}
	if v == nil {
		delete(s.promised, name)
		return false, one
	}
	r := v.Spec.ClaimRef
	if r != nil {
		delete(s.promised, name) // it has been given by now, to whomever
	}
	if v.DeletionTimestamp != nil || v.Status.Phase == corev1.VolumeBound || r == nil && v.Status.Phase != corev1.VolumeAvailable {
		return false, one // nobody gets it; and who has it hears of that by the claim
	}
	o := newStored(v)
	s.byName[name] = o
	if r != nil {
		one = loop.Key{Namespace: r.Namespace, Name: r.Name}
		put(s.kept, one, name, o)
		return false, one
	}
	put(s.byClass, core.VolumeClass(v), name, o)
	return true, one
}

func put[K comparable](m map[K]map[string]*stored, key K, name string, o *stored) {
	if m[key] == nil {
		m[key] = map[string]*stored{}
	}
	m[key][name] = o
}

func drop[K comparable](m map[K]map[string]*stored, key K, name string) {
	if delete(m[key], name); len(m[key]) == 0 {
		delete(m, key)
	}
}

func newStored(v *corev1.PersistentVolume) *stored {
	o := &stored{volume: v}
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
	claim  *corev1.PersistentVolumeClaim
	key    loop.Key
	found  int                             // volumes that do, wherever they are
	loose  []*stored                       // those of no single label, the smallest first
	pinned map[string]map[string][]*stored // the others, by label and value
	class  *storagev1.StorageClass         // whose provisioner makes a volume if none does; nil: nobody does
	only   string                          // the node that has been chosen for it before; empty: none
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
	var list []*stored
	for _, o := range s.kept[w.key] {
		if claim.Best(c, []*corev1.PersistentVolume{o.volume}, true) != nil {
			list = append(list, o)
		}
	}
	if len(list) == 0 {
		for name, o := range s.byClass[core.ClaimClass(c)] {
			if by, taken := s.promised[name]; (!taken || by == w.key) && claim.Does(o.volume, c) {
				list = append(list, o)
			}
		}
	}
	slices.SortFunc(list, func(a, b *stored) int { return claim.Smaller(a.volume, b.volume) })
	w.found = len(list)
	for _, o := range list {
		if o.label == "" {
			w.loose = append(w.loose, o)
			continue
		}
		if w.pinned == nil {
			w.pinned = map[string]map[string][]*stored{}
		}
		if w.pinned[o.label] == nil {
			w.pinned[o.label] = map[string][]*stored{}
		}
		for _, value := range o.values {
			w.pinned[o.label][value] = append(w.pinned[o.label][value], o)
		}
	}
	return w
}

// on is the smallest volume that the claim may get on a node and that is not taken by another claim of the pod; nil: none.
func (w *wanting) on(node *Node, taken []*stored) *stored {
	var best *stored
	look := func(list []*stored) {
		for _, o := range list {
			if slices.Contains(taken, o) || !o.reaches(node) {
				continue
			}
			if best == nil || claim.Smaller(o.volume, best.volume) < 0 {
				best = o
			}
			return // those behind it are no smaller
		}
	}
	look(w.loose)
	for label, byValue := range w.pinned {
		if value, has := node.object.Labels[label]; has {
			look(byValue[value])
		}
	}
	return best
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
