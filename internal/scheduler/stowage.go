package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"sampan.dev/internal/claim"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource/core"
)

// stowage is what the claims of a pod ask of a node, worked out for one attempt. Pods without claims have none.
type stowage struct {
	why     string     // no node will do, in Kubernetes' words; empty: it depends on the node
	by      Filters    // that says so
	alone   []loop.Key // claims that no other pod may use
	users   map[loop.Key]int
	bound   []*stored // volumes of claims that are bound
	missing bool      // one of them is not there
	wanting []*wanting
	zones   []zone
}

// zone is where the labels of a volume say that it is.
type zone struct {
	volume, label string
	values        []string
}

// usedClaim is a claim of a pod by its name.
type usedClaim struct {
	key loop.Key
	own bool // it is made for the pod
}

func claimsOf(pod *corev1.Pod) (list []usedClaim) {
	for name, v := range claim.Names(pod) {
		c := usedClaim{loop.Key{Namespace: pod.Namespace, Name: name}, v.Ephemeral != nil}
		if !slices.Contains(list, c) { // several volumes may be of one
			list = append(list, c)
		}
	}
	return list
}

// stow works out what the claims of a pod ask for. It is done once an attempt.
func (n *Nodes) stow(need *Need) {
	need.stowage = nil
	if len(need.claims) == 0 || n.shelf == nil {
		return
	}
	s := &stowage{users: n.users}
	need.stowage = s
	if need.plan.reads&byAlone != 0 {
		s.seize(need, n.shelf.source)
	}
	if s.why == "" && need.plan.reads&byVolumes != 0 {
		s.load(need, n.shelf)
	}
	if s.why == "" && need.plan.reads&byZone != 0 {
		s.place(need, n.shelf.source)
	}
}

func (s *stowage) refuse(by Filters, format string, args ...any) {
	s.by, s.why = by, fmt.Sprintf(format, args...)
}

func notFound(c usedClaim) string {
	return fmt.Sprintf("persistentvolumeclaim %q not found", c.key.Name)
}

// seize finds the claims that no other pod may use.
func (s *stowage) seize(n *Need, source Claims) {
	for _, c := range n.claims {
		if c.own {
			continue
		}
		o := source.Claim(c.key)
		if o == nil {
			s.refuse(byAlone, "%s", notFound(c))
			return
		}
		if slices.Contains(o.Spec.AccessModes, corev1.ReadWriteOncePod) {
			s.alone = append(s.alone, c.key)
		}
	}
}

// load finds the volumes of the claims that are bound, and what those may get that wait for a node.
func (s *stowage) load(n *Need, sh *shelf) {
	unbound := false
	for _, c := range n.claims {
		o := sh.source.Claim(c.key)
		switch {
		case o == nil && c.own:
			s.refuse(byVolumes, "waiting for ephemeral volume controller to create the persistentvolumeclaim %q", c.key.Name)
		case o == nil:
			s.refuse(byVolumes, "%s", notFound(c))
		case o.Status.Phase == corev1.ClaimLost:
			s.refuse(byVolumes, "persistentvolumeclaim %q bound to non-existent persistentvolume %q", o.Name, o.Spec.VolumeName)
		case o.DeletionTimestamp != nil:
			s.refuse(byVolumes, "persistentvolumeclaim %q is being deleted", o.Name)
		case c.own && ephemeral.VolumeIsForPod(n.Pod, o) != nil:
			s.refuse(byVolumes, "%v", ephemeral.VolumeIsForPod(n.Pod, o))
		}
		if s.why != "" {
			return
		}
		if claim.IsBound(o) {
			if v := sh.source.Volume(o.Spec.VolumeName); v != nil {
				s.bound = append(s.bound, newStored(v))
			} else {
				s.missing = true
			}
			continue
		}
		if class := sh.source.Class(core.ClaimClass(o)); o.Spec.VolumeName == "" && claim.Waits(class) {
			s.wanting = append(s.wanting, sh.want(o, class))
		} else {
			unbound = true
		}
	}
	if unbound {
		s.refuse(byVolumes, "pod has unbound immediate PersistentVolumeClaims")
		return
	}
	slices.SortStableFunc(s.wanting, func(a, b *wanting) int { // the smallest first: what is small enough for it may be too small for others
		return cmp.Compare(claim.Size(a.claim.Spec.Resources.Requests), claim.Size(b.claim.Spec.Resources.Requests))
	})
}

var zoneLabels = []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion}

