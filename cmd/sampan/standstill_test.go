package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sampan.dev/internal/agent"
	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/pki"
)

// stores are servers of one cluster, as far as they say how their stores are.
type stores struct {
	*testing.T
	keys *pki.PKI
}

func (s *stores) serve(config *tls.Config, h http.HandlerFunc) (url string, end func()) {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	config.ClientAuth, config.ClientCAs = tls.VerifyClientCertIfGiven, s.keys.Pool()
	server := &http.Server{TLSConfig: config, Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	end = func() {
		_ = server.Close()
		<-done
	}
	s.Cleanup(end)
	return "https://" + l.Addr().String(), end
}

// says is a server that answers nodes so, and others that they may not.
func (s *stores) says(answer string) string {
	s.Helper()
	url, _ := s.running(answer)
	return url
}

func (s *stores) running(answer string) (url string, end func()) {
	s.Helper()
	return s.serve(s.keys.ServerTLS(nil), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != apiserver.StorePath || len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "system:node:n1" {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, answer)
	})
}

// refuses is an address where nothing listens, nor will.
func (s *stores) refuses() string {
	s.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		s.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		s.Fatal(err)
	}
	return fmt.Sprintf("https://127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

// silent is an address where somebody listens, and says nothing.
func (s *stores) silent() string {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = l.Close() })
	return "https://" + l.Addr().String()
}

func keysOf(t *testing.T) *pki.PKI {
	t.Helper()
	keys, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestForHowLongNoServerHasMissedANode(t *testing.T) {
	s := &stores{t, keysOf(t)}
	works, stalled, longer := s.says(`{"stalled":"0s"}`), s.says(`{"stalled":"12.3s"}`), s.says(`{"stalled":"1m0s"}`)
	const least = 12300 * time.Millisecond
	foreign, _ := s.serve(keysOf(t).ServerTLS(nil), func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"stalled":"12.3s"}`) })
	old, _ := s.serve(s.keys.ServerTLS(nil), http.NotFound)
	elsewhere, _ := s.serve(s.keys.ServerTLS(nil), func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, stalled+apiserver.StorePath, http.StatusFound)
	})
	for name, c := range map[string]struct {
		servers []string
		want    time.Duration
	}{
		"nobody is known":                           {nil, 0},
		"the only store stands still":               {[]string{stalled}, least},
		"of two that do the shorter one counts":     {[]string{longer, stalled}, least},
		"one works":                                 {[]string{stalled, works, longer}, 0},
		"one does not run, the others' stand still": {[]string{s.refuses(), longer, stalled}, least},
		"none runs":                                 {[]string{s.refuses(), s.refuses()}, agent.NoServer},
		"one does not run, and one works":           {[]string{s.refuses(), works}, 0},
		"one is not reached":                        {[]string{stalled, s.silent()}, 0},
		"one is not reached, none else runs":        {[]string{s.refuses(), s.silent()}, 0},
		"one cannot prove who it is":                {[]string{stalled, foreign}, 0},
		"one is not one that has to prove it":       {[]string{stalled, "http" + stalled[len("https"):]}, 0},
		"one is too old to know":                    {[]string{stalled, old}, 0},
		"one sends us elsewhere":                    {[]string{stalled, elsewhere}, 0},
		"one says nothing that can be read":         {[]string{stalled, s.says("{")}, 0},
		"one says nothing of it":                    {[]string{stalled, s.says("{}")}, 0},
		"one is in the future":                      {[]string{stalled, s.says(`{"stalled":"-1s"}`)}, 0},
		"one is no address":                         {[]string{stalled, "https://%"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ask := newStandstill(s.keys.ClientTLS("system:node:n1", []string{auth.Nodes}))
			defer ask.close()
			ask.bound = 500 * time.Millisecond
			if c.want != 0 {
				ask.bound = time.Minute // all answer
			}
			if got := ask.unserved(t.Context(), c.servers); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// A connection that is kept from the last time says nothing about a server that has ended since.
func TestAServerThatHasEndedSinceItWasAsked(t *testing.T) {
	s := &stores{t, keysOf(t)}
	url, end := s.running(`{"stalled":"12.3s"}`)
	ask := newStandstill(s.keys.ClientTLS("system:node:n1", []string{auth.Nodes}))
	defer ask.close()
	ask.bound = time.Minute
	if got := ask.unserved(t.Context(), []string{url}); got != 12300*time.Millisecond {
		t.Fatalf("%v", got)
	}
	end()
	if got := ask.unserved(t.Context(), []string{url}); got != agent.NoServer {
		t.Errorf("%v after it ended", got)
	}
	stranger := newStandstill(s.keys.ClientTLS("system:node:n2", []string{auth.Nodes}))
	defer stranger.close()
	if got := stranger.unserved(t.Context(), []string{s.says(`{"stalled":"12.3s"}`)}); got != 0 {
		t.Errorf("%v of a server that does not tell", got)
	}
}
