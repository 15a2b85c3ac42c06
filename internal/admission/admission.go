// Package admission is the ordered list of what looks at a write, after its author was let in and before it is validated.
//
// A step may change the object or refuse the write; it reads the cache and writes nothing itself. Always: steps run in the order in which Steps
// returns them, each sees what those before it have changed, and an error ends the write with nothing done. Webhooks come after them, at the end of the list.
package admission

import (
	"context"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

// Operation is what a write does.
type Operation string

// The operations, in the words that Kubernetes' webhooks know them by.
const (
	Create Operation = "CREATE"
	Update Operation = "UPDATE"
	Delete Operation = "DELETE"
)

// Attributes are one write on its way.
type Attributes struct {
	Operation       Operation
	Kind            *resource.Kind
	Sub             string // subresource, or ""
	Namespace, Name string
	Object          resource.Object // may be changed; nil for a delete and for a subresource that is no object of the kind
	Old             resource.Object // for an update; never changed
	User            *auth.Identity
	DryRun          bool
}

// Step is one link of the chain.
type Step interface {
	// Admit returns nil, having changed the object or not, or an *apierrors.StatusError.
	Admit(ctx context.Context, a *Attributes) error
}

// state is what steps ask of the cache.
type state interface {
	Snapshot() *cache.Snapshot
	Watch(kind *resource.Kind, sel cache.Selection, after int64) (*cache.Watcher, error)
}

// Steps returns all steps in their order. Of the last parameter none or one is given: how long pods tolerate lost nodes.
func Steps(table *resource.Table, c *cache.Cache, tolerations ...DefaultTolerationSeconds) []Step {
	var tolerate DefaultTolerationSeconds
	if len(tolerations) > 0 {
		tolerate = tolerations[0]
	}
	return []Step{
		newNamespaceLifecycle(table, c),
		newServiceAccount(table, c),
		newPriority(table, c),
		tolerate,
		newStorage(table, c),
		newRuntimeClass(table, c),
		CertificateRequests{},
		newDefaultIngressClass(table, c),
	}
}
