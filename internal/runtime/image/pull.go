package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

// Pull fetches an image from its registry, or finds that all of it is here. Layers come in parallel; pulls of images that
// share layers share the work. progress may be nil; it is called by one goroutine at a time.
func (s *Store) Pull(ctx context.Context, ref string, auth Auth, progress func(Progress)) (*Image, error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if r.Repo() == builtinRepo {
		return s.pullBuiltin(r)
	}
	m, err := s.pull(ctx, r, auth, serial(progress))
	if ctx.Err() != nil && err != nil {
		return nil, fmt.Errorf("failed to pull image %q: %w", r, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("failed to pull image %q: %w", r, explain(r, err))
	}
	return m, nil
}

func (s *Store) pull(ctx context.Context, r Reference, auth Auth, progress func(Progress)) (*Image, error) {
	web := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: s.opts.Stall,
		MaxIdleConnsPerHost:   s.opts.Parallel,
	}
	defer web.CloseIdleConnections()
	options := []remote.Option{
		remote.WithContext(ctx),
		remote.WithTransport(plainOnlyOnLoopback{web}),
		remote.WithUserAgent("sampan"),
		remote.WithPlatform(s.opts.Platform),
		remote.WithAuth(auth.forRegistry(r.Domain)),
		remote.WithJobs(s.opts.Parallel + 1),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
	}
	source, err := source(r)
	if err != nil {
		return nil, err
	}
	top, err := remote.Get(source, options...)
	if err != nil {
		return nil, err
	}
	img, err := top.Image()
	if err != nil {
		if strings.HasPrefix(err.Error(), "no child with platform") {
			return nil, &NotFoundError{Ref: r.String(), Reason: fmt.Sprintf("no build for %s in the image's index", s.opts.Platform)}
		}
		return nil, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if manifest.Config.Size > maxConfig {
		return nil, fmt.Errorf("image configuration has %d bytes, more than %d", manifest.Config.Size, maxConfig)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return nil, mismatch("image configuration", manifest.Config.Digest.String(), raw, err)
	}
	if got := digestOf(raw); got != manifest.Config.Digest.String() {
		return nil, &DigestError{What: "image configuration", Want: manifest.Config.Digest.String(), Got: got}
	}
	sources, err := s.remoteLayers(img, manifest, raw)
	if err != nil {
		return nil, err
	}
	names := []string{r.Repo() + "@" + top.Digest.String()}
	if r.Digest == "" {
		names = append(names, r.key())
	}
	return s.assemble(ctx, sources, raw, names, progress)
}

// source is where an image is asked for. A configuration of mirrors will have its place here: a list instead of one.
func source(r Reference) (name.Reference, error) {
	var options []name.Option
	if isLoopback(r.Domain) {
		options = append(options, name.Insecure) // https first, then http
	}
	registry, err := name.NewRegistry(r.Domain, options...)
	if err != nil {
		return nil, &InvalidNameError{Name: r.String(), Reason: malformed}
	}
	if r.Digest != "" {
		return registry.Repo(r.Path).Digest(r.Digest), nil
	}
	return registry.Repo(r.Path).Tag(r.Tag), nil
}

// remoteLayers pairs the layers as the manifest names them with what the configuration says they are once unpacked.
func (s *Store) remoteLayers(img v1.Image, manifest *v1.Manifest, raw []byte) ([]layerSource, error) {
	cfg, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	if len(manifest.Layers) != len(cfg.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest has %d layers, configuration %d", len(manifest.Layers), len(cfg.RootFS.DiffIDs))
	}
	var sources []layerSource
	for i, d := range manifest.Layers {
		if reason := checkDigest(d.Digest.String()); reason != "" {
			return nil, fmt.Errorf("manifest: layer %q: %s", d.Digest, reason)
		}
		sources = append(sources, layerSource{
			diffID: cfg.RootFS.DiffIDs[i].String(),
			digest: d.Digest.String(),
			size:   d.Size,
			tries:  3,
			open: func(ctx context.Context) (io.ReadCloser, error) {
				layer, err := img.LayerByDigest(d.Digest)
				if err != nil {
					return nil, err
				}
				body, err := layer.Compressed()
				if err != nil {
					return nil, err
				}
				return newStallReader(body, s.opts.Stall), nil
			},
		})
	}
	return sources, nil
}

// assemble makes all layers present, then keeps the image.
func (s *Store) assemble(ctx context.Context, sources []layerSource, raw []byte, names []string, progress func(Progress)) (*Image, error) {
	var layers []string
	for _, src := range sources {
		layers = append(layers, src.diffID)
	}
	defer s.hold(layers)()
	g, ctx := errgroup.WithContext(ctx)
	for _, src := range sources {
		g.Go(func() error { return s.ensureLayer(ctx, src, progress) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return s.addImage(raw, names...)
}

// serial makes progress safe to call from many goroutines, and never nil.
func serial(progress func(Progress)) func(Progress) {
	if progress == nil {
		return func(Progress) {}
	}
	var mu sync.Mutex
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		progress(p)
	}
}

// explain turns what the registry library says into the registry's own words, or into which registry was out of reach.
func explain(r Reference, err error) error {
	var (
		registry *transport.Error
		op       *net.OpError
		web      *url.Error
		stall    *stallError
	)
	switch {
	case errors.As(err, &registry):
		return &registryError{registryWords(registry), registry}
	case errors.As(err, &op):
		return &UnreachableError{Registry: r.Domain, Err: op}
	case errors.As(err, &web): // a certificate that is not trusted, an answer that is no HTTP
		return &UnreachableError{Registry: r.Domain, Err: web.Err}
	case errors.As(err, &stall):
		return &UnreachableError{Registry: r.Domain, Err: stall}
	}
	return err
}

// registryError shows a registry's words and keeps the rest for errors.As.
type registryError struct {
	words string
	err   *transport.Error
}

func (e *registryError) Error() string { return e.words }
func (e *registryError) Unwrap() error { return e.err }

// mismatch recognizes the registry library's own digest check.
func mismatch(what, want string, got []byte, err error) error {
	if strings.Contains(err.Error(), "error verifying") {
		return &DigestError{What: what, Want: want, Got: digestOf(got)}
	}
	return fmt.Errorf("read %s: %w", what, err)
}

// LogValue keeps passwords out of logs.
func (a Auth) LogValue() slog.Value { return slog.StringValue("(hidden)") }

// forRegistry gives what this registry may see of it.
func (a Auth) forRegistry(domain string) authn.Authenticator {
	if a.ServerAddress != "" && serverOf(a.ServerAddress) != domain {
		return authn.Anonymous
	}
	a.ServerAddress = ""
	if a == (Auth{}) {
		return authn.Anonymous
	}
	if a.Username == "" && a.Auth != "" {
		if pair, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			a.Username, a.Password, _ = strings.Cut(strings.TrimRight(string(pair), "\x00"), ":")
		}
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: a.Username, Password: a.Password,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	})
}

// serverOf reads an address as docker's configuration writes it: "https://index.docker.io/v1/" is docker.io.
func serverOf(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}
