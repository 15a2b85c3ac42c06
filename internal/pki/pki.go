// Package pki is the cluster's own certificate authority and the certificates made with it.
//
// It writes ca.crt and ca.key in its directory, once, and beside them sa.key, which signs the tokens of service accounts; nothing else: all
// other certificates are made on demand and kept in memory or by whoever asked for them. Always: the directory is open to its owner alone and
// so are the files; a key never leaves the process but for the one that ClientCert hands to its caller; what is served over TLS is renewed
// long before it expires.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 90 * 24 * time.Hour // of certificates that are renewed in memory
	backdate = 5 * time.Minute     // machines' clocks differ

	certType = "CERTIFICATE"
	keyType  = "EC PRIVATE KEY"
)

// PKI is the cluster's certificate authority. Its methods may be called from many goroutines.
type PKI struct {
	dir   string
	ca    *x509.Certificate
	caPEM []byte
	key   crypto.Signer
	pool  *x509.CertPool
	now   func() time.Time
}

// Open loads the authority that is kept in dir, and makes one where there is none.
func Open(dir string) (*PKI, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cluster authority: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open cluster authority: %w", err)
	}
	p := &PKI{dir: dir, now: time.Now}
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	certPEM, err := os.ReadFile(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		// The certificate is written last: without it, a key that is there is of an attempt that broke off.
		return p, p.create(certFile, keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("open cluster authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("open cluster authority: %w", err)
	}
	if err := p.load(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("open cluster authority in %s: %w", dir, err)
	}
	return p, nil
}

func (p *PKI) create(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make cluster authority: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("make cluster authority: %w", err)
	}
	id := sha256.Sum256(public)
	now := p.now()
	template := &x509.Certificate{
		// The name says which cluster it is of, so that two of them in one trust store are told apart.
		Subject:      pkix.Name{CommonName: fmt.Sprintf("sampan-ca-%x", id[:4])},
		SubjectKeyId: id[:20],
		SerialNumber: serial(),
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make cluster authority: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return fmt.Errorf("make cluster authority: %w", err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: certType, Bytes: der})
	if err := WriteFile(keyFile, keyPEM); err != nil {
		return fmt.Errorf("make cluster authority: %w", err)
	}
	if err := WriteFile(certFile, certPEM); err != nil {
		return fmt.Errorf("make cluster authority: %w", err)
	}
	return p.load(certPEM, keyPEM)
}

func (p *PKI) load(certPEM, keyPEM []byte) error {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != certType {
		return errors.New("ca.crt holds no certificate")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("ca.crt: %w", err)
	}
	if block, _ = pem.Decode(keyPEM); block == nil {
		return errors.New("ca.key holds no key")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("ca.key: %w", err)
	}
	if public, ok := ca.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return errors.New("ca.key is not the key of ca.crt")
	}
	if p.now().After(ca.NotAfter) {
		return fmt.Errorf("ca.crt expired on %s", ca.NotAfter.Format(time.DateOnly))
	}
	p.ca, p.caPEM, p.key = ca, certPEM, key
	p.pool = x509.NewCertPool()
	p.pool.AddCert(ca)
	return nil
}

// CA is the authority's certificate in PEM: what clients and pods trust.
func (p *PKI) CA() []byte { return p.caPEM }

// Pool is the authority's certificate in the form that crypto/tls takes.
func (p *PKI) Pool() *x509.CertPool { return p.pool }

// sign makes a certificate of template for public. The template's validity begins a little before now and ends with the
// authority's at the latest.
func (p *PKI) sign(template *x509.Certificate, public crypto.PublicKey, life time.Duration) ([]byte, error) {
	return p.signFor(template, x509.KeyUsageDigitalSignature, public, life)
}

func (p *PKI) signFor(template *x509.Certificate, uses x509.KeyUsage, public crypto.PublicKey, life time.Duration) ([]byte, error) {
	now := p.now()
	template.SerialNumber = serial()
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(life)
	if template.NotAfter.After(p.ca.NotAfter) {
		template.NotAfter = p.ca.NotAfter
	}
	template.BasicConstraintsValid = true
	template.KeyUsage = uses
	return x509.CreateCertificate(rand.Reader, template, p.ca, public, p.key)
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[0] &= 0x7f    // positive
	b[15] |= 1      // never zero
	return new(big.Int).SetBytes(b[:])
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

// WriteFile makes the file appear whole, readable by its owner alone, and on disk.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing left to remove
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
