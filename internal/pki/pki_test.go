package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *PKI {
	t.Helper()
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAuthorityIsMadeOnceAndClosedToOthers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first, second := open(t, dir), open(t, dir)
	if !bytes.Equal(first.CA(), second.CA()) {
		t.Error("the second Open made another authority")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("files left: %v", entries)
	}
	for _, e := range entries {
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", e.Name(), info.Mode())
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v", info.Mode())
	}
	if life := time.Until(first.ca.NotAfter); life < 3640*24*time.Hour {
		t.Errorf("authority lives %v", life)
	}
}

func TestDamagedFilesAreNamed(t *testing.T) {
	for _, c := range []struct {
		name, file, content, want string
	}{
		{"a certificate that is none", "ca.crt", "hello", "ca.crt holds no certificate"},
		{"a key that is none", "ca.key", "hello", "ca.key holds no key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir)
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	t.Run("a key of another authority", func(t *testing.T) {
		dir, other := t.TempDir(), t.TempDir()
		open(t, dir)
		open(t, other)
		key, err := os.ReadFile(filepath.Join(other, "ca.key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "ca.key is not the key of ca.crt") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a missing key", func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir)
		if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), fs.ErrNotExist.Error()) && !strings.Contains(err.Error(), "no such file") {
			t.Errorf("error %v", err)
		}
	})
}

// handshake connects over loopback and returns what each side saw.
func handshake(t *testing.T, server, client *tls.Config) (seenByServer, seenByClient tls.ConnectionState, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan tls.ConnectionState, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			close(done)
			return
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		_ = s.Handshake()
		done <- s.ConnectionState()
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		return tls.ConnectionState{}, tls.ConnectionState{}, err
	}
	defer conn.Close()
	return <-done, conn.ConnectionState(), nil
}

func TestServerAnswersToTheAddressItIsReachedBy(t *testing.T) {
	p := open(t, t.TempDir())
	server := p.ServerTLS([]string{"kubernetes", "localhost"}, netip.MustParseAddr("10.96.0.1"))
	_, seen, err := handshake(t, server, &tls.Config{RootCAs: p.Pool()})
	if err != nil {
		t.Fatal(err) // 127.0.0.1 is not among the addresses named
	}
	for _, name := range []string{"kubernetes", "localhost", "10.96.0.1", "127.0.0.1"} {
		if err := seen.PeerCertificates[0].VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := handshake(t, server, &tls.Config{RootCAs: p.Pool(), ServerName: "example.org"}); err == nil {
		t.Error("the certificate holds for a name that was not asked for")
	}
}

func TestClientIsKnownByItsCertificate(t *testing.T) {
	p := open(t, t.TempDir())
	certPEM, keyPEM, err := p.ClientCert("jane", []string{"dev", "ops"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string]*tls.Config{
		"made for a file": {RootCAs: p.Pool(), Certificates: []tls.Certificate{pair}},
		"kept in memory":  p.ClientTLS("jane", []string{"dev", "ops"}),
	} {
		t.Run(name, func(t *testing.T) {
			seen, _, err := handshake(t, p.ServerTLS(nil), client)
			if err != nil {
				t.Fatal(err)
			}
			cert := seen.PeerCertificates[0]
			if cert.Subject.CommonName != "jane" || len(cert.Subject.Organization) != 2 {
				t.Errorf("subject %v", cert.Subject)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: p.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Error(err)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: p.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
				t.Error("a client's certificate may serve")
			}
		})
	}
}

func TestCertificatesAreRenewedBeforeTheyExpire(t *testing.T) {
	p := open(t, t.TempDir())
	now := time.Now()
	p.now = func() time.Time { return now }
	server := p.ServerTLS([]string{"localhost"})
	get := func() *x509.Certificate {
		c, err := server.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	first := get()
	now = now.Add(leafLife / 2)
	if get() != first {
		t.Error("renewed at half its life")
	}
	now = now.Add(leafLife / 4)
	if second := get(); second == first || !second.NotAfter.After(first.NotAfter) {
		t.Error("not renewed with a quarter of its life left")
	}
	now = p.ca.NotAfter.Add(-time.Hour)
	if get().NotAfter.After(p.ca.NotAfter) {
		t.Error("the certificate outlives its authority")
	}
}
