package join_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/apiserver/apiservertest"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/client"
	"sampan.dev/internal/join"
	"sampan.dev/internal/resource"
)

// pipes are a listener and its dialer without a network, so that time may be faked.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6443} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// signer answers requests as the cluster's controller does: a year is the longest that a certificate is good.
func signer(t *testing.T, c *apiservertest.Cluster) (signed map[string]int) {
	signed = map[string]int{}
	kind, _ := c.Table.ByKind(certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"))
	asked := make(chan *certificatesv1.CertificateSigningRequest, 10)
	stop := c.Cache.OnChanges([]*resource.Kind{kind}, func(_ *resource.Kind, old, new *cache.Object) {
		if old == nil {
			asked <- cache.Typed[*certificatesv1.CertificateSigningRequest](new)
		}
	})
	ctx := auth.WithUser(t.Context(), auth.System("system:apiserver"))
	go func() {
		for r := range asked {
			block, _ := pem.Decode(r.Spec.Request)
			request, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				t.Error(err)
			}
			use := x509.ExtKeyUsageClientAuth
			if r.Spec.SignerName == certificatesv1.KubeletServingSignerName {
				use = x509.ExtKeyUsageServerAuth
			}
			cert, err := c.PKI.Sign(request, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{use}, 365*24*time.Hour)
			if err != nil {
				t.Error(err)
			}
			signed[r.Spec.SignerName]++
			answered := func(sub string, change func(*certificatesv1.CertificateSigningRequest)) {
				if _, _, err := c.Registry.Update(ctx, kind, sub, "", r.Name, func(o resource.Object) (resource.Object, error) {
					change(o.(*certificatesv1.CertificateSigningRequest))
					return o, nil
				}, metav1.UpdateOptions{}); err != nil {
					t.Error(err)
				}
			}
			answered("approval", func(r *certificatesv1.CertificateSigningRequest) {
				r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"})
			})
			answered("status", func(r *certificatesv1.CertificateSigningRequest) { r.Status.Certificate = cert })
		}
	}()
	t.Cleanup(func() { stop(); close(asked) })
	return signed
}

// A node that runs for three years is known, and is believed, on each day of them; and so is its server.
func TestCertificatesAreRenewedForYears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		way := &pipes{make(chan net.Conn), make(chan struct{})}
		c := apiservertest.StartOn(t, way)
		signed := signer(t, c)
		dir := t.TempDir()
		address := netip.MustParseAddr("192.0.2.7")
		cert, key, err := c.PKI.ClientCert("system:node:n", []string{"system:nodes"}, 365*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"ca.crt": c.PKI.CA(), "node.crt": cert, "node.key": key} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		id, err := join.Join(t.Context(), join.Config{Node: "n", Dir: dir, Table: c.Table}, nil)
		if err != nil {
			t.Fatal(err)
		}
		own, err := client.New(client.Config{Server: "https://localhost:6443", TLS: id.ClientTLS(), Table: c.Table, Dial: way.dial, Ping: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() {
			done <- id.Run(ctx, own, func() []netip.Addr { return []netip.Addr{address} }, nil, own.Renew, func(err error) { t.Error(err) })
		}()
		// What is asked without end, so that a connection is never idle, for longer than a certificate is good.
		watching, enough := context.WithTimeout(ctx, 400*24*time.Hour)
		defer enough()
		watched := make(chan error, 1)
		go func() {
			watched <- client.Watch(watching, own, client.Selection{}, func(client.Event[*corev1.Node]) error { return nil }, func(err error) { t.Error(time.Now(), err) })
		}()
		synctest.Wait()
		roots := c.PKI.Pool()
		shown := map[string]bool{}
		for range 3 * 365 / 5 {
			time.Sleep(5 * 24 * time.Hour)
			cert, err := id.ClientTLS().GetClientCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Fatalf("%v: the node's certificate: %v", time.Now(), err)
			}
			shown[cert.Leaf.SerialNumber.String()] = true
			if cert, err = id.ServerTLS().GetCertificate(nil); err != nil {
				t.Fatal(err)
			}
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: address.String()}); err != nil {
				t.Fatalf("%v: the certificate of the node's server: %v", time.Now(), err)
			}
			// On the connection that there is: whom the server took for good a year ago it must take for good now.
			if _, err := client.Get[*corev1.Node](ctx, own, "", "n"); err == nil || !apierrors.IsNotFound(err) {
				t.Fatalf("%v: the node asks for itself: %v", time.Now(), err)
			}
			// And the server's own certificate, on a new one.
			conn, err := way.dial(ctx, "", "")
			if err != nil {
				t.Fatal(err)
			}
			secure := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "localhost"})
			if err := secure.HandshakeContext(ctx); err != nil {
				t.Fatalf("%v: the server's certificate: %v", time.Now(), err)
			}
			_ = secure.Close()
		}
		if len(shown) < 4 || signed[certificatesv1.KubeletServingSignerName] < 4 {
			t.Errorf("in three years the node has had %d certificates, and signed were %v", len(shown), signed)
		}
		t.Logf("in three years: %d certificates of the node, signed %v", len(shown), signed)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := <-watched; err != nil {
			t.Error(err)
		}
		own.Close()
	})
}
