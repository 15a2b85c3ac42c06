package etcd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sampan.dev/internal/pki"
)

// files writes what an authority gives a member or a client, and returns the names of its certificate, and of the pair.
func files(t *testing.T, authority *pki.PKI, cn string) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	certPEM, keyPEM, err := authority.ClientCert(cn, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"ca": authority.CA(), "cert": certPEM, "key": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
}

func authority(t *testing.T) *pki.PKI {
	t.Helper()
	p, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	own, foreign := authority(t), authority(t)
	members := plan(t, t.TempDir(), 1)
	m := &members[0]
	m.Client = strings.Replace(m.Client, "http:", "https:", 1)
	m.CA, m.Cert, m.Key = serverFiles(t, own)
	t.Cleanup(startAll(t, members))
	ca, cert, key := files(t, own, "sampan")
	otherCA, otherCert, otherKey := files(t, foreign, "sampan")

	s := open(t, Config{Endpoints: endpoints(members), CA: ca, Cert: cert, Key: key})
	put(t, s, "/a", "v", 0)
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no certificate is shown", Config{CA: ca}, "certificate required"},
		{"a certificate of another authority is shown", Config{CA: ca, Cert: otherCert, Key: otherKey}, "unknown certificate authority"},
		{"etcd's certificate is of another authority", Config{CA: otherCA, Cert: cert, Key: key}, "signed by unknown authority"},
		{"the key is not given", Config{CA: ca, Cert: cert}, "without the other"},
		{"the authority's file is not there", Config{CA: ca + "x"}, "no such file"},
		{"the authority's file holds something else", Config{CA: key}, "holds no certificate"},
		{"the certificate's file is not there", Config{CA: ca, Cert: cert + "x", Key: key}, "no such file"},
		{"one endpoint is not secure", Config{CA: ca, Endpoints: []string{m.Client, "http://127.0.0.1:1"}}, "either all endpoints"},
		{"certificates are given for what is not secure", Config{CA: ca, Endpoints: []string{"http://127.0.0.1:1"}}, "does not begin with https://"},
		{"nobody listens there", Config{Endpoints: []string{"http://127.0.0.1:1"}}, "http://127.0.0.1:1: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cfg.Endpoints == nil {
				c.cfg.Endpoints = endpoints(members)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			s, err := Open(ctx, c.cfg)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
	if _, err := Open(t.Context(), Config{}); err == nil {
		t.Error("opened without an endpoint")
	}

	// A certificate that was renewed is shown on the next connection.
	security, err := Config{CA: ca, Cert: cert, Key: key}.tls()
	if err != nil {
		t.Fatal(err)
	}
	first, err := security.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{otherCert: cert, otherKey: key} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if renewed, err := security.GetClientCertificate(nil); err != nil || bytes.Equal(first.Certificate[0], renewed.Certificate[0]) {
		t.Errorf("the certificate read again is the one of before (%v)", err)
	}
}

// serverFiles writes the certificate of a member, which is also the one it shows to itself.
func serverFiles(t *testing.T, authority *pki.PKI) (ca, cert, key string) {
	t.Helper()
	ca, cert, key = files(t, authority, "etcd")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, private)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	certPEM, err := authority.Sign(request, x509.KeyUsageDigitalSignature, both, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	return ca, cert, key
}
