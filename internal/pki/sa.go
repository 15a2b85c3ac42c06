package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// TokenKey is the key that signs the tokens of service accounts. It is made when it is first asked for, and kept: with another one, all
// tokens that pods hold would be worth nothing.
func (p *PKI) TokenKey() (*ecdsa.PrivateKey, error) {
	file := filepath.Join(p.dir, "sa.key")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return makeTokenKey(file)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of service accounts: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != keyType {
		return nil, fmt.Errorf("read the key of service accounts: %s holds no key", file)
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the key of service accounts: %s: %w", file, err)
	}
	return key, nil
}

func makeTokenKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of service accounts: %w", err)
	}
	data, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the key of service accounts: %w", err)
	}
	if err := WriteFile(file, data); err != nil {
		return nil, fmt.Errorf("make the key of service accounts: %w", err)
	}
	return key, nil
}
