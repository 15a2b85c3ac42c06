// Package client speaks to an API server over HTTPS about objects: for agents on other machines, and for the command line.
//
// It keeps no state but its connections. Always: objects travel as protobuf in the version that is stored; errors are the server's own,
// as *apierrors.StatusError; a watch that breaks off is taken up again where it ended, and what was missed for good is listed anew.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/resource"
)

// Config says where the server is, and who calls.
type Config struct {
	Server string          // https://HOST:PORT
	Others []string        // servers of the same cluster: one that does not answer is left for the next
	TLS    *tls.Config     // whom to trust and who calls: pki.ClientTLS, or what FromKubeconfig reads
	Table  *resource.Table // the kinds that can be spoken about
	Agent  string          // User-Agent; default "sampan"
	// Dial opens connections; nil: by TCP.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Bearer string // a token that says who calls, where no certificate does
	// Ping is how long a connection may be silent before the other end is asked whether it is there, and how long it has for its answer; default 30 s.
	// It also bounds the pause between attempts to watch: 15 s by default.
	Ping time.Duration

	Namespace string // that a kubeconfig's context names; the client itself takes no notice
}

// Client speaks to one cluster. It may be used from many goroutines.
type Client struct {
	servers     atomic.Pointer[servers]
	connections *connections
	transport   atomic.Pointer[http.Transport]
	agent       string
	bearer      string
	lastDelay   time.Duration
	kinds       map[reflect.Type]*resource.Kind
}

// servers are those of the cluster, and which of them is asked.
type servers struct {
	bases   []*url.URL
	current int
}

func parseServers(list []string) (*servers, error) {
	s := &servers{}
	for _, server := range list {
		base, err := url.Parse(server)
		if err != nil || base.Host == "" {
			return nil, fmt.Errorf("%q is no server's address", server)
		}
		s.bases = append(s.bases, base)
	}
	if len(s.bases) == 0 {
		return nil, errors.New("there is no server")
	}
	return s, nil
}

func (s *servers) base() *url.URL { return s.bases[s.current] }

// SetServers says which servers the cluster has now. The one that is being asked is asked further, also if it is not among them, until it does not answer.
func (c *Client) SetServers(list []string) error {
	next, err := parseServers(list)
	if err != nil {
		return fmt.Errorf("set servers: %w", err)
	}
	for {
		was := c.servers.Load()
		s := &servers{bases: slices.Clone(next.bases)}
		s.current = slices.IndexFunc(s.bases, func(u *url.URL) bool { return u.Host == was.base().Host })
		if s.current < 0 {
			s.bases, s.current = append(s.bases, was.base()), len(s.bases)
		}
		if c.servers.CompareAndSwap(was, s) {
			return nil
		}
	}
}

// New makes a client. It connects when it is first used.
func New(cfg Config) (*Client, error) {
	c := &Client{agent: cfg.Agent, bearer: cfg.Bearer, lastDelay: lastDelay, kinds: map[reflect.Type]*resource.Kind{}}
	all, err := parseServers(append([]string{cfg.Server}, cfg.Others...))
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	c.servers.Store(all)
	ping := 30 * time.Second
	if cfg.Ping > 0 {
		ping, c.lastDelay = cfg.Ping, min(c.lastDelay, cfg.Ping)
	}
	if c.agent == "" {
		c.agent = "sampan"
	}
	for _, k := range cfg.Table.All() {
		c.kinds[reflect.TypeOf(k.New())] = k
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: min(ping, 10*time.Second)}).DialContext
	}
	c.connections = &connections{dialer: cfg.Dial, open: map[*connection]struct{}{}}
	c.transport.Store(&http.Transport{
		TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
		DisableCompression: true, MaxIdleConnsPerHost: 8,
		// A connection whose other end is gone without a word is found out by a ping, so that no watch hangs on it for ever.
		HTTP2:       &http.HTTP2Config{SendPingTimeout: ping, PingTimeout: max(ping/2, time.Second)},
		DialContext: c.connections.dial,
	})
	return c, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.transport.Load().CloseIdleConnections() }

// Renew has whatever is asked from now on go by new connections, which show the certificate of now. What is under way ends on the old ones, and these with it.
func (c *Client) Renew() {
	old := c.transport.Load()
	c.transport.Store(old.Clone())
	old.CloseIdleConnections()
}

// kindOf finds the kind of a Go type. A type that the table does not have is a mistake of the program.
func kindOf[T resource.Object](c *Client) *resource.Kind {
	t := reflect.TypeFor[T]()
	k := c.kinds[t]
	if k == nil {
		panic(fmt.Sprintf("client: %s is not in its table of kinds", t))
	}
	return k
}

