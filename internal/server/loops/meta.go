package loops

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/garbage"
)

// metaOf reads what the garbage controller asks of an object out of its stored bytes. Each write passes here, and most
// objects have neither owners nor finalizers: decoding them whole would cost fifty times as much.
func metaOf(o *cache.Object) *garbage.Meta {
	if o == nil {
		return nil
	}
	if m, err := scan(o.Protobuf()); err == nil {
		return m
	}
	d := o.Decoded()
	return &garbage.Meta{
		UID: d.GetUID(), Owners: d.GetOwnerReferences(), Finalizers: d.GetFinalizers(), Deleting: d.GetDeletionTimestamp() != nil,
	}
}

// metasOf reads both states of an object. If nothing of that has changed, which is so with nearly every write, they are the same Meta.
func metasOf(old, new *cache.Object) (was, is *garbage.Meta) {
	is = metaOf(new)
	if old != nil && new != nil && alike(metadata(old), metadata(new)) {
		return is, is
	}
	return metaOf(old), is
}

// metadata is an object's metadata in protobuf; nil if there is none.
func metadata(o *cache.Object) []byte {
	field, kind, n := protowire.ConsumeTag(o.ProtobufBody())
	if n < 0 || field != kindMetadata || kind != protowire.BytesType {
		return nil
	}
	value, n := protowire.ConsumeBytes(o.ProtobufBody()[n:])
	if n < 0 {
		return nil
	}
	return value
}

// alike says whether all that a Meta is made of is the same in both, as far as that can be told without decoding.
func alike(a, b []byte) bool {
	for {
		x, restA, okA := next(a)
		y, restB, okB := next(b)
		if !okA || !okB || !bytes.Equal(x, y) {
			return false
		}
		if x == nil {
			return true
		}
		a, b = restA, restB
	}
}

// next gives the next field of some metadata that a Meta is made of, with its number; nil if there is no other.
func next(metadata []byte) (field, rest []byte, ok bool) {
	for len(metadata) > 0 {
		number, _, n := protowire.ConsumeField(metadata)
		if n < 0 {
			return nil, nil, false
		}
		switch number {
		case metaUID, metaDeletion, metaOwners, metaHolds:
			return metadata[:n], metadata[n:], true
		}
		metadata = metadata[n:]
	}
	return nil, nil, true
}

var magic = []byte("k8s\x00")

// Field numbers of runtime.Unknown, of every kind, and of ObjectMeta.
const (
	unknownRaw   = 2
	kindMetadata = 1

	metaUID      = 5
	metaDeletion = 9
	metaOwners   = 13
	metaHolds    = 14
)

// scan reads an object in protobuf with its envelope.
func scan(object []byte) (*garbage.Meta, error) {
	envelope, ok := bytes.CutPrefix(object, magic)
	if !ok {
		return nil, fmt.Errorf("scan metadata: not in protobuf")
	}
	var raw, metadata []byte
	if err := each(envelope, func(field protowire.Number, value []byte) error {
		if field == unknownRaw {
			raw = value
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if err := each(raw, func(field protowire.Number, value []byte) error {
		if field == kindMetadata && metadata == nil {
			metadata = value
		}
		return nil
	}); err != nil {
		return nil, err
	}
	m := &garbage.Meta{}
	return m, each(metadata, func(field protowire.Number, value []byte) error {
		switch field {
		case metaUID:
			m.UID = types.UID(value)
		case metaDeletion:
			m.Deleting = true
		case metaOwners:
			var o metav1.OwnerReference
			if err := o.Unmarshal(value); err != nil {
				return fmt.Errorf("scan metadata: owner: %w", err)
			}
			m.Owners = append(m.Owners, o)
		case metaHolds:
			m.Finalizers = append(m.Finalizers, string(value))
		}
		return nil
	})
}

// each calls f for the length-delimited fields of a message, in their order.
func each(message []byte, f func(field protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("scan metadata: %w", protowire.ParseError(n))
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, kind, message); n < 0 {
				return fmt.Errorf("scan metadata: %w", protowire.ParseError(n))
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return fmt.Errorf("scan metadata: %w", protowire.ParseError(n))
		}
		if err := f(field, value); err != nil {
			return err
		}
		message = message[n:]
	}
	return nil
}
