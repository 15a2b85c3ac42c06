package apiserver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// The protobuf form of an object is these four bytes and then a runtime.Unknown:
// {1: {1: apiVersion, 2: kind}, 2: the object, 3: "" encoding, 4: "" type}.
const (
	magic        = "k8s\x00"
	envelopeTail = "\x1a\x00\x22\x00"
)

// message is what the API's types can do in protobuf.
type message interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

func uvarintLen(n int) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}

// envelopeHead begins an envelope around an object of size bytes; envelopeTail ends it.
func envelopeHead(dst []byte, gvk schema.GroupVersionKind, size int) []byte {
	version := gvk.GroupVersion().String()
	meta := 1 + uvarintLen(len(version)) + len(version) + 1 + uvarintLen(len(gvk.Kind)) + len(gvk.Kind)
	dst = append(dst, magic...)
	dst = append(dst, 0x0a)
	dst = binary.AppendUvarint(dst, uint64(meta))
	dst = append(dst, 0x0a)
	dst = binary.AppendUvarint(dst, uint64(len(version)))
	dst = append(dst, version...)
	dst = append(dst, 0x12)
	dst = binary.AppendUvarint(dst, uint64(len(gvk.Kind)))
	dst = append(dst, gvk.Kind...)
	dst = append(dst, 0x12)
	return binary.AppendUvarint(dst, uint64(size))
}

// envelope puts a message into its envelope.
func envelope(gvk schema.GroupVersionKind, m message) ([]byte, error) {
	size := m.Size()
	out := envelopeHead(make([]byte, 0, size+len(gvk.Group)+len(gvk.Version)+len(gvk.Kind)+32), gvk, size)
	start := len(out)
	out = append(out, make([]byte, size)...)
	n, err := m.MarshalToSizedBuffer(out[start:])
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", gvk.Kind, err)
	}
	if n != size {
		return nil, fmt.Errorf("encode %s: it has %d bytes instead of %d", gvk.Kind, n, size)
	}
	return append(out, envelopeTail...), nil
}

// encode writes an object in the form that was asked for. The object's own apiVersion and kind must be gvk's, for JSON.
func encode(m media, gvk schema.GroupVersionKind, obj any) ([]byte, error) {
	switch {
	case m.format == asProtobuf:
		msg, ok := obj.(message)
		if !ok {
			return nil, fmt.Errorf("encode %s: it has no protobuf form", gvk.Kind)
		}
		return envelope(gvk, msg)
	case m.format == asYAML:
		data, err := json.Marshal(obj)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", gvk.Kind, err)
		}
		return yaml.JSONToYAML(data)
	case m.pretty:
		return json.MarshalIndent(obj, "", "  ")
	}
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(obj); err != nil {
		return nil, fmt.Errorf("encode %s: %w", gvk.Kind, err)
	}
	return out.Bytes(), nil
}

// typed gives the object with its apiVersion and kind filled in, without changing it: it may be shared.
func typed[T runtime.Object](obj T, gvk schema.GroupVersionKind) T {
	if obj.GetObjectKind().GroupVersionKind() == gvk {
		return obj
	}
	obj = obj.DeepCopyObject().(T)
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj
}

// fromJSON brings JSON, as it is kept, into the text form that was asked for.
func fromJSON(m media, data []byte) ([]byte, error) {
	switch {
	case m.format == asYAML:
		return yaml.JSONToYAML(data)
	case m.pretty:
		var out bytes.Buffer
		if err := json.Indent(&out, bytes.TrimSpace(data), "", "  "); err != nil {
			return nil, err
		}
		return out.Bytes(), nil
	}
	return data, nil
}
