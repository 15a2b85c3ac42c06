package cache

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"sampan.dev/internal/resource"
)

// indexed are the selectable fields that have an order of their own, so that a list by one of them reads only what it returns.
var indexed = []string{"spec.nodeName", ControllerField}

// ControllerField is a field that only loops select by, of kinds that are Controlled: the UID of an object's controller, empty for one that has none.
const ControllerField = "metadata.controller"

// trees keeps the objects of one kind in order: by namespace and name, and by each indexed field that the kind has. A copy costs nothing until
// one of the two changes.
type trees struct {
	byName  *btree.BTreeG[*Object]
	byField map[string]*btree.BTreeG[*Object] // nil for most kinds
	dirty   bool                              // changed since the last copy
}

func newTrees(kind *resource.Kind) trees {
	t := trees{byName: newTree(byName)}
	for _, field := range indexed {
		if slices.Contains(kind.FieldNames, field) || field == ControllerField && kind.Controlled {
			if t.byField == nil {
				t.byField = map[string]*btree.BTreeG[*Object]{}
			}
			t.byField[field] = newTree(byFieldThenName(field))
		}
	}
	return t
}

func newTree(less func(a, b *Object) bool) *btree.BTreeG[*Object] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

func byName(a, b *Object) bool { return compare(a, b) < 0 }

// compare orders as the keys of the store do: "/" comes after "-" and ".", so namespace and name are not simply compared one after the other.
func compare(a, b *Object) int {
	if a.namespace == b.namespace {
		return strings.Compare(a.name, b.name)
	}
	return compareNamespaces(a.namespace, b.namespace)
}

// compareNamespaces orders namespaces as if each ended with "/".
func compareNamespaces(a, b string) int {
	n := min(len(a), len(b))
	switch c := strings.Compare(a[:n], b[:n]); {
	case c != 0 || len(a) == len(b):
		return c
	case len(a) > n:
		return cmp.Compare(a[n], '/')
	}
	return cmp.Compare('/', b[n])
}

func byFieldThenName(field string) func(a, b *Object) bool {
	return func(a, b *Object) bool {
		if c := strings.Compare(a.Field(field), b.Field(field)); c != 0 {
			return c < 0
		}
		return compare(a, b) < 0
	}
}

func (t trees) copy() trees {
	out := trees{byName: t.byName.Copy()}
	if t.byField != nil {
		out.byField = make(map[string]*btree.BTreeG[*Object], len(t.byField))
		for field, tree := range t.byField {
			out.byField[field] = tree.Copy()
		}
	}
	return out
}

// apply takes old out and puts new in; either may be nil.
func (t *trees) apply(old, new *Object) {
	t.dirty = true
	if new != nil {
		t.byName.Set(new)
	} else if old != nil {
		t.byName.Delete(old)
	}
	for field, tree := range t.byField {
		if old != nil && (new == nil || old.Field(field) != new.Field(field)) {
			tree.Delete(old)
		}
		if new != nil {
			tree.Set(new)
		}
	}
}

func (t trees) get(namespace, name string) *Object {
	o, _ := t.byName.Get(&Object{namespace: namespace, name: name})
	return o
}

func (t trees) all() iter.Seq[*Object] {
	return func(yield func(*Object) bool) { t.byName.Scan(yield) }
}

// from yields the objects after the key (namespace, name); from the first one of a namespace if name is empty.
func (t trees) from(namespace, name string) iter.Seq[*Object] {
	return func(yield func(*Object) bool) {
		t.byName.Ascend(&Object{namespace: namespace, name: name}, yield)
	}
}

// withField yields the objects whose indexed field has a value, from a namespace on.
func (t trees) withField(kind *resource.Kind, field, value, namespace string) iter.Seq[*Object] {
	pivot := &Object{kind: kind, namespace: namespace, fields: make([]string, len(kind.FieldNames))}
	if field == ControllerField {
		pivot.controller = value
	}
	for i, name := range kind.FieldNames {
		if name == field {
			pivot.fields[i] = value
		}
	}
	return func(yield func(*Object) bool) {
		t.byField[field].Ascend(pivot, func(o *Object) bool {
			return o.Field(field) == value && yield(o)
		})
	}
}
