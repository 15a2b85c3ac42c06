package cache

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"sampan.dev/internal/resource"
)

// Snapshot is the state of all kinds at one revision. It never changes.
type Snapshot struct {
	revision int64
	index    map[*resource.Kind]int
	kinds    []trees
}

// Selection says which objects of a kind are meant. The zero value means all.
type Selection struct {
	Namespace string          // empty: all namespaces
	Labels    labels.Selector // nil: any
	Fields    fields.Selector // nil: any
	After     string          // only what comes after this "namespace/name" (or "name") in order; not looked at by watches
}

// Revision is the one that the snapshot shows.
func (s *Snapshot) Revision() int64 { return s.revision }

func (s *Snapshot) of(kind *resource.Kind) trees { return s.kinds[s.index[kind]] }

// Get returns an object, or nil.
func (s *Snapshot) Get(kind *resource.Kind, namespace, name string) *Object {
	if !kind.Namespaced {
		namespace = ""
	}
	return s.of(kind).get(namespace, name)
}

// Count returns how many objects of a kind there are.
func (s *Snapshot) Count(kind *resource.Kind) int { return s.of(kind).byName.Len() }

// List yields the selected objects in the order of their keys. A selection by spec.nodeName, controller, namespace or name reads only what it yields.
func (s *Snapshot) List(kind *resource.Kind, sel Selection) iter.Seq[*Object] {
	t := s.of(kind)
	if !kind.Namespaced {
		sel.Namespace = ""
	}
	if name, ok := required(sel.Fields, "metadata.name"); ok && (sel.Namespace != "" || !kind.Namespaced) {
		return one(t.get(sel.Namespace, name), sel)
	}
	seq := t.all()
	switch field, value, ok := byIndex(t, sel); {
	case ok:
		seq = t.withField(kind, field, value, sel.Namespace)
	case sel.After != "":
		seq = after(t, kind, sel.After)
	case sel.Namespace != "":
		seq = t.from(sel.Namespace, "")
	}
	return func(yield func(*Object) bool) {
		for o := range seq {
			if sel.Namespace != "" && o.namespace != sel.Namespace {
				if compareNamespaces(o.namespace, sel.Namespace) > 0 {
					return // each order has the namespaces in theirs
				}
				continue
			}
			if sel.After != "" && !past(o, sel.After) {
				continue
			}
			if sel.matches(o) && !yield(o) {
				return
			}
		}
	}
}

func one(o *Object, sel Selection) iter.Seq[*Object] {
	return func(yield func(*Object) bool) {
		if o != nil && (sel.After == "" || past(o, sel.After)) && sel.matches(o) {
			yield(o)
		}
	}
}

func byIndex(t trees, sel Selection) (field, value string, ok bool) {
	for _, field := range indexed {
		if t.byField[field] != nil {
			if value, ok := required(sel.Fields, field); ok {
				return field, value, true
			}
		}
	}
	return "", "", false
}

func after(t trees, kind *resource.Kind, key string) iter.Seq[*Object] {
	if !kind.Namespaced {
		return t.from("", key)
	}
	ns, name, _ := strings.Cut(key, "/")
	return t.from(ns, name)
}

func past(o *Object, key string) bool { return o.key() > key }

// key is what Selection.After names an object by.
func (o *Object) key() string {
	if !o.kind.Namespaced {
		return o.name
	}
	return o.namespace + "/" + o.name
}

// Key returns the "namespace/name" (or "name") after which a list goes on; see Selection.After.
func (o *Object) Key() string { return o.key() }

// required returns the one value that a selector wants a field to have.
func required(sel fields.Selector, field string) (string, bool) {
	if sel == nil || sel.Empty() {
		return "", false
	}
	for _, r := range sel.Requirements() {
		if r.Field == field && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) {
			return r.Value, true
		}
	}
	return "", false
}

// Matches says whether an object is selected; After is not looked at.
func (sel Selection) Matches(o *Object) bool {
	return (sel.Namespace == "" || sel.Namespace == o.namespace) && sel.matches(o)
}

func (sel Selection) matches(o *Object) bool {
	if sel.Labels != nil && !sel.Labels.Empty() && !sel.Labels.Matches(o.labels) {
		return false
	}
	return sel.Fields == nil || sel.Fields.Empty() || sel.Fields.Matches(fieldsOf{o})
}

// fieldsOf shows an object's selectable fields to a selector.
type fieldsOf struct{ o *Object }

func (f fieldsOf) Has(name string) bool { _, ok := f.o.field(name); return ok }

func (f fieldsOf) Get(name string) string { return f.o.Field(name) }

// LabelSet is labels as sorted pairs: smaller than a map, and shared words are there once.
type LabelSet []string

func newLabelSet(m map[string]string) LabelSet {
	if len(m) == 0 {
		return nil
	}
	set := make(LabelSet, 0, 2*len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		set = append(set, intern(key), intern(m[key]))
	}
	return set
}

// Lookup is part of labels.Labels, as are Has and Get.
func (s LabelSet) Lookup(label string) (string, bool) {
	for i := 0; i < len(s); i += 2 {
		if s[i] == label {
			return s[i+1], true
		}
	}
	return "", false
}

// Has says whether there is such a label.
func (s LabelSet) Has(label string) bool { _, ok := s.Lookup(label); return ok }

// Get returns a label's value, empty if there is none.
func (s LabelSet) Get(label string) string { v, _ := s.Lookup(label); return v }

// LabelSet returns the object's labels, for selectors. It is shared.
func (o *Object) LabelSet() LabelSet { return o.labels }

// Labels returns the object's labels. The map is the caller's own.
func (o *Object) Labels() map[string]string {
	m := make(map[string]string, len(o.labels)/2)
	for i := 0; i < len(o.labels); i += 2 {
		m[o.labels[i]] = o.labels[i+1]
	}
	return m
}
