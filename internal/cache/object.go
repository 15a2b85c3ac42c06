package cache

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"unique"
	"weak"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/store"
)

// Object is one object at one revision. It is shared by everyone and never changes.
type Object struct {
	kind            *resource.Kind
	table           *resource.Table
	namespace, name string
	controller      string // UID of it, of kinds that are Controlled
	revision        int64
	labels          LabelSet
	fields          []string // values of kind.FieldNames, in that order
	envelope        []byte   // k8s\0 and a runtime.Unknown, with metadata.resourceVersion inside
	body            []byte   // the object's own message within the envelope

	decoded atomic.Pointer[weak.Pointer[box]]
	json    atomic.Pointer[weak.Pointer[text]]
}

// box makes an interface value something that a weak pointer can point at.
type box struct{ obj resource.Object }

type text struct{ b []byte }

func (c *Cache) newObject(kind *resource.Kind, rec store.Record) (*Object, error) {
	envelope, body, err := withRevision(rec.Value, rec.Revision)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", rec.Key, err)
	}
	obj, err := c.table.Decode(envelope)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", rec.Key, err)
	}
	o := &Object{
		kind: kind, table: c.table, namespace: intern(obj.GetNamespace()), name: string([]byte(obj.GetName())),
		revision: rec.Revision, labels: newLabelSet(obj.GetLabels()), envelope: envelope, body: body,
	}
	if !kind.Namespaced {
		o.namespace = ""
	}
	if kind.Controlled {
		if c := metav1.GetControllerOfNoCopy(obj); c != nil {
			o.controller = intern(string(c.UID))
		}
	}
	if kind.Fields != nil {
		values := kind.Fields(obj)
		o.fields = make([]string, len(kind.FieldNames))
		for i, name := range kind.FieldNames {
			o.fields[i] = o.own(values[name])
		}
	}
	o.keep(obj)
	return o, nil
}

// own returns a string that does not hold on to the decoded object.
func (o *Object) own(s string) string {
	switch s {
	case "":
		return ""
	case o.name:
		return o.name
	case o.namespace:
		return o.namespace
	}
	return intern(s)
}

// intern gives equal strings one place in memory.
func intern(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(string([]byte(s))).Value()
}

// Kind is the row of the table that the object belongs to.
func (o *Object) Kind() *resource.Kind { return o.kind }

// Namespace is empty for kinds that have none.
func (o *Object) Namespace() string { return o.namespace }

// Name is the object's name.
func (o *Object) Name() string { return o.name }

// Revision is that of the write that made this state; the object's resourceVersion in decimal.
func (o *Object) Revision() int64 { return o.revision }

// Field returns a selectable field, empty if the kind does not have it.
func (o *Object) Field(name string) string {
	v, _ := o.field(name)
	return v
}

func (o *Object) field(name string) (string, bool) {
	if i := slices.Index(o.kind.FieldNames, name); i >= 0 && i < len(o.fields) {
		return o.fields[i], true
	}
	switch name { // every kind has these, whether it lists them or not
	case ControllerField:
		return o.controller, o.kind.Controlled
	case "metadata.name":
		return o.name, true
	case "metadata.namespace":
		return o.namespace, true
	}
	return "", false
}

// Stores says whether the object is stored as that value, but for its resourceVersion: whether writing it would change nothing.
func (o *Object) Stores(value []byte) bool {
	envelope, _, err := withRevision(value, o.revision)
	return err == nil && bytes.Equal(envelope, o.envelope)
}

// Protobuf returns the object as Kubernetes' protobuf: k8s\0 and an envelope. The bytes are shared.
func (o *Object) Protobuf() []byte { return o.envelope }

// ProtobufBody returns the object's own message, without an envelope, as it stands in a list. The bytes are shared.
func (o *Object) ProtobufBody() []byte { return o.body }

// Decoded returns the object in its stored version. It is shared: copy it before changing it. It is decoded again when the garbage
// collector has dropped it since.
func (o *Object) Decoded() resource.Object {
	if w := o.decoded.Load(); w != nil {
		if b := w.Value(); b != nil {
			return b.obj
		}
	}
	obj, err := o.table.Decode(o.envelope)
	if err != nil {
		panic(fmt.Sprintf("cache: %s %s/%s was read before and is not readable now: %v", o.kind.Kind, o.namespace, o.name, err))
	}
	return o.keep(obj)
}

func (o *Object) keep(obj resource.Object) resource.Object {
	b := &box{obj}
	w := weak.Make(b)
	o.decoded.Store(&w)
	return b.obj
}

// Typed returns the decoded object as its Go type.
func Typed[T any](o *Object) T { return o.Decoded().(T) }

var encoder = json.NewSerializerWithOptions(json.DefaultMetaFactory, nil, nil, json.SerializerOptions{})

