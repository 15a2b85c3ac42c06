package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/client"
)

// Names of files in the node's directory.
const (
	caFile   = "ca.crt"
	keyFile  = "node.key"
	certFile = "node.crt"

	certType = "CERTIFICATE"
	keyType  = "EC PRIVATE KEY"
)

// Identity is who this machine is to the cluster, and how it knows that the others are of it.
type Identity struct {
	cfg   Config
	ca    *x509.Certificate
	caPEM []byte
	key   *ecdsa.PrivateKey

	mu      sync.Mutex // guards the fields below
	client  *tls.Certificate
	serving *tls.Certificate // nil: none yet
}

// expiredError says that a machine was away for longer than its certificate is good.
type expiredError struct {
	node string
	at   time.Time
}

func (e *expiredError) Error() string {
	return fmt.Sprintf("the certificate of node %s ended on %s, while this machine was away: join again, with a new token by --token", e.node, e.at.Format(time.DateOnly))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// load reads what an earlier Join has left.
func load(cfg Config) (*Identity, error) {
	id := &Identity{cfg: cfg}
	var err error
	if id.caPEM, err = os.ReadFile(filepath.Join(cfg.Dir, caFile)); err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	if id.ca, err = parse(id.caPEM); err != nil {
		return nil, fmt.Errorf("read the node's identity: %s: %w", caFile, err)
	}
	chain, err := os.ReadFile(filepath.Join(cfg.Dir, certFile))
	if err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	if id.key, err = readKey(filepath.Join(cfg.Dir, keyFile)); err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	if id.client, err = id.pair(chain); err != nil {
		return nil, fmt.Errorf("read the node's identity: %s: %w", certFile, err)
	}
	if name := id.client.Leaf.Subject.CommonName; name != "system:node:"+cfg.Node {
		return nil, fmt.Errorf("this machine has joined as %s, and not as system:node:%s: leave out --node-name, or make it forget that with `sampan reset`", name, cfg.Node)
	}
	if end := id.client.Leaf.NotAfter; time.Now().After(end) {
		return nil, &expiredError{cfg.Node, end}
	}
	return id, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key", path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

// ownKey is the machine's key, made when there is none.
func ownKey(cfg Config) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(cfg.Dir, keyFile)
	key, err := readKey(path)
	if err == nil {
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	if err := write(path, pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der})); err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	return key, nil
}

// write leaves the old file or the new one, for the owner alone.
func write(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// save keeps the client certificate. The authority comes first: with the certificate the machine is a node.
func (id *Identity) save(chain []byte) error {
	pair, err := id.pair(chain)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(id.cfg.Dir, caFile), id.caPEM); err != nil {
		return err
	}
	if err := write(filepath.Join(id.cfg.Dir, certFile), chain); err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.client = pair
	return nil
}

// pair puts a certificate and the machine's key together, if they belong so.
func (id *Identity) pair(chain []byte) (*tls.Certificate, error) {
	leaf, err := parse(chain)
	if err != nil {
		return nil, err
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(id.key.Public()) {
		return nil, errors.New("the certificate is for another key")
	}
	block, _ := pem.Decode(chain)
	return &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: id.key, Leaf: leaf}, nil
}

func (id *Identity) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(id.ca)
	return pool
}

// CA is the cluster's authority in PEM.
func (id *Identity) CA() []byte { return id.caPEM }

// ClientTLS is for the node as a client of the cluster's servers.
func (id *Identity) ClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: id.pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			id.mu.Lock()
			defer id.mu.Unlock()
			return id.client, nil
		},
	}
}

// errNoServing is told to whoever calls before the certificate has been made.
var errNoServing = errors.New("the node's server has no certificate yet")

// ServerTLS is for the node's own server. Clients may show a certificate, which it is up to the server to demand.
func (id *Identity) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: id.pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			id.mu.Lock()
			defer id.mu.Unlock()
			if id.serving == nil {
				return nil, errNoServing
			}
			return id.serving, nil
		},
	}
}

// purpose is what a certificate is for.
type purpose struct {
	name, signer string
	usage        certificatesv1.KeyUsage
}

var (
	clientCertificate  = purpose{"client", certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth}
	servingCertificate = purpose{"serving", certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth}
)

