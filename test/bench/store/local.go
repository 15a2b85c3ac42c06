//go:build !bare || local

package main

import (
	"context"

	"sampan.dev/internal/store"
	"sampan.dev/internal/store/local"
)

func init() {
	engines["local"] = func(dir string) (database, error) {
		s, err := local.Open(dir, local.Options{})
		return own{s}, err
	}
}

// own is our engine, which has a committer itself.
type own struct{ store *local.Store }

func (o own) create(key string, value []byte) error {
	_, err := o.store.Apply(context.Background(), store.Write{Key: key, Value: value})
	return err
}

func (o own) close() error { return o.store.Close() }
