package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Shared is what all servers of a cluster have in common, each in PEM. Whoever has it is the cluster.
type Shared struct {
	Cert     []byte `json:"cert"`     // the authority's certificate
	Key      []byte `json:"key"`      // and its key
	TokenKey []byte `json:"tokenKey"` // that signs the tokens of service accounts
}

// ErrOther says that a directory has the keys of another cluster.
var ErrOther = errors.New("the keys there are of another cluster")

var sharedFiles = [...]string{"sa.key", "ca.key", "ca.crt"} // the certificate last: without it the rest is of an attempt that broke off

func (s *Shared) parts() [len(sharedFiles)]*[]byte {
	return [...]*[]byte{&s.TokenKey, &s.Key, &s.Cert}
}

// Shared is what another server of the same cluster needs.
func (p *PKI) Shared() (s Shared, err error) {
	if _, err := p.TokenKey(); err != nil { // it is made if it is not there
		return s, err
	}
	for i, part := range s.parts() {
		if *part, err = os.ReadFile(filepath.Join(p.dir, sharedFiles[i])); err != nil {
			return s, fmt.Errorf("read the cluster's keys: %w", err)
		}
	}
	return s, nil
}

// Adopt puts the keys of a cluster into a directory that has none; if it has these already, nothing is done, and with others it fails with ErrOther.
func Adopt(dir string, s Shared) error {
	if err := (&PKI{dir: dir, now: time.Now}).load(s.Cert, s.Key); err != nil {
		return fmt.Errorf("adopt a cluster's keys: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("adopt a cluster's keys: %w", err)
	}
	have, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("adopt a cluster's keys: %w", err)
	case !bytes.Equal(have, s.Cert):
		return fmt.Errorf("%s: %w than the datastore's: choose another --data-dir, or another --datastore", dir, ErrOther)
	}
	for i, part := range s.parts() {
		path := filepath.Join(dir, sharedFiles[i])
		if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, *part) {
			continue
		}
		if err := WriteFile(path, *part); err != nil {
			return fmt.Errorf("adopt a cluster's keys: %w", err)
		}
	}
	return nil
}
