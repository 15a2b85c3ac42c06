// Package keyring shares the cluster's keys among its servers, by the datastore that they have in common.
//
// It reads and writes one key of the datastore, which is no object, and in its directory what pki keeps and cluster.token. Always: what is in the datastore is sealed
// with a token that never goes there, so that whoever reads the datastore, or a snapshot of it, cannot make certificates; a server takes over keys only if its directory
// has none, or the same.
package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sampan.dev/internal/pki"
	"sampan.dev/internal/store"
)

// Key is where the sealed keys are in the datastore.
const Key = "/sampan/keys"

// tokenFile is where a server keeps the token, in the directory of its keys.
const tokenFile = "cluster.token"

// tokenSize is the length of a token, in bytes; it is written in hexadecimal digits, twice as many.
const tokenSize = 32

// Errors that callers choose by.
var (
	ErrNoToken    = errors.New("the datastore holds a cluster already, and this server does not have its token: give it with --token; `sampan token create --server` prints it on a server that has it")
	ErrWrongToken = errors.New("the token is not that of the cluster in the datastore: `sampan token create --server` prints it on a server that has it")
	ErrNotAToken  = errors.New("a server's token has 64 hexadecimal digits: `sampan token create --server` prints it on a server that has it")
)

// Store is the datastore, as store.Store has it.
type Store interface {
	Get(ctx context.Context, key string) (store.Record, error)
	Apply(ctx context.Context, w store.Write) (store.Record, error)
}

// sealed is what is in the datastore.
type sealed struct {
	Version int    `json:"version"` // 1
	Nonce   []byte `json:"nonce"`
	Keys    []byte `json:"keys"` // pki.Shared in JSON, sealed by AES-256-GCM with a key that HKDF-SHA256 (RFC 5869) makes of the token
}

// Share makes the keys in dir those of the cluster in the datastore: the first server puts its own there, and others get theirs from it. The token may be empty where dir
// has it from an earlier start, and for the first server, which makes one. It says whether this server was the first.
func Share(ctx context.Context, st Store, dir, token string) (first bool, err error) {
	known, err := Token(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	switch {
	case known != "" && token != "" && token != known:
		return false, fmt.Errorf("%s has another token than --token gives: %w", filepath.Join(dir, tokenFile), ErrWrongToken)
	case known != "":
		token = known
	}
	if token != "" {
		if raw, err := hex.DecodeString(token); err != nil || len(raw) != tokenSize {
			return false, ErrNotAToken
		}
	}
	staged := filepath.Join(dir, stage)
	for {
		rec, err := st.Get(ctx, Key)
		switch {
		case err == nil:
			if token == "" { // a first start may have ended between the datastore and the directory
				token, _ = Token(staged)
			}
			if err := take(rec.Value, dir, token); err != nil {
				return false, err
			}
			return false, os.RemoveAll(staged)
		case !errors.Is(err, store.ErrNotFound):
			return false, fmt.Errorf("read the cluster's keys from the datastore: %w", err)
		}
		err = put(ctx, st, dir, staged, token)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return false, fmt.Errorf("put the cluster's keys into the datastore: %w", err)
		}
		if err := os.RemoveAll(staged); err != nil { // another server was the first: its keys count
			return false, err
		}
	}
}

// stage is where, in the directory of its keys, the first server prepares what it puts into the datastore.
const stage = "first"

// Token is the token that dir keeps; fs.ErrNotExist where there is none.
func Token(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil {
		return "", fmt.Errorf("read the cluster's token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// take opens what the datastore has, and keeps it.
func take(value []byte, dir, token string) error {
	if token == "" {
		return ErrNoToken
	}
	var s sealed
	if err := json.Unmarshal(value, &s); err != nil {
		return fmt.Errorf("read the cluster's keys from the datastore: %w", err)
	}
	if s.Version != 1 {
		return fmt.Errorf("read the cluster's keys from the datastore: they are of version %d, and this sampan knows version 1", s.Version)
	}
	box, err := boxOf(token)
	if err != nil {
		return err
	}
	if len(s.Nonce) != box.NonceSize() {
		return ErrWrongToken
	}
	plain, err := box.Open(nil, s.Nonce, s.Keys, []byte(Key))
	if err != nil {
		return ErrWrongToken
	}
	var keys pki.Shared
	if err := json.Unmarshal(plain, &keys); err != nil {
		return fmt.Errorf("read the cluster's keys from the datastore: %w", err)
	}
	if err := pki.Adopt(dir, keys); err != nil {
		return err
	}
	return keep(dir, token)
}

// put seals the keys of dir, or new ones, puts them into the datastore and keeps them. The token is on disk before they are in the datastore: else a kill could lose it.
func put(ctx context.Context, st Store, dir, staged, token string) error {
	from := dir
	if _, err := os.Stat(filepath.Join(dir, "ca.crt")); errors.Is(err, fs.ErrNotExist) {
		from = staged
	}
	authority, err := pki.Open(from)
	if err != nil {
		return err
	}
	if token == "" {
		if token, err = Token(staged); err != nil {
			raw := make([]byte, tokenSize)
			_, _ = rand.Read(raw)
			token = hex.EncodeToString(raw)
		}
	}
	keys, err := authority.Shared()
	if err != nil {
		return err
	}
	plain, err := json.Marshal(keys)
	if err != nil {
		return err
	}
	box, err := boxOf(token)
	if err != nil {
		return err
	}
	s := sealed{Version: 1, Nonce: make([]byte, box.NonceSize())}
	_, _ = rand.Read(s.Nonce)
	s.Keys = box.Seal(nil, s.Nonce, plain, []byte(Key))
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := keep(staged, token); err != nil {
		return err
	}
	if _, err = st.Apply(ctx, store.Write{Key: Key, Value: value}); err != nil {
		return err
	}
	if err := errors.Join(pki.Adopt(dir, keys), keep(dir, token)); err != nil {
		return err
	}
	return os.RemoveAll(staged)
}

func boxOf(token string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(token), nil, "sampan: the keys of a cluster", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func keep(dir, token string) error {
	if now, err := Token(dir); err == nil && now == token {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return pki.WriteFile(filepath.Join(dir, tokenFile), []byte(token+"\n"))
}
