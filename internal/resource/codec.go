package resource

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
)

// magic begins everything that is stored as protobuf.
const magic = "k8s\x00"

// marshaler is what the types of k8s.io/api can do.
type marshaler interface {
	runtime.ProtobufMarshaller
	Size() int
}

type unmarshaler interface{ Unmarshal(data []byte) error }

// Encode gives an object of a kind in the `k8s\0` protobuf envelope, in the version its Go type has. It does not look
// at the object's own apiVersion and kind, and does not change the object, which may be shared.
func (t *Table) Encode(obj Object) ([]byte, error) {
	kinds, _, err := t.scheme.ObjectKinds(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	apiVersion, kind := kinds[0].ToAPIVersionAndKind()
	body, ok := obj.(marshaler)
	if !ok {
		return nil, fmt.Errorf("encode %s %s: it has no protobuf form", kind, name(obj))
	}
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}}
	size := body.Size()
	out := make([]byte, len(magic)+envelope.Size()+1+binary.MaxVarintLen64+size)
	copy(out, magic)
	n, err := envelope.NestedMarshalTo(out[len(magic):], body, uint64(size))
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", kind, name(obj), err)
	}
	return out[:len(magic)+n], nil
}

// Decode reads what Encode wrote. The object has apiVersion and kind filled in.
func (t *Table) Decode(data []byte) (Object, error) {
	if v, body := t.open(data); v != nil {
		o := v.New()
		if m, ok := o.(unmarshaler); ok && m.Unmarshal(body) == nil {
			o.GetObjectKind().SetGroupVersionKind(v.GroupVersionKind)
			return o, nil
		}
	}
	obj, gvk, err := t.proto.Decode(data, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("decode stored object: %w", err)
	}
	o, ok := obj.(Object)
	if !ok {
		return nil, fmt.Errorf("decode stored object: %s has no metadata", gvk)
	}
	o.GetObjectKind().SetGroupVersionKind(*gvk)
	return o, nil
}

// DecodeInto reads a body in Kubernetes' protobuf into a new object of the version, and says whether it could: if it is something else, or broken, those who
// can say what is wrong with it are to read it.
func (t *Table) DecodeInto(v *Version, data []byte, into Object) bool {
	is, body := t.open(data)
	m, ok := into.(unmarshaler)
	return ok && is == v && m.Unmarshal(body) == nil
}

// Numbers of the fields of runtime.Unknown.
const (
	fieldTypeMeta = 1
	fieldRaw      = 2
)

// open finds, without copying, what version a message in an envelope is of, and the message. It gives nil for whatever is not plainly one of the table's.
func (t *Table) open(data []byte) (v *Version, body []byte) {
	rest, ok := bytes.CutPrefix(data, []byte(magic))
	for len(rest) > 0 && ok {
		field, kind, n := protowire.ConsumeTag(rest)
		if n < 0 || kind != protowire.BytesType {
			return nil, nil
		}
		value, size := protowire.ConsumeBytes(rest[n:])
		if size < 0 {
			return nil, nil
		}
		rest = rest[n+size:]
		switch {
		case field == fieldTypeMeta && v == nil:
			if v, ok = t.byTypeMeta[string(value)]; !ok {
				return nil, nil
			}
		case field == fieldRaw && body == nil:
			body = value
		case len(value) > 0: // an encoding or a type of content: none of ours has any
			return nil, nil
		}
	}
	if body == nil {
		return nil, nil
	}
	return v, body
}

func name(obj Object) string {
	if obj.GetNamespace() == "" {
		return obj.GetName()
	}
	return obj.GetNamespace() + "/" + obj.GetName()
}
