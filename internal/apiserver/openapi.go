package apiserver

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"github.com/klauspost/compress/gzip"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/apiserver/openapi"
	"sampan.dev/internal/resource"
)

// Media types of the protobuf form of version 2: the name that clients ask for, and the one that is right.
const (
	openapiProtobufOld = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	openapiProtobuf    = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
)

// openapiDocs describes the API. A document is made when it is first asked for, and kept compressed.
type openapiDocs struct {
	generator *openapi.Generator

	mu   sync.Mutex // guards docs; making a document is done by one at a time
	docs map[string]*document
}

// document is a text in compressed form.
type document struct {
	zipped []byte
	size   int
	etag   string // hash of the text, without quotes
}

func newOpenAPIDocs(table *resource.Table, version string) *openapiDocs {
	return &openapiDocs{generator: openapi.New(table, version), docs: map[string]*document{}}
}

// get makes or finds a document.
func (o *openapiDocs) get(name string, generate func() ([]byte, error)) (*document, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.docs[name]; d != nil {
		return d, nil
	}
	text, err := generate()
	if err != nil {
		return nil, err
	}
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("compress %s: %w", name, err)
	}
	if _, err := w.Write(text); err != nil {
		return nil, fmt.Errorf("compress %s: %w", name, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress %s: %w", name, err)
	}
	d := &document{zipped: bytes.Clone(zipped.Bytes()), size: len(text), etag: fmt.Sprintf("%X", sha512.Sum512(text))}
	o.docs[name] = d
	// Making it took many times its size, once: a server at rest gives that back.
	go debug.FreeOSMemory()
	return d, nil
}

func (o *openapiDocs) serve(s *Server, w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "405: Method Not Allowed", http.StatusMethodNotAllowed)
		return nil
	}
	w.Header().Set("Vary", "Accept")
	switch path := strings.Trim(r.URL.Path, "/"); {
	case path == "openapi/v2":
		return o.serveV2(w, r)
	case path == "openapi/v3":
		return o.serveIndex(s, w, r)
	case strings.HasPrefix(path, "openapi/v3/"):
		return o.serveV3(w, r, strings.TrimPrefix(path, "openapi/v3/"))
	}
	http.NotFound(w, r)
	return nil
}

func (o *openapiDocs) serveV2(w http.ResponseWriter, r *http.Request) error {
	for _, c := range acceptOrAll(r) {
		switch {
		case c.accepts(asJSON):
			d, err := o.get("v2", o.generator.V2)
			if err != nil {
				return err
			}
			return d.write(w, r, "application/json")
		case c.main+"/"+c.sub == openapiProtobufOld, c.main+"/"+c.sub == openapiProtobuf:
			d, err := o.get("v2 in protobuf", o.protobuf)
			if err != nil {
				return err
			}
			return d.write(w, r, openapiProtobuf)
		}
	}
	w.WriteHeader(http.StatusNotAcceptable)
	return nil
}

func acceptOrAll(r *http.Request) []clause {
	if header := r.Header.Get("Accept"); header != "" {
		return parseAccept(header)
	}
	return []clause{{main: "*", sub: "*"}}
}

func (o *openapiDocs) protobuf() ([]byte, error) {
	text, err := o.generator.V2()
	if err != nil {
		return nil, err
	}
	doc, err := openapi_v2.ParseDocument(text)
	if err != nil {
		return nil, fmt.Errorf("describe the API in protobuf: %w", err)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(doc)
}

// v3 is the document of one group and version.
func (o *openapiDocs) v3(gv schema.GroupVersion) (*document, error) {
	return o.get("v3 "+gv.String(), func() ([]byte, error) { return o.generator.V3(gv) })
}

// v3Path is where the document of a group and version is, below /openapi/v3/.
func v3Path(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

func v3URL(path, etag string) string {
	return (&url.URL{Path: "/openapi/v3/" + path, RawQuery: url.Values{"hash": {etag}}.Encode()}).String()
}

// serveIndex tells where the documents of version 3 are, with their hashes, so that clients keep them as long as they hold.
func (o *openapiDocs) serveIndex(s *Server, w http.ResponseWriter, r *http.Request) error {
	type entry struct {
		URL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	for _, gv := range o.generator.GroupVersions() {
		d, err := o.v3(gv)
		if err != nil {
			return err
		}
		paths[v3Path(gv)] = entry{v3URL(v3Path(gv), d.etag)}
	}
	data, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		return fmt.Errorf("describe the API: %w", err)
	}
	s.send(w, r, asJSON.String(), http.StatusOK, data)
	return nil
}

func (o *openapiDocs) serveV3(w http.ResponseWriter, r *http.Request, path string) error {
	for _, gv := range o.generator.GroupVersions() {
		if v3Path(gv) != path {
			continue
		}
		json := false
		for _, c := range acceptOrAll(r) {
			json = json || c.accepts(asJSON)
		}
		if !json {
			w.WriteHeader(http.StatusNotAcceptable)
			return nil
		}
		d, err := o.v3(gv)
		if err != nil {
			return err
		}
		if hash := r.URL.Query().Get("hash"); hash != "" {
			if hash != d.etag {
				http.Redirect(w, r, v3URL(path, d.etag), http.StatusMovedPermanently)
				return nil
			}
			w.Header().Set("Cache-Control", "public, immutable")
			w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
		}
		return d.write(w, r, "application/json")
	}
	http.NotFound(w, r)
	return nil
}

// write sends the document, compressed if the client takes it so, or tells that the client has it already.
func (d *document) write(w http.ResponseWriter, r *http.Request, contentType string) error {
	h := w.Header()
	etag := `"` + d.etag + `"`
	h.Set("ETag", etag)
	if strings.Contains(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", contentType)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		_, _ = w.Write(d.zipped)
		return nil
	}
	text, err := gzip.NewReader(bytes.NewReader(d.zipped))
	if err != nil {
		return fmt.Errorf("read the API's description: %w", err)
	}
	_, _ = io.Copy(w, text) // what fails now is the client's connection
	return nil
}
