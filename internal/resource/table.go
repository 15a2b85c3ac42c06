package resource

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// Table is all kinds, with the scheme and the codecs that know them. It never changes once made.
type Table struct {
	kinds      []*Kind
	byResource map[schema.GroupVersionResource]served
	byKind     map[schema.GroupVersionKind]served
	byTypeMeta map[string]*Version // by what an envelope begins with
	scheme     *runtime.Scheme
	codecs     serializer.CodecFactory
	proto      *protobuf.Serializer
}

type served struct {
	kind    *Kind
	version *Version
}

// New makes the table of these kinds, in this order. It panics when two share a name: then the program is wrong.
func New(kinds ...*Kind) *Table {
	t := &Table{
		kinds:      kinds,
		byResource: make(map[schema.GroupVersionResource]served),
		byKind:     make(map[schema.GroupVersionKind]served),
		byTypeMeta: make(map[string]*Version),
		scheme:     runtime.NewScheme(),
	}
	utilruntime.Must(metav1.AddMetaToScheme(t.scheme))
	metav1.AddToGroupVersion(t.scheme, schema.GroupVersion{Version: "v1"})
	for _, k := range kinds {
		same := func(o Object) Object { return o }
		k.stored = Version{
			GroupVersionKind: k.GroupVersionKind, Plural: k.Plural, New: k.New, NewList: k.NewList,
			FromStored: same, ToStored: same, FieldNames: k.FieldNames,
		}
		t.add(k, &k.stored)
		for i := range k.Also {
			t.add(k, &k.Also[i])
		}
		if k.Register != nil {
			k.Register(t.scheme)
		}
		if k.Scale != nil {
			gv := ScaleKind.GroupVersion()
			if !t.scheme.IsVersionRegistered(gv) {
				metav1.AddToGroupVersion(t.scheme, gv)
			}
			t.scheme.AddKnownTypeWithName(ScaleKind, k.ScaleVersion().New())
		}
	}
	t.codecs = serializer.NewCodecFactory(t.scheme)
	t.proto = protobuf.NewSerializer(t.scheme, t.scheme)
	return t
}

func (t *Table) add(k *Kind, v *Version) {
	if _, twice := t.byResource[v.Resource()]; twice {
		panic(fmt.Sprintf("table of kinds: %s is there twice", v.Resource()))
	}
	t.byResource[v.Resource()] = served{k, v}
	t.byKind[v.GroupVersionKind] = served{k, v}
	meta := runtime.TypeMeta{}
	meta.APIVersion, meta.Kind = v.ToAPIVersionAndKind()
	begin, err := meta.Marshal()
	utilruntime.Must(err)
	t.byTypeMeta[string(begin)] = v
	gv := v.GroupVersionKind.GroupVersion()
	if !t.scheme.IsVersionRegistered(gv) {
		metav1.AddToGroupVersion(t.scheme, gv)
	}
	t.scheme.AddKnownTypeWithName(v.GroupVersionKind, v.New())
	t.scheme.AddKnownTypeWithName(gv.WithKind(v.Kind+"List"), v.NewList())
}

// All gives the kinds in the order they were added.
func (t *Table) All() []*Kind { return t.kinds }

// ByResource finds the kind served under that name, and the version it is served in there; nil and nil if there is none.
// The version is never nil for a kind that is there: for the stored one its conversions return their argument.
func (t *Table) ByResource(r schema.GroupVersionResource) (*Kind, *Version) {
	s := t.byResource[r]
	return s.kind, s.version
}

// ByKind finds the kind and version of that name, as ByResource does.
func (t *Table) ByKind(gvk schema.GroupVersionKind) (*Kind, *Version) {
	s := t.byKind[gvk]
	return s.kind, s.version
}

// Scheme knows the types of all kinds, those that come with them, and those of meta.k8s.io/v1.
func (t *Table) Scheme() *runtime.Scheme { return t.scheme }

// Codecs encode and decode JSON, YAML and protobuf. A SerializerInfo's StrictSerializer also says what it did not know or met twice.
func (t *Table) Codecs() serializer.CodecFactory { return t.codecs }
