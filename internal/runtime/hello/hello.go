// Package hello is the program in the built-in images sampan.dev/hello:1 and :2: a small web page by which a person, or a
// test, can see which pod answered and in which version, and can play what goes wrong with pods.
//
// It reads HELLO_VERSION, PORT (80 if unset) and POD_IP from its environment and writes nothing but one line for each thing that happens.
// Always: SIGTERM and SIGINT end it at once with code 0, after the requests under way and those of whoever has connected, which get a second.
package hello

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	longest = time.Minute            // that /slow may take
	grace   = time.Second            // for requests under way at the end
	waited  = 20 * time.Millisecond  // for who has connected and was not accepted yet
	lull    = 500 * time.Millisecond // for a connection's first request, which may be on its way then
)

// Main serves until a signal, ctx's end or /crash, and gives the exit code.
func Main(ctx context.Context, args []string) int {
	if len(args) > 0 {
		fmt.Fprintln(os.Stderr, "hello: takes no arguments; PORT and HELLO_VERSION are read from the environment")
		return 2
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "80"
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		return 1
	}
	s := &server{
		host: host, version: os.Getenv("HELLO_VERSION"), podIP: os.Getenv("POD_IP"), out: os.Stdout,
	}
	if s.version == "" {
		s.version = "unknown"
	}
	if s.podIP == "" {
		s.podIP = firstAddress()
	}
	return s.run(ctx, listener)
}

// server answers requests; its first fields do not change once it runs.
type server struct {
	host, version, podIP string

	crash context.CancelFunc

	mu  sync.Mutex // guards out
	out io.Writer
}

// run serves on listener, closes it, and gives the exit code.
func (s *server) run(ctx context.Context, listener net.Listener) int {
	crashed, crash := context.WithCancel(context.Background())
	defer crash()
	s.crash = crash
	base, end := context.WithCancel(context.Background())
	defer end()
	fresh := &freshConns{conns: map[net.Conn]bool{}, left: make(chan struct{}, 1)}
	web := &http.Server{
		Handler:           fresh.noted(s.handler()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ConnState:         fresh.track,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(waiting{listener}) }()
	s.say("hello version %s listens on %s", s.version, listener.Addr())

	code := 0
	select {
	case err := <-failed:
		s.say("stopped: %v", err)
		return 1
	case <-crashed.Done():
		s.say("crashing, as asked")
		code = 1
	case <-ctx.Done():
		s.say("stopping")
	}
	limit, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if l, ok := listener.(*net.TCPListener); ok && l.SetDeadline(time.Now().Add(waited)) == nil {
		<-failed
		failed <- nil
		_ = l.Close()
	}
	fresh.wait(lull)
	err := web.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		end() // /slow returns
		err = web.Close()
	}
	if err != nil {
		s.say("stop: %v", err)
	}
	<-failed
	return code
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /slow", s.slow)
	mux.HandleFunc("/crash", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "crashing\n")
		s.crash() // the answer still goes out: shutting down waits for it
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.URL.Path != "/healthz" { // asked every second by probes
			s.say("%s %s from %s", r.Method, strconv.QuoteToGraphic(r.URL.RequestURI()), r.RemoteAddr)
		}
		mux.ServeHTTP(w, r)
	})
}

// slow answers after as many milliseconds as ms says.
func (s *server) slow(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.ParseUint(r.URL.Query().Get("ms"), 10, 32)
	wait := time.Duration(ms) * time.Millisecond
	if err != nil || wait > longest {
		http.Error(w, fmt.Sprintf("ms must be a number from 0 to %d", longest.Milliseconds()), http.StatusBadRequest)
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		fmt.Fprintf(w, "answered after %d ms\n", ms)
	case <-r.Context().Done():
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	}
}

// page shows who answers: HTML to a browser, plain lines to everything else.
func (s *server) page(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		s.writeHTML(w)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hello from sampan!\nhost: %s\nversion: %s\npod ip: %s\n", s.host, s.version, s.podIP)
}

func (s *server) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// firstAddress is the address that others reach this pod at, as far as it can be seen from inside.
func firstAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "unknown"
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "unknown"
}

// waiting is a listener that is closed to its server once its deadline has passed. A server that closes it itself loses those who have connected and were not
// accepted yet, and may miss one that it has just accepted.
type waiting struct{ net.Listener }

func (w waiting) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, net.ErrClosed
	}
	return c, err
}

// freshConns are connections on which nothing was asked yet. A server that shuts down answers no first request any more: one whose client has connected, and
// is on its way to ask, would get nothing. So they are waited for before; those that browsers and probes open and leave get only a moment.
type freshConns struct {
	left chan struct{} // has something after one has gone from conns

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

type connKey struct{} // of a request's connection in its context

// track is the server's ConnState.
func (f *freshConns) track(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		f.mu.Lock()
		f.conns[c] = true
		f.mu.Unlock()
	case http.StateClosed, http.StateHijacked:
		f.drop(c)
	}
}

// noted takes a connection for one that has asked as soon as its request is with the handler: from then on it will be answered.
func (f *freshConns) noted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			f.drop(c)
		}
		next.ServeHTTP(w, r)
	})
}

func (f *freshConns) drop(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
	select {
	case f.left <- struct{}{}:
	default:
	}
}

func (f *freshConns) none() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns) == 0
}

// wait returns when there are none any more. Those that there are after d it closes.
func (f *freshConns) wait(d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	for !f.none() {
		select {
		case <-f.left:
		case <-end.C:
			f.mu.Lock()
			for c := range f.conns {
				_ = c.Close()
			}
			clear(f.conns)
			f.mu.Unlock()
		}
	}
}