// place finds the zones that volumes are in by their labels.
func (s *stowage) place(n *Need, source Claims) {
	for _, c := range n.claims {
		o := source.Claim(c.key)
		if o == nil {
			s.refuse(byZone, "%s", notFound(c))
			return
		}
		if o.Spec.VolumeName == "" {
			if claim.Waits(source.Class(core.ClaimClass(o))) {
				continue
			}
			s.refuse(byZone, "%s", unplaced(source.Class(core.ClaimClass(o)), core.ClaimClass(o)))
			return
		}
		v := source.Volume(o.Spec.VolumeName)
		if v == nil {
			s.refuse(byZone, "persistentvolume %q not found", o.Spec.VolumeName)
			return
		}
		for _, label := range zoneLabels {
			if value, has := v.Labels[label]; has {
				s.zones = append(s.zones, zone{v.Name, label, strings.Split(value, "__")})
			}
		}
	}
}

func unplaced(class *storagev1.StorageClass, name string) string {
	switch {
	case name == "":
		return "PersistentVolumeClaim had no pv name and storageClass name"
	case class == nil:
		return fmt.Sprintf("storageclass.storage.k8s.io %q not found", name)
	}
	return "PersistentVolume had no name"
}

// choice is what the claims of a pod get on a node.
type choice struct {
	give []given                         // volumes to claims
	make []*corev1.PersistentVolumeClaim // claims that a provisioner is to make volumes for, there
}

type given struct {
	volume *corev1.PersistentVolume
	claim  *corev1.PersistentVolumeClaim
}

// choose finds volumes on a node for all claims that wait for one. Without a choice to make there is nothing in it. Ok: all are served.
func (s *stowage) choose(node *Node) (c choice, ok bool) {
	var taken []*stored
	for _, w := range s.wanting {
		if o := w.on(node, taken); o != nil {
			taken = append(taken, o)
			c.give = append(c.give, given{o.volume, w.claim})
			continue
		}
		if !w.provisioned(node) {
			return choice{}, false
		}
		c.make = append(c.make, w.claim)
	}
	return c, true
}

// chosen is what has to be written before the pod is bound to the node; nil: nothing.
func (n *Need) chosen(node *Node) *choice {
	if n.stowage == nil || len(n.stowage.wanting) == 0 {
		return nil
	}
	c, _ := n.stowage.choose(node)
	return &c
}

func (s *stowage) reaches(node *Node) bool {
	for _, o := range s.bound {
		if !o.reaches(node) {
			return false
		}
	}
	return true
}

// unused says that no other pod uses the claims that the pod must have for itself.
func unused(n *Need, _ *Node) bool {
	if n.stowage == nil {
		return true
	}
	for _, key := range n.stowage.alone {
		if n.stowage.users[key] > 0 {
			return false
		}
	}
	return true
}

func whyUsed(*Need, *Node) ([]string, bool) {
	return []string{"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"}, false
}

func volumesFit(n *Need, node *Node) bool {
	s := n.stowage
	if s == nil {
		return true
	}
	if s.missing || !s.reaches(node) {
		return false
	}
	if len(s.wanting) == 0 {
		return true
	}
	_, ok := s.choose(node)
	return ok
}

func whyVolumesDoNotFit(n *Need, node *Node) (reasons []string, final bool) {
	s := n.stowage
	if !s.reaches(node) {
		reasons = append(reasons, "node(s) didn't match PersistentVolume's node affinity")
	}
	if _, ok := s.choose(node); !ok {
		reasons = append(reasons, "node(s) didn't find available persistent volumes to bind")
	}
	if s.missing {
		reasons = append(reasons, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	}
	return reasons, true
}

// inZone says whether the node is where the volumes' labels say that these are. A node that is in no zone at all is everywhere.
func inZone(n *Need, node *Node) bool {
	if n.stowage == nil || len(n.stowage.zones) == 0 {
		return true
	}
	if !slices.ContainsFunc(zoneLabels, func(l string) bool { return node.object.Labels[l] != "" }) {
		return true
	}
	for _, z := range n.stowage.zones {
		if !z.has(node) {
			return false
		}
	}
	return true
}

func (z *zone) has(node *Node) bool {
	value, has := node.object.Labels[z.label]
	if !has { // the names have changed, once
		switch z.label {
		case corev1.LabelFailureDomainBetaZone:
			value, has = node.object.Labels[corev1.LabelTopologyZone]
		case corev1.LabelFailureDomainBetaRegion:
			value, has = node.object.Labels[corev1.LabelTopologyRegion]
		}
	}
	return has && slices.Contains(z.values, value)
}
