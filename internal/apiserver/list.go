package apiserver

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/cache"
)

// page is one answer to a list.
type page struct {
	meta  metav1.ListMeta
	items []*cache.Object
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, c *call) error {
	m, err := negotiate(r, allowObjects)
	if err != nil {
		return err
	}
	l, err := c.listOptions(r)
	if err != nil {
		return err
	}
	p, err := s.page(r, c, &l)
	if err != nil {
		return err
	}
	switch {
	case m.as != "":
		return s.writeConvertedList(w, r, c, m, p)
	case m.format == asProtobuf:
		return s.writeProtobufList(w, r, c, p)
	}
	return s.writeTextList(w, r, c, m, p)
}

// page finds the objects that a list asks for, at the revision that it asks for.
func (s *Server) page(r *http.Request, c *call, l *listQuery) (*page, error) {
	snap, err := s.listSnapshot(r, c, l)
	if err != nil {
		return nil, err
	}
	limit := l.Limit
	if l.ResourceVersion == "0" && l.Continue == "" {
		limit = 0 // as upstream: what is at hand is given whole
	}
	p := &page{meta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(snap.Revision(), 10)}}
	if limit <= 0 && l.all && l.selection.Namespace == "" {
		p.items = make([]*cache.Object, 0, snap.Count(c.kind))
	}
	more := int64(0)
	for obj := range snap.List(c.kind, l.selection) {
		if limit > 0 && int64(len(p.items)) == limit {
			more++
			if !l.all {
				break // how many there are would be a guess for a client, and work for us
			}
			continue
		}
		p.items = append(p.items, obj)
	}
	if more > 0 {
		s.cache.Keep(snap) // the next page is of the same state
		last := p.items[len(p.items)-1]
		p.meta.Continue = continueToken{
			Version: continueVersion, Revision: snap.Revision(),
			Start: last.Key() + "\x00",
		}.String()
		if l.all {
			p.meta.RemainingItemCount = &more
		}
	}
	return p, nil
}

// listSnapshot gives the state that a list asks for, and moves its selection to where it continues.
func (s *Server) listSnapshot(r *http.Request, c *call, l *listQuery) (*cache.Snapshot, error) {
	ctx := r.Context()
	if l.Continue != "" {
		token, err := parseContinue(l.Continue)
		if err != nil {
			return nil, bad(fmt.Sprintf("invalid continue token: %v", err))
		}
		if l.revision != 0 {
			return nil, bad("specifying resource version is not allowed when using continue")
		}
		l.selection.After = strings.TrimSuffix(token.Start, "\x00")
		if token.Revision < 0 {
			return s.fresh(ctx) // the client knows that this is another state than its first page
		}
		snap, err := s.cache.At(token.Revision)
		if errors.Is(err, cache.ErrExpired) {
			token.Revision = -1
			gone := apierrors.NewResourceExpired(inconsistentContinue)
			gone.ErrStatus.ListMeta.Continue = token.String()
			return nil, gone
		}
		return snap, err
	}
	exact := l.ResourceVersionMatch == metav1.ResourceVersionMatchExact || l.ResourceVersionMatch == "" && l.Limit > 0
	if l.revision == 0 || !exact {
		return s.at(ctx, l.ResourceVersion)
	}
	if _, err := s.notOlder(ctx, l.revision); err != nil {
		return nil, err
	}
	snap, err := s.cache.At(l.revision)
	if errors.Is(err, cache.ErrExpired) {
		return nil, apierrors.NewResourceExpired("The resourceVersion for the provided list is too old.")
	}
	return snap, err
}

const (
	continueVersion      = "meta.k8s.io/v1"
	inconsistentContinue = "The provided continue parameter is too old to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
)

// continueToken says where a list in pages goes on: it is Kubernetes' own, opaque to clients.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`    // -1: whatever is current
	Start    string `json:"start"` // "namespace/name" or "name", and a zero byte: the first key after it
}

func (t continueToken) String() string {
	data, _ := json.Marshal(t) // plain fields: it cannot fail
	return base64.RawURLEncoding.EncodeToString(data)
}

