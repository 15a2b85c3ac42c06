package garbage

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// state of an owner.
type state int

const (
	there   state = iota // or of a kind that cannot be looked up
	gone                 // or another one of its name
	waiting              // for its dependents to be deleted before it
)

// Plan is what becomes of an object with owners.
type Plan struct {
	Delete bool
	Policy metav1.DeletionPropagation // of the deletion
	Unlink []types.UID                // owners to take off instead
}

// Decide says what becomes of an object, by the states of its owners (one each, in their order) and whether it has
// dependents of its own.
func Decide(m *Meta, owners []state, hasDependents bool) Plan {
	if slices.Contains(owners, there) {
		var p Plan
		for i, s := range owners {
			if s != there {
				p.Unlink = append(p.Unlink, m.Owners[i].UID)
			}
		}
		return p
	}
	p := Plan{Delete: true, Policy: metav1.DeletePropagationBackground}
	switch {
	case slices.Contains(owners, waiting) && hasDependents:
		p.Policy = metav1.DeletePropagationForeground // so that its own dependents go before it, as it goes before its owner
	case slices.Contains(m.Finalizers, metav1.FinalizerOrphanDependents):
		p.Policy = metav1.DeletePropagationOrphan
	case slices.Contains(m.Finalizers, metav1.FinalizerDeleteDependents):
		p.Policy = metav1.DeletePropagationForeground
	}
	return p
}