// path is where an object, a collection (name empty) or a subresource is.
func path(k *resource.Kind, namespace, name, sub string) string {
	p := "/api/" + k.Version
	if k.Group != "" {
		p = "/apis/" + k.Group + "/" + k.Version
	}
	if k.Namespaced && namespace != "" {
		p += "/namespaces/" + url.PathEscape(namespace)
	}
	p += "/" + k.Plural
	if name != "" {
		p += "/" + url.PathEscape(name)
	}
	if sub != "" {
		p += "/" + sub
	}
	return p
}

// Get reads an object.
func Get[T resource.Object](ctx context.Context, c *Client, namespace, name string) (T, error) {
	k := kindOf[T](c)
	return one[T](c, k, "get "+k.Singular+" "+name, func() (*http.Request, error) {
		return c.request(ctx, http.MethodGet, path(k, namespace, name, ""), nil, nil, "")
	})
}

// Create makes an object and returns it as the server has it.
func Create[T resource.Object](ctx context.Context, c *Client, obj T) (T, error) {
	k := kindOf[T](c)
	return send(ctx, c, k, http.MethodPost, path(k, obj.GetNamespace(), "", ""), "create", obj)
}

// Update replaces an object, or the part of it that the subresource ("status") is; sub may be empty. With a resourceVersion in the object it is
// refused if the object has changed since.
func Update[T resource.Object](ctx context.Context, c *Client, obj T, sub string) (T, error) {
	k := kindOf[T](c)
	return send(ctx, c, k, http.MethodPut, path(k, obj.GetNamespace(), obj.GetName(), sub), "update", obj)
}

// Patch changes an object, or the part of it that the subresource is.
func Patch[T resource.Object](ctx context.Context, c *Client, namespace, name, sub string, kind types.PatchType, data []byte) (T, error) {
	k := kindOf[T](c)
	return one[T](c, k, "patch "+k.Singular+" "+name, func() (*http.Request, error) {
		return c.request(ctx, http.MethodPatch, path(k, namespace, name, sub), nil, data, string(kind))
	})
}

// Delete ends an object, or begins to. One that is not there is an error (apierrors.IsNotFound).
func Delete[T resource.Object](ctx context.Context, c *Client, namespace, name string, o metav1.DeleteOptions) error {
	k := kindOf[T](c)
	body, err := o.Marshal()
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", k.Singular, name, err)
	}
	data, err := wrap(metav1.SchemeGroupVersion.WithKind("DeleteOptions"), body)
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", k.Singular, name, err)
	}
	r, err := c.request(ctx, http.MethodDelete, path(k, namespace, name, ""), nil, data, runtime.ContentTypeProtobuf)
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", k.Singular, name, err)
	}
	if _, err = c.do(r); err != nil {
		return fmt.Errorf("delete %s %s: %w", k.Singular, name, err)
	}
	return nil
}

// Selection narrows a list or a watch. The zero value is everything.
type Selection struct {
	Namespace string
	Labels    string // as in kubectl's -l
	Fields    string // "spec.nodeName=n1"
}

func (s Selection) query() url.Values {
	q := url.Values{}
	if s.Labels != "" {
		q.Set("labelSelector", s.Labels)
	}
	if s.Fields != "" {
		q.Set("fieldSelector", s.Fields)
	}
	return q
}

// pageSize is how many objects are asked for at once, so that neither side holds a huge answer.
const pageSize = 500

// List reads all objects that are selected, as they were at one revision, which it returns too.
func List[T resource.Object](ctx context.Context, c *Client, s Selection) ([]T, string, error) {
	k := kindOf[T](c)
	var all []T
	version, err := c.list(ctx, k, s, func() { all = nil }, func(body []byte) error {
		obj := k.New()
		if err := decodeBody(body, k.GroupVersionKind, obj); err != nil {
			return err
		}
		all = append(all, obj.(T))
		return nil
	})
	return all, version, err
}

// list reads all pages of a list, and gives each object's message to item; what was given is void after anew.
func (c *Client) list(ctx context.Context, k *resource.Kind, s Selection, anew func(), item func(body []byte) error) (version string, err error) {
	q := s.query()
	q.Set("limit", strconv.Itoa(pageSize))
	for {
		r, err := c.request(ctx, http.MethodGet, path(k, s.Namespace, "", ""), q, nil, "")
		if err != nil {
			return "", fmt.Errorf("list %s: %w", k.Plural, err)
		}
		data, err := c.do(r)
		if err != nil {
			if q.Get("continue") != "" && apierrors.IsResourceExpired(err) {
				q.Del("continue") // the revision is gone while we read: begin again
				anew()
				continue
			}
			return "", fmt.Errorf("list %s: %w", k.Plural, err)
		}
		meta, err := decodeList(data, item)
		if err != nil {
			return "", fmt.Errorf("list %s: %w", k.Plural, err)
		}
		if meta.Continue == "" {
			return meta.ResourceVersion, nil
		}
		q.Set("continue", meta.Continue)
	}
}

