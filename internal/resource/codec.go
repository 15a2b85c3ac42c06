package resource

import (
	"encoding/binary"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

// magic begins everything that is stored as protobuf.
const magic = "k8s\x00"

// marshaler is what the types of k8s.io/api can do.
type marshaler interface {
	runtime.ProtobufMarshaller
	Size() int
}

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

func name(obj Object) string {
	if obj.GetNamespace() == "" {
		return obj.GetName()
	}
	return obj.GetNamespace() + "/" + obj.GetName()
}
