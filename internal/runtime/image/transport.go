package image

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// plainOnlyOnLoopback lets unencrypted requests go to this machine only, wherever they come from: a name, a redirect or a
// token service. The registry library alone would also speak plain HTTP to private addresses.
type plainOnlyOnLoopback struct{ next http.RoundTripper }

func (t plainOnlyOnLoopback) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !isLoopback(r.URL.Host) {
		return nil, fmt.Errorf("%s://%s: only registries on this machine may do without https", r.URL.Scheme, r.URL.Host)
	}
	return t.next.RoundTrip(r)
}

// isLoopback says whether host, with or without a port, is this machine itself.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// stallReader closes a body that has given nothing for too long, which fails the read that waits for it.
type stallReader struct {
	body    io.ReadCloser
	limit   time.Duration
	timer   *time.Timer
	stalled atomic.Bool
}

func newStallReader(body io.ReadCloser, limit time.Duration) *stallReader {
	s := &stallReader{body: body, limit: limit}
	s.timer = time.AfterFunc(limit, func() {
		s.stalled.Store(true)
		_ = body.Close()
	})
	return s
}

func (s *stallReader) Read(p []byte) (int, error) {
	s.timer.Reset(s.limit)
	n, err := s.body.Read(p)
	s.timer.Stop() // unpacking may take its time
	if err != nil && err != io.EOF && s.stalled.Load() {
		err = &stallError{s.limit}
	}
	return n, err
}

func (s *stallReader) Close() error {
	s.timer.Stop()
	return s.body.Close()
}

// stallError says that a registry fell silent.
type stallError struct{ after time.Duration }

func (e *stallError) Error() string { return fmt.Sprintf("nothing received for %s", e.after) }