func send[T resource.Object](ctx context.Context, c *Client, k *resource.Kind, method, path, what string, obj T) (T, error) {
	what += " " + k.Singular + " " + obj.GetName()
	return one[T](c, k, what, func() (*http.Request, error) {
		data, err := encode(k, obj)
		if err != nil {
			return nil, err
		}
		return c.request(ctx, method, path, nil, data, runtime.ContentTypeProtobuf)
	})
}

// one sends a request whose answer is an object.
func one[T resource.Object](c *Client, k *resource.Kind, what string, make func() (*http.Request, error)) (T, error) {
	var none T
	r, err := make()
	if err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	data, err := c.do(r)
	if err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	obj := k.New()
	if err := decode(data, k.GroupVersionKind, obj); err != nil {
		return none, fmt.Errorf("%s: %w", what, err)
	}
	return obj.(T), nil
}

func (c *Client) request(ctx context.Context, method, path string, q url.Values, body []byte, contentType string) (*http.Request, error) {
	base := c.servers.Load().base()
	to := *base
	to.RawPath = strings.TrimSuffix(base.EscapedPath(), "/") + path
	var err error
	if to.Path, err = url.PathUnescape(to.RawPath); err != nil {
		return nil, err
	}
	to.RawQuery = q.Encode()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, to.String(), reader)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", runtime.ContentTypeProtobuf)
	r.Header.Set("User-Agent", c.agent)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if c.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	return r, nil
}

// Server is where the next request goes.
func (c *Client) Server() string { return c.servers.Load().base().String() }

// Stream sends what body reads, if it is not nil, to a path of the server that is no object's, and returns the answer to be read and closed. An answer that is no success is
// an error.
func (c *Client) Stream(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	r, err := c.request(ctx, method, path, nil, nil, "")
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Body = io.NopCloser(body)
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	response, err := c.send(r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode > 299 {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<16))
		return nil, failure(r, response.StatusCode, text)
	}
	return response.Body, nil
}

// send sends a request. A server that cannot be reached, or says that it can do nothing now, as one does that has lost its datastore, is left for the next one; whoever asks
// again asks that.
func (c *Client) send(r *http.Request) (*http.Response, error) {
	response, err := (&http.Client{Transport: c.transport.Load()}).Do(r)
	unable := err != nil || response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusGatewayTimeout
	if unable && !errors.Is(r.Context().Err(), context.Canceled) {
		if was := c.servers.Load(); was.base().Host == r.URL.Host {
			c.servers.CompareAndSwap(was, &servers{bases: was.bases, current: (was.current + 1) % len(was.bases)})
		}
	}
	return response, err
}

// do sends a request and reads the answer whole. An answer that is no success is an error.
func (c *Client) do(r *http.Request) ([]byte, error) {
	response, err := c.send(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, failure(r, response.StatusCode, data)
	}
	return data, nil
}

// failure is the server's error.
func failure(r *http.Request, code int, data []byte) error {
	var status metav1.Status
	if err := decode(data, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, &status); err == nil && status.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: status}
	}
	message := strings.TrimSpace(string(data))
	const most = 200
	if len(message) > most {
		message = message[:most] + "…"
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Reason: reasonOf(code),
		Message: fmt.Sprintf("%s %s: %s: %s", r.Method, r.URL.Path, http.StatusText(code), message),
	}}
}

func reasonOf(code int) metav1.StatusReason {
	switch code {
	case http.StatusNotFound:
		return metav1.StatusReasonNotFound
	case http.StatusUnauthorized:
		return metav1.StatusReasonUnauthorized
	case http.StatusForbidden:
		return metav1.StatusReasonForbidden
	}
	return metav1.StatusReasonUnknown
}

// errFormat says that what came is not Kubernetes' protobuf.
var errFormat = errors.New("the answer is not in Kubernetes' protobuf")

// CreateToken asks for a token of a service account.
func CreateToken(ctx context.Context, c *Client, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	gvk := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	fail := func(err error) (*authenticationv1.TokenRequest, error) {
		return nil, fmt.Errorf("make a token of service account %s/%s: %w", namespace, account, err)
	}
	body, err := asked.Marshal()
	if err != nil {
		return fail(err)
	}
	data, err := wrap(gvk, body)
	if err != nil {
		return fail(err)
	}
	at := "/api/v1/namespaces/" + url.PathEscape(namespace) + "/serviceaccounts/" + url.PathEscape(account) + "/token"
	r, err := c.request(ctx, http.MethodPost, at, nil, data, runtime.ContentTypeProtobuf)
	if err != nil {
		return fail(err)
	}
	if data, err = c.do(r); err != nil {
		return fail(err)
	}
	made := &authenticationv1.TokenRequest{}
	if err := decode(data, gvk, made); err != nil {
		return fail(err)
	}
	return made, nil
}