// request asks for a certificate, and waits until it is signed or refused.
func (id *Identity) request(ctx context.Context, c *client.Client, what purpose, addresses []netip.Addr) ([]byte, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + id.cfg.Node, Organization: []string{"system:nodes"}}}
	if what == servingCertificate {
		template.DNSNames = []string{id.cfg.Node}
		for _, a := range addresses {
			template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, id.key)
	if err != nil {
		return nil, fmt.Errorf("ask for a %s certificate: %w", what.name, err)
	}
	public, err := x509.MarshalPKIXPublicKey(id.key.Public())
	if err != nil {
		return nil, fmt.Errorf("ask for a %s certificate: %w", what.name, err)
	}
	sum := sha256.Sum256(public)
	made, err := client.Create(ctx, c, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-" + what.name + "-" + hex.EncodeToString(sum[:4]) + "-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: what.signer,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, what.usage},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("ask for a %s certificate: %w", what.name, err)
	}
	var chain []byte
	done := errors.New("answered")
	var lost error
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = client.Watch(ctx, c, client.Selection{Fields: "metadata.name=" + made.Name}, func(e client.Event[*certificatesv1.CertificateSigningRequest]) error {
		if e.Object == nil {
			return nil
		}
		for _, condition := range e.Object.Status.Conditions {
			if condition.Status == corev1.ConditionTrue && condition.Type != certificatesv1.CertificateApproved {
				return errors.New(condition.Message)
			}
		}
		if chain = e.Object.Status.Certificate; len(chain) > 0 {
			return done
		}
		return nil
	}, func(err error) {
		lost = err
		if apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) {
			cancel()
		}
	})
	switch {
	case errors.Is(err, done):
		return chain, nil
	case err != nil:
		return nil, err
	case lost != nil:
		return nil, lost
	}
	return nil, fmt.Errorf("nobody has answered the request %s for %s: `kubectl describe csr %s` tells why, `kubectl certificate approve %s` says yes", made.Name, patience, made.Name, made.Name)
}

// patience is how long an answer is waited for.
const patience = 2 * time.Minute

// Run renews certificates until ctx ends. Addresses gives the node's own, as its Node object has them; wake has a value when they may have changed. Renewed is
// called with each new client certificate, which new connections show.
func (id *Identity) Run(ctx context.Context, c *client.Client, addresses func() []netip.Addr, wake <-chan struct{}, renewed func(), report func(error)) error {
	const first, last = time.Second, 5 * time.Minute
	pause := first
	for {
		next, err := id.renew(ctx, c, addresses(), renewed)
		if err != nil && ctx.Err() == nil {
			report(err)
			next, pause = pause, min(2*pause, last)
		} else {
			pause = first
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// renew asks for what is due, and says when to look again.
func (id *Identity) renew(ctx context.Context, c *client.Client, addresses []netip.Addr, renewed func()) (time.Duration, error) {
	now := time.Now()
	id.mu.Lock()
	own, serving := id.client, id.serving
	id.mu.Unlock()
	if !now.Before(due(own.Leaf)) {
		chain, err := id.request(ctx, c, clientCertificate, nil)
		if err != nil {
			return 0, fmt.Errorf("renew the node's certificate, which is good until %s: %w", own.Leaf.NotAfter.Format(time.RFC3339), err)
		}
		if err := id.save(chain); err != nil {
			return 0, fmt.Errorf("renew the node's certificate: %w", err)
		}
		renewed()
	}
	if len(addresses) > 0 && (serving == nil || !now.Before(due(serving.Leaf)) || !answersTo(serving.Leaf, addresses)) {
		chain, err := id.request(ctx, c, servingCertificate, addresses)
		if err != nil {
			return 0, err
		}
		pair, err := id.pair(chain)
		if err != nil {
			return 0, err
		}
		id.mu.Lock()
		id.serving = pair
		id.mu.Unlock()
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	next := time.Until(due(id.client.Leaf))
	if id.serving != nil {
		next = min(next, time.Until(due(id.serving.Leaf)))
	}
	return max(next, time.Second), nil
}

// due is when two thirds of a certificate's life are over.
func due(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}

func answersTo(c *x509.Certificate, addresses []netip.Addr) bool {
	return !slices.ContainsFunc(addresses, func(a netip.Addr) bool {
		return !slices.ContainsFunc(c.IPAddresses, func(ip net.IP) bool { return ip.Equal(net.IP(a.AsSlice())) })
	})
}
