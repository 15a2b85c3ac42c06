package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	dialTimeout  = 10 * time.Second
	maxNodeError = 100 << 10 // of a node's error text that is passed on
)

// nodeProxies is the ways to the nodes' servers, one a node.
type nodeProxies struct {
	dialer NodeDialer

	mu    sync.Mutex // guards nodes
	nodes map[string]*nodeProxy
}

type nodeProxy struct {
	base   *url.URL
	config *tls.Config
	client *http.Client
}

func newNodeProxies(dialer NodeDialer) *nodeProxies {
	return &nodeProxies{dialer: dialer, nodes: map[string]*nodeProxy{}}
}

func (p *nodeProxies) to(ctx context.Context, node string) (*nodeProxy, error) {
	if p.dialer == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no way to node %s is known", node))
	}
	base, config, err := p.dialer.Dial(ctx, node)
	if err != nil {
		return nil, fmt.Errorf("find node %s: %w", node, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.nodes[node]; n != nil && *n.base == *base && n.config == config {
		return n, nil
	} else if n != nil {
		n.client.CloseIdleConnections()
	}
	n := &nodeProxy{base: base, config: config, client: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: config, TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: time.Minute, DisableCompression: true,
			DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	p.nodes[node] = n
	return n, nil
}

// url is where something is on the node's server.
func (n *nodeProxy) url(path string, q url.Values) *url.URL {
	to := *n.base
	to.Path = strings.TrimSuffix(to.Path, "/") + path // a request's line needs the slash, which JoinPath leaves out
	to.RawQuery = q.Encode()
	return &to
}

func (p *nodeProxies) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.nodes {
		n.client.CloseIdleConnections()
	}
}

// relay answers with what the node's server says, as it comes.
func (s *Server) relay(w http.ResponseWriter, r *http.Request, c *call, node, path string, q url.Values) error {
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	n, err := s.nodes.to(ctx, node)
	if err != nil {
		return err
	}
	to := n.url(path, q)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	response, err := n.client.Do(request)
	if err != nil {
		return err // it names the URL, and is what Kubernetes tells, too
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 206 {
		return c.nodeError(r, response)
	}
	contentType := response.Header.Get("Content-Type")
	if contentType == "" {
		contentType = "text/plain"
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-cache, private")
	w.WriteHeader(response.StatusCode)
	control := http.NewResponseController(w)
	_ = control.Flush() // a log that is silent for now has begun all the same
	buf := make([]byte, 32<<10)
	for {
		count, err := response.Body.Read(buf)
		if count > 0 {
			if _, err := w.Write(buf[:count]); err != nil {
				return nil // the client is gone
			}
			if control.Flush() != nil {
				return nil
			}
		}
		if err != nil {
			if err != io.EOF && ctx.Err() == nil {
				panic(http.ErrAbortHandler) // a log that broke off must not look like a whole one
			}
			return nil
		}
	}
}

// nodeError passes on what a node's server has to say against a request.
func (c *call) nodeError(r *http.Request, response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxNodeError))
	if err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	message := strings.TrimSpace(string(text))
	switch response.StatusCode {
	case http.StatusBadRequest:
		return bad(message)
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(message))
	}
	return apierrors.NewGenericServerResponse(response.StatusCode, r.Method, c.gr(), c.name, message, 0, false)
}

// untilStop ends a stream when its client goes, or when the server stops.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// upgrade hands a request over to the node's server, and, once that has agreed to another protocol, both connections to each other.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, node, path string, q url.Values) error {
	if !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") || r.ProtoMajor != 1 {
		return bad("Upgrade request required")
	}
	ctx, cancel := s.untilStop(r.Context())
	defer cancel()
	n, err := s.nodes.to(ctx, node)
	if err != nil {
		return err
	}
	back, response, buffered, err := n.ask(ctx, r, path, q)
	if err != nil {
		return fmt.Errorf("ask node %s: %w", node, err)
	}
	defer back.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		return refused(w, response)
	}
	front, pending, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection: %w", err)
	}
	defer front.Close()
	_ = front.SetDeadline(time.Time{})
	response.Body = nil
	if err := response.Write(front); err != nil {
		return nil // the client is gone
	}
	splice(ctx, front, pending.Reader, back, buffered)
	return nil
}

// ask sends the request on a connection of its own, and returns that with the answer.
func (n *nodeProxy) ask(ctx context.Context, r *http.Request, path string, q url.Values) (net.Conn, *http.Response, *bufio.Reader, error) {
	address := n.base.Host
	if n.base.Port() == "" {
		address = net.JoinHostPort(n.base.Hostname(), "443")
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	if n.base.Scheme == "https" {
		config := n.config.Clone()
		config.NextProtos = []string{"http/1.1"} // only there can a connection be handed over
		conn, err = (&tls.Dialer{Config: config}).DialContext(dialing, "tcp", address)
	} else {
		conn, err = (&net.Dialer{}).DialContext(dialing, "tcp", address)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	out := &http.Request{Method: r.Method, URL: n.url(path, q), Header: r.Header.Clone(), Host: n.base.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	for _, private := range []string{"Authorization", "Cookie", "Origin"} {
		out.Header.Del(private) // who calls is this server
	}
	buffered := bufio.NewReader(conn)
	var response *http.Response
	if err = out.Write(conn); err == nil {
		response, err = http.ReadResponse(buffered, out)
	}
	if err != nil {
		conn.Close()
		return nil, nil, nil, err
	}
	return conn, response, buffered, nil
}

// refused passes on the answer of a node that does not switch protocols.
func refused(w http.ResponseWriter, response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxNodeError))
	if err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	for _, name := range []string{"Content-Type", "X-Accepted-Stream-Protocol-Versions"} {
		for _, v := range response.Header.Values(name) {
			w.Header().Add(name, v)
		}
	}
	w.WriteHeader(response.StatusCode)
	_, _ = w.Write(text)
	return nil
}

// splice copies both ways until either side ends.
func splice(ctx context.Context, front io.WriteCloser, fromFront io.Reader, back io.WriteCloser, fromBack io.Reader) {
	done := make(chan struct{}, 2)
	move := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from)
		done <- struct{}{}
	}
	go move(back, fromFront)
	go move(front, fromBack)
	left := 2
	select {
	case <-done:
		left--
	case <-ctx.Done():
	}
	front.Close()
	back.Close()
	for range left {
		<-done
	}
}
