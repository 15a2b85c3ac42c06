package client

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/resource"
)

// magic begins everything that Kubernetes sends as protobuf; a runtime.Unknown follows.
var magic = []byte("k8s\x00")

// message is what the API's types can do.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func wrap(gvk schema.GroupVersionKind, body []byte) ([]byte, error) {
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind}, Raw: body}
	data, err := unknown.Marshal()
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(magic), data...), nil
}

func unwrap(data []byte) (*runtime.Unknown, error) {
	rest, ok := bytes.CutPrefix(data, magic)
	if !ok {
		return nil, errFormat
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(rest); err != nil {
		return nil, fmt.Errorf("%w: %w", errFormat, err)
	}
	return &unknown, nil
}

func encode(k *resource.Kind, obj resource.Object) ([]byte, error) {
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	body, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	return wrap(k.GroupVersionKind, body)
}

// decode reads an object of that kind.
func decode(data []byte, want schema.GroupVersionKind, into runtime.Object) error {
	body, err := bodyOf(data, want)
	if err != nil {
		return err
	}
	return decodeBody(body, want, into)
}

// bodyOf is the message of an object of that kind.
func bodyOf(data []byte, want schema.GroupVersionKind) ([]byte, error) {
	unknown, err := unwrap(data)
	if err != nil {
		return nil, err
	}
	if got := schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind); got != want {
		return nil, fmt.Errorf("the answer is a %s instead of a %s", got, want)
	}
	return unknown.Raw, nil
}

func decodeBody(body []byte, gvk schema.GroupVersionKind, into runtime.Object) error {
	m, ok := into.(message)
	if !ok {
		return fmt.Errorf("%T has no protobuf form", into)
	}
	if err := m.Unmarshal(body); err != nil {
		return fmt.Errorf("%w: %w", errFormat, err)
	}
	into.GetObjectKind().SetGroupVersionKind(gvk)
	return nil
}

// decodeList reads a list, which is {1: ListMeta, 2: items} for every kind, item by item.
func decodeList(data []byte, item func(body []byte) error) (meta metav1.ListMeta, err error) {
	unknown, err := unwrap(data)
	if err != nil {
		return meta, err
	}
	for rest := unknown.Raw; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 || kind != protowire.BytesType {
			return meta, errFormat
		}
		field, m := protowire.ConsumeBytes(rest[n:])
		if m < 0 {
			return meta, errFormat
		}
		rest = rest[n+m:]
		switch number {
		case 1:
			if err := meta.Unmarshal(field); err != nil {
				return meta, fmt.Errorf("%w: %w", errFormat, err)
			}
		case 2:
			if err := item(field); err != nil {
				return meta, err
			}
		}
	}
	return meta, nil
}
