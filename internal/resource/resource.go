// Package resource is the table of served kinds: what there is of each kind, and what holds for all of them.
//
// It watches nothing and writes nothing; all functions are pure, but that they change the object handed to them where they say so.
// Always: a Kind holds all that is particular to a kind, as plain values and functions; what holds for every kind
// (metadata, codecs, the scheme) is here once. A kind has one stored version, and conversions only where a second one is served.
package resource

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is anything with metadata that is served and stored.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is a row of the table: everything that is particular to one kind. Functions that are nil do nothing.
type Kind struct {
	schema.GroupVersionKind // the stored version

	Plural, Singular       string
	ShortNames, Categories []string
	Namespaced             bool
	Prefix                 string // of the keys in the store, such as "/registry/pods/"
	New                    func() Object
	NewList                func() runtime.Object
	Verbs                  []string  // served; nil means all of AllVerbs
	Also                   []Version // other served versions of the same stored objects

	// Default fills in what was left out, in place. Doing it twice changes nothing.
	Default func(Object)
	// PrepareCreate drops what a client may not set (status) and sets what only the server sets (generation, phase).
	// It runs once, after defaulting, naming and admission, and before validation.
	PrepareCreate func(Object)
	// PrepareUpdate, which runs at the same point of an update, carries over from old what an update of the main resource may not change, and bumps the generation.
	PrepareUpdate func(new, old Object)
	// PrepareDelete changes an object whose deletion begins, once its deletionTimestamp is set (namespaces become Terminating).
	PrepareDelete func(Object)
	// Orphans says that a deletion that does not say otherwise leaves the dependents: so it was for those kinds before there was a choice.
	Orphans       bool
	OrphanWarning string // for who deletes one without saying
	// Held says that something besides metadata.finalizers keeps a deleted object (a namespace's spec.finalizers).
	Held func(Object) bool

	// NameRule says what is wrong with a name, or with the prefix of a generated one. Nil: whatever fits in a URL's path.
	NameRule func(name string, prefix bool) []string
	// Validate checks everything but ObjectMeta, which ValidateMeta does, on create and update alike.
	// What holds only for an object to be created is checked while it has no resourceVersion (IsNew).
	Validate func(Object) field.ErrorList
	// ValidateUpdate checks what may change; the caller has run Validate(new) and ValidateMetaUpdate already.
	ValidateUpdate func(new, old Object) field.ErrorList
	// Warnings are sentences for the person who creates or updates the object.
	Warnings func(Object) []string

	Status   *Status  // nil: no /status
	Finalize *Status  // nil: no /finalize (only namespaces have it)
	Approval *Status  // nil: no /approval (only certificate signing requests have it)
	Scale    *Scale   // nil: no /scale
	Connects []string // "log", "exec", … : subresources that are not objects of this kind

	// Fields gives the selectable fields; always metadata.name, and metadata.namespace where there is one.
	Fields     func(Object) map[string]string
	FieldNames []string
	// Controlled says that such objects have controllers, which look for their own.
	Controlled bool

	// Patient says that a change may wait a moment for others to be written with: nobody waits for it, and there are many.
	Patient bool

	Columns []metav1.TableColumnDefinition
	Row     func(obj Object, now time.Time) []any // one cell a column

	// GracePeriod says how long the object has to end by itself after a delete. Nil, or graceful false: it goes at once.
	GracePeriod func(obj Object, opts *metav1.DeleteOptions) (seconds int64, graceful bool)

	// Register adds the types that come with the kind but are no kinds (PodExecOptions, Binding, …).
	Register func(*runtime.Scheme)

	stored Version // the stored version in the form of Also; set by New
}

// Status is a subresource that shows the whole object and changes a part of it.
type Status struct {
	PrepareUpdate  func(new, old Object)                 // carries everything but this part over from old
	ValidateUpdate func(new, old Object) field.ErrorList // besides ValidateMetaUpdate
}

// Version is a version that a kind is served in.
type Version struct {
	schema.GroupVersionKind

	Plural     string
	New        func() Object
	NewList    func() runtime.Object
	FromStored func(Object) Object // never changes its argument, which may be shared; may return it itself
	ToStored   func(Object) Object // likewise

	// Validate and ValidateUpdate check what only this version demands of those who write in it, besides the kind's own
	// validation. They are given stored objects (after ToStored). Nil: nothing more.
	Validate       func(Object) field.ErrorList
	ValidateUpdate func(new, old Object) field.ErrorList
	// FieldNames are the selectable fields in this version, and StoredField what one is called in Kind.Fields; nil: as stored.
	FieldNames  []string
	StoredField func(name string) string
}

// AllVerbs are the verbs that a kind is served with unless it says otherwise, in the order discovery shows them.
var AllVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Serves says whether the kind is served with that verb.
func (k *Kind) Serves(verb string) bool { return slices.Contains(k.ServedVerbs(), verb) }

// ServedVerbs are the kind's verbs, in the order discovery shows them.
func (k *Kind) ServedVerbs() []string {
	if k.Verbs == nil {
		return AllVerbs
	}
	return k.Verbs
}

// IsNew says that the object is about to be created: what is stored has a resourceVersion, and an update must name one.
func IsNew(o Object) bool { return o.GetResourceVersion() == "" }

// Resource is the kind's name in URLs, with group and stored version.
func (k *Kind) Resource() schema.GroupVersionResource {
	return k.GroupVersionKind.GroupVersion().WithResource(k.Plural)
}

// GroupResource is what errors call the kind: "pods", "leases.coordination.k8s.io".
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Plural}
}

// Key is where an object is in the store. Namespace is not looked at for kinds that have none.
func (k *Kind) Key(namespace, name string) string {
	if !k.Namespaced {
		return k.Prefix + name
	}
	return k.Prefix + namespace + "/" + name
}

// KeyPrefix is what the keys of all objects in a namespace begin with; of all objects of the kind if namespace is empty.
func (k *Kind) KeyPrefix(namespace string) string {
	if !k.Namespaced || namespace == "" {
		return k.Prefix
	}
	return k.Prefix + namespace + "/"
}

// Sub is the subresource of that name ("status", "finalize", "approval"), or nil.
func (k *Kind) Sub(name string) *Status {
	switch name {
	case "status":
		return k.Status
	case "finalize":
		return k.Finalize
	case "approval":
		return k.Approval
	}
	return nil
}

// Resource is the version's name in URLs.
func (v *Version) Resource() schema.GroupVersionResource {
	return v.GroupVersionKind.GroupVersion().WithResource(v.Plural)
}
