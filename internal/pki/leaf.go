package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ClientCert makes a certificate by which its holder is known as user cn in the groups orgs, for ttl.
func (p *PKI) ClientCert(cn string, orgs []string, ttl time.Duration) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make client certificate for %s: %w", cn, err)
	}
	der, err := p.sign(clientTemplate(cn, orgs), key.Public(), ttl)
	if err != nil {
		return nil, nil, fmt.Errorf("make client certificate for %s: %w", cn, err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, fmt.Errorf("make client certificate for %s: %w", cn, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: certType, Bytes: der}), keyPEM, nil
}

func clientTemplate(cn string, orgs []string) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: cn, Organization: orgs},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// ServerTLS is the configuration of a server that answers to these names and addresses, and besides them to every address of this
// machine that a client reaches it by. Clients may show a certificate, and it is up to the server to verify it: one that cannot be
// verified is answered with 401, not with a broken handshake. Certificates are made when first asked for.
func (p *PKI) ServerTLS(names []string, ips ...netip.Addr) *tls.Config {
	key := sync.OnceValues(func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	base := &leaf{pki: p, key: key, template: serverTemplate(names, ips)}
	var mu sync.Mutex
	more := map[netip.Addr]*leaf{} // bounded by the machine's own addresses
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		ClientAuth: tls.RequestClientCert,
		ClientCAs:  p.pool,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			local, ok := localAddr(hello.Conn)
			if !ok || slices.Contains(ips, local) {
				return base.get()
			}
			mu.Lock()
			l := more[local]
			if l == nil {
				l = &leaf{pki: p, key: key, template: serverTemplate(names, append(slices.Clone(ips), local))}
				more[local] = l
			}
			mu.Unlock()
			return l.get()
		},
	}
}

// ClientTLS is the configuration of a client that is known as user cn in the groups orgs, and that trusts this cluster alone. The
// certificate is renewed in memory.
func (p *PKI) ClientTLS(cn string, orgs []string) *tls.Config {
	key := sync.OnceValues(func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	l := &leaf{pki: p, key: key, template: func() *x509.Certificate { return clientTemplate(cn, orgs) }}
	return &tls.Config{
		MinVersion:           tls.VersionTLS12,
		RootCAs:              p.pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return l.get() },
	}
}

func serverTemplate(names []string, ips []netip.Addr) func() *x509.Certificate {
	return func() *x509.Certificate {
		t := &x509.Certificate{
			Subject:     pkix.Name{CommonName: "sampan"},
			DNSNames:    names,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		for _, ip := range ips {
			t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
		}
		return t
	}
}

func localAddr(conn net.Conn) (netip.Addr, bool) {
	if conn == nil {
		return netip.Addr{}, false
	}
	tcp, ok := conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	addr, ok := netip.AddrFromSlice(tcp.IP)
	return addr.Unmap(), ok
}

// leaf is a certificate that is made anew when a third of its life is left.
type leaf struct {
	pki      *PKI
	key      func() (*ecdsa.PrivateKey, error)
	template func() *x509.Certificate

	mu   sync.Mutex // guards cert
	cert *tls.Certificate
}

func (l *leaf) get() (*tls.Certificate, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cert != nil && l.pki.now().Before(l.cert.Leaf.NotAfter.Add(-leafLife/3)) {
		return l.cert, nil
	}
	key, err := l.key()
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	der, err := l.pki.sign(l.template(), key.Public(), leafLife)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	l.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}
	return l.cert, nil
}

// Sign makes the certificate that a request asks for: its subject and its names, for these uses, for ttl at most. Whoever calls has looked at all that it asks for.
func (p *PKI) Sign(request *x509.CertificateRequest, uses x509.KeyUsage, extended []x509.ExtKeyUsage, ttl time.Duration) ([]byte, error) {
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	template := &x509.Certificate{
		Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses, URIs: request.URIs,
		ExtKeyUsage: extended,
	}
	der, err := p.signFor(template, uses, request.PublicKey, ttl)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: certType, Bytes: der}), nil
}
