//go:build !bare || pebble

package main

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
)

func init() {
	engines["pebble"] = func(dir string) (database, error) {
		cache := pebble.NewCache(1 << 20) // values are in the cache of objects already
		defer cache.Unref()
		db, err := pebble.Open(dir, &pebble.Options{Cache: cache, MemTableSize: 4 << 20, Logger: quiet{}})
		if err != nil {
			return nil, err
		}
		return newCommitter(lsm{db})
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, _ ...any) {
	panic(format)
}

// lsm keeps the events by revision and for each key the revision of its current one, so that a value is written once.
type lsm struct{ db *pebble.DB }

func (l lsm) write(batch []write) error {
	b := l.db.NewBatch()
	defer b.Close()
	for _, w := range batch {
		at := binary.BigEndian.AppendUint64([]byte("e"), uint64(w.revision))
		made := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(w.revision)), uint64(w.created))
		if err := b.Set([]byte("r"+w.key), made, nil); err != nil {
			return err
		}
		if err := b.Set(at, append(append([]byte(w.key), 0), w.value...), nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.Sync)
}

func (l lsm) each(f func(key string, revision, created int64)) error {
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: []byte("r"), UpperBound: []byte("s")})
	if err != nil {
		return err
	}
	for it.First(); it.Valid(); it.Next() {
		v := it.Value()
		f(string(it.Key()[1:]), int64(binary.BigEndian.Uint64(v)), int64(binary.BigEndian.Uint64(v[8:])))
	}
	return it.Close()
}

func (l lsm) close() error { return l.db.Close() }
