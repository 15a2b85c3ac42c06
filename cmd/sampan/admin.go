package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/pki"
)

// adminLife is that of the administrator's certificate: kubeconfigs are copied about, and nobody looks after the copies.
const adminLife = 10 * 365 * 24 * time.Hour

// adminCert returns the administrator's certificate, the one of earlier starts while it has most of its life before it.
func adminCert(keys *pki.PKI, dir string) (cert, key []byte, err error) {
	certPath, keyPath := filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key")
	if cert, err := os.ReadFile(certPath); err == nil && fresh(keys, cert) {
		if key, err := os.ReadFile(keyPath); err == nil {
			return cert, key, nil
		}
	}
	cert, key, err = keys.ClientCert("sampan-admin", []string{auth.Masters}, adminLife)
	if err != nil {
		return nil, nil, fmt.Errorf("make the administrator's certificate: %w", err)
	}
	// The certificate is written last: without it the pair is made anew.
	for _, f := range []struct {
		path string
		data []byte
	}{{keyPath, key}, {certPath, cert}} {
		if err := os.WriteFile(f.path, f.data, 0o600); err != nil {
			return nil, nil, fmt.Errorf("keep the administrator's certificate: %w", err)
		}
	}
	return cert, key, nil
}

func fresh(keys *pki.PKI, certPEM []byte) bool {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: keys.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil && time.Until(cert.NotAfter) > adminLife/3
}
