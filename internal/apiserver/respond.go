package apiserver

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/resource"
)

// gzipFrom is how large an answer must be to be compressed, as upstream has it.
const gzipFrom = 128 << 10

var (
	gzips = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
		return w
	}}
	buffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 64<<10) }}
)

// write answers with one object, whose apiVersion and kind are those of gvk.
func (s *Server) write(w http.ResponseWriter, r *http.Request, m media, code int, gvk schema.GroupVersionKind, obj any) {
	data, err := encode(m, gvk, obj)
	if err != nil {
		s.log.Error("encode answer", "path", r.URL.Path, "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.send(w, r, m.format.String(), code, data)
}

// send answers with bytes that are there already. Nobody is left to be told when writing fails: the client is gone.
func (s *Server) send(w http.ResponseWriter, r *http.Request, contentType string, code int, data []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-cache, private")
	warningsOf(r.Context()).send(h)
	if len(data) > gzipFrom && compresses(r) {
		out, done := s.stream(w, r, code, -1)
		_, _ = out.Write(data)
		done()
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(code)
	_, _ = w.Write(data)
}

// stream begins a large answer: its headers but for the content type are set here. size is -1 if it is not known. The function
// returned must be called at the end.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, code, size int) (io.Writer, func()) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, private")
	buf := buffers.Get().(*bufio.Writer)
	buf.Reset(w)
	done := func() {
		_ = buf.Flush()
		buf.Reset(nil)
		buffers.Put(buf)
	}
	if (size < 0 || size > gzipFrom) && compresses(r) {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		zip := gzips.Get().(*gzip.Writer)
		zip.Reset(buf)
		return zip, func() {
			_ = zip.Close()
			zip.Reset(io.Discard)
			gzips.Put(zip)
			done()
		}
	}
	if size >= 0 {
		h.Set("Content-Length", strconv.Itoa(size))
	}
	w.WriteHeader(code)
	return buf, done
}

// compresses says whether a large answer is worth compressing: the client must accept it, and be on another machine, since over
// loopback compressing takes many times longer than sending.
func compresses(r *http.Request) bool {
	accepted := false
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, _, _ := strings.Cut(part, ";")
		accepted = accepted || strings.TrimSpace(name) == "gzip"
	}
	return accepted && !fromHere(r)
}

func fromHere(r *http.Request) bool {
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	if ip := net.ParseIP(remote); ip != nil && ip.IsLoopback() {
		return true
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.Equal(net.ParseIP(remote))
}

// writeObject answers with an object of a served kind, which is in the stored version and may be shared.
func (s *Server) writeObject(w http.ResponseWriter, r *http.Request, c *call, m media, code int, obj resource.Object) {
	if m.as != "" {
		s.writeConverted(w, r, c, m, code, obj)
		return
	}
	out := typed(c.as.FromStored(obj), c.as.GroupVersionKind)
	s.write(w, r, m, code, c.as.GroupVersionKind, out)
}
