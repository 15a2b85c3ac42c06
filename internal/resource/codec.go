package resource

import (
	"bytes"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Encode gives an object of a kind in the `k8s\0` protobuf envelope, in the version its Go type has.
func (t *Table) Encode(obj Object) ([]byte, error) {
	kinds, _, err := t.scheme.ObjectKinds(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	if obj.GetObjectKind().GroupVersionKind() != kinds[0] {
		// The envelope takes its type from the object, which is often shared: fill it in on a shallow copy.
		return t.encodeAs(obj, kinds[0])
	}
	return t.encode(obj)
}

func (t *Table) encodeAs(obj Object, gvk schema.GroupVersionKind) ([]byte, error) {
	own := obj.DeepCopyObject().(Object)
	own.GetObjectKind().SetGroupVersionKind(gvk)
	return t.encode(own)
}

func (t *Table) encode(obj Object) ([]byte, error) {
	var out bytes.Buffer
	if err := t.proto.Encode(obj, &out); err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", obj.GetObjectKind().GroupVersionKind().Kind, name(obj), err)
	}
	return out.Bytes(), nil
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