// JSON returns the object in its stored version as JSON, ending with a newline. It is encoded once for as long as anybody uses it.
func (o *Object) JSON() []byte {
	if w := o.json.Load(); w != nil {
		if t := w.Value(); t != nil {
			return t.b
		}
	}
	var out bytes.Buffer
	if err := encoder.Encode(o.Decoded().(runtime.Object), &out); err != nil {
		panic(fmt.Sprintf("cache: encode %s %s/%s: %v", o.kind.Kind, o.namespace, o.name, err))
	}
	t := &text{out.Bytes()}
	w := weak.Make(t)
	o.json.Store(&w)
	return t.b
}

// at returns the object's last state as a deletion shows it: with the deletion's revision.
func (o *Object) at(revision int64) *Object {
	envelope, body, err := withRevision(o.envelope, revision)
	if err != nil {
		panic(fmt.Sprintf("cache: %s %s/%s was read before and is not readable now: %v", o.kind.Kind, o.namespace, o.name, err))
	}
	return &Object{
		kind: o.kind, table: o.table, namespace: o.namespace, name: o.name, controller: o.controller, revision: revision,
		labels: o.labels, fields: o.fields, envelope: envelope, body: body,
	}
}

// magic begins each stored object (apimachinery's protobuf serializer).
var magic = []byte("k8s\x00")

// Field numbers of runtime.Unknown, of any object, and of ObjectMeta.
const (
	unknownRaw      = 2
	objectMeta      = 1
	resourceVersion = 6
)

// withRevision returns the envelope with metadata.resourceVersion set, and the object's message within it, without decoding.
func withRevision(envelope []byte, revision int64) (all, body []byte, err error) {
	rest, ok := bytes.CutPrefix(envelope, magic)
	if !ok {
		return nil, nil, fmt.Errorf("it is not in Kubernetes' protobuf envelope")
	}
	before, raw, after, err := cut(rest, unknownRaw)
	if err != nil {
		return nil, nil, err
	}
	front, meta, back, err := cut(raw, objectMeta)
	if err != nil {
		return nil, nil, err
	}
	early, late, err := around(meta)
	if err != nil {
		return nil, nil, err
	}
	version := strconv.AppendInt(make([]byte, 0, 20), revision, 10)
	metaSize := len(early) + len(late) + protowire.SizeTag(resourceVersion) + protowire.SizeBytes(len(version))
	rawSize := len(front) + protowire.SizeTag(objectMeta) + protowire.SizeBytes(metaSize) + len(back)
	size := len(magic) + len(before) + protowire.SizeTag(unknownRaw) + protowire.SizeBytes(rawSize) + len(after)
	all = make([]byte, 0, size)
	all = append(append(all, magic...), before...)
	all = protowire.AppendTag(all, unknownRaw, protowire.BytesType)
	all = protowire.AppendVarint(all, uint64(rawSize))
	start := len(all)
	all = append(all, front...)
	all = protowire.AppendTag(all, objectMeta, protowire.BytesType)
	all = protowire.AppendVarint(all, uint64(metaSize))
	all = append(all, early...)
	all = protowire.AppendTag(all, resourceVersion, protowire.BytesType)
	all = protowire.AppendBytes(all, version)
	all = append(append(all, late...), back...)
	body = all[start:len(all):len(all)]
	return append(all, after...), body, nil
}

// around splits ObjectMeta at the place of resourceVersion, leaving out the one that is there: fields are written in the order of their numbers, so
// that what is made of the two parts is what encoding the object would give.
func around(meta []byte) (early, late []byte, err error) {
	for at := 0; at < len(meta); {
		num, _, n := protowire.ConsumeField(meta[at:])
		switch {
		case n < 0:
			return nil, nil, fmt.Errorf("its protobuf is broken: %w", protowire.ParseError(n))
		case num == resourceVersion:
			return meta[:at], meta[at+n:], nil
		case num > resourceVersion:
			return meta[:at], meta[at:], nil
		}
		at += n
	}
	return meta, nil, nil
}

// cut finds the first field of that number in a message: what is before it, its bytes, and what is after it. Without
// such a field all of the message is before it.
func cut(msg []byte, number protowire.Number) (before, value, after []byte, err error) {
	for at := 0; at < len(msg); {
		num, typ, n := protowire.ConsumeField(msg[at:])
		if n < 0 {
			return nil, nil, nil, fmt.Errorf("its protobuf is broken: %w", protowire.ParseError(n))
		}
		if num == number && typ == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(msg[at:])
			value, _ := protowire.ConsumeBytes(msg[at+tag:])
			return msg[:at], value, msg[at+n:], nil
		}
		at += n
	}
	return msg, nil, nil, nil
}