func parseContinue(token string) (t continueToken, err error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		err = json.Unmarshal(data, &t)
	}
	switch {
	case err != nil:
		return t, fmt.Errorf("continue key is not valid: %w", err)
	case t.Version != continueVersion:
		return t, fmt.Errorf("continue key is not valid: server does not recognize this encoded version %s", t.Version)
	case t.Revision == 0:
		return t, errors.New("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case t.Start == "":
		return t, errors.New("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	case path.Clean("/"+t.Start) != "/"+t.Start:
		return t, fmt.Errorf("continue key is not valid: %s", t.Start)
	}
	return t, nil
}

// listKind is the kind of the list of what a client speaks.
func (c *call) listKind() schema.GroupVersionKind {
	return c.as.GroupVersion().WithKind(c.as.Kind + "List")
}

// writeProtobufList answers with the stored bytes one after another: every list of the API is {1: ListMeta, 2: items}.
func (s *Server) writeProtobufList(w http.ResponseWriter, r *http.Request, c *call, p *page) error {
	meta, err := p.meta.Marshal()
	if err != nil {
		return fmt.Errorf("list %s: %w", c.gr(), err)
	}
	items := make([][]byte, len(p.items))
	size := 1 + uvarintLen(len(meta)) + len(meta)
	for i, obj := range p.items {
		if items[i], err = c.protobuf(obj); err != nil {
			return fmt.Errorf("list %s: %s: %w", c.gr(), obj.Name(), err)
		}
		size += 1 + uvarintLen(len(items[i])) + len(items[i])
	}
	head := envelopeHead(make([]byte, 0, 128), c.listKind(), size)
	total := len(head) + size + len(envelopeTail)
	w.Header().Set("Content-Type", asProtobuf.String())
	out, done := s.stream(w, r, http.StatusOK, total)
	defer done()
	head = append(head, 0x0a)
	head = binary.AppendUvarint(head, uint64(len(meta)))
	head = append(head, meta...)
	_, err = out.Write(head)
	for i := 0; i < len(items) && err == nil; i++ {
		head = append(head[:0], 0x12)
		head = binary.AppendUvarint(head, uint64(len(items[i])))
		_, _ = out.Write(head)
		_, err = out.Write(items[i])
	}
	_, _ = out.Write([]byte(envelopeTail)) // an error now says that the client is gone
	return nil
}

// protobuf is the object's own bytes, without the envelope, in the version that the client speaks.
func (c *call) protobuf(obj *cache.Object) ([]byte, error) {
	if c.isStored() {
		return obj.ProtobufBody(), nil
	}
	msg, ok := c.as.FromStored(obj.Decoded()).(interface{ Marshal() ([]byte, error) })
	if !ok {
		return nil, errors.New("it has no protobuf form")
	}
	return msg.Marshal()
}

// json is the object in JSON in the version that the client speaks, with its apiVersion and kind.
func (c *call) json(obj *cache.Object) ([]byte, error) {
	if c.isStored() {
		return bytes.TrimSuffix(obj.JSON(), []byte("\n")), nil
	}
	return json.Marshal(typed(c.as.FromStored(obj.Decoded()), c.as.GroupVersionKind))
}

// writeTextList answers with JSON or YAML, out of the JSON that is kept of each object.
func (s *Server) writeTextList(w http.ResponseWriter, r *http.Request, c *call, m media, p *page) error {
	meta, err := json.Marshal(p.meta)
	if err != nil {
		return fmt.Errorf("list %s: %w", c.gr(), err)
	}
	kind := c.listKind()
	head := fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, kind.Kind, kind.GroupVersion(), meta)
	items := make([][]byte, len(p.items))
	size := len(head) + len("]}\n") + max(0, len(items)-1)
	for i, obj := range p.items {
		if items[i], err = c.json(obj); err != nil {
			return fmt.Errorf("list %s: %s: %w", c.gr(), obj.Name(), err)
		}
		items[i] = untyped(items[i], c.as.GroupVersionKind)
		size += len("{") + len(items[i])
	}
	if m.format == asYAML || m.pretty {
		return s.writeWhole(w, r, m, head, items)
	}
	w.Header().Set("Content-Type", m.format.String())
	out, done := s.stream(w, r, http.StatusOK, size)
	defer done()
	_, err = out.Write(head)
	for i := 0; i < len(items) && err == nil; i++ {
		begin := ",{"
		if i == 0 {
			begin = "{"
		}
		_, _ = out.Write([]byte(begin))
		_, err = out.Write(items[i])
	}
	_, _ = out.Write([]byte("]}\n"))
	return nil
}

// untyped is the object's JSON after its opening brace, without apiVersion and kind where they come first: in a list, the list says them.
func untyped(data []byte, gvk schema.GroupVersionKind) []byte {
	start := fmt.Appendf(make([]byte, 0, 64), `{"kind":%q,"apiVersion":%q,`, gvk.Kind, gvk.GroupVersion())
	if rest, ok := bytes.CutPrefix(data, start); ok {
		return rest
	}
	return data[1:]
}

// writeWhole answers with a list in a form that can only be made of the whole.
func (s *Server) writeWhole(w http.ResponseWriter, r *http.Request, m media, head []byte, items [][]byte) error {
	whole := head
	for i, item := range items {
		if i > 0 {
			whole = append(whole, ',')
		}
		whole = append(append(whole, '{'), item...)
	}
	data, err := fromJSON(m, append(whole, "]}"...))
	if err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	s.send(w, r, m.format.String(), http.StatusOK, data)
	return nil
}
