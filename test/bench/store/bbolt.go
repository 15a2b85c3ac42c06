//go:build !bare || bbolt

package main

import (
	"encoding/binary"
	"path/filepath"

	"go.etcd.io/bbolt"
)

func init() {
	engines["bbolt"] = func(dir string) (database, error) {
		db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
		if err != nil {
			return nil, err
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, name := range [][]byte{records, events} {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return newCommitter(bolt{db})
	}
}

// bolt keeps the events by revision and for each key the revision of its current one, so that a value is written once.
type bolt struct{ db *bbolt.DB }

var records, events = []byte("records"), []byte("events")

func (b bolt) write(batch []write) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		current, history := tx.Bucket(records), tx.Bucket(events)
		history.FillPercent = 0.95 // written in order
		for _, w := range batch {
			at := binary.BigEndian.AppendUint64(nil, uint64(w.revision))
			made := binary.BigEndian.AppendUint64(at, uint64(w.created))
			if err := current.Put([]byte(w.key), made); err != nil {
				return err
			}
			if err := history.Put(at, append(append([]byte(w.key), 0), w.value...)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b bolt) each(f func(key string, revision, created int64)) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(records).ForEach(func(k, v []byte) error {
			f(string(k), int64(binary.BigEndian.Uint64(v)), int64(binary.BigEndian.Uint64(v[8:])))
			return nil
		})
	})
}

func (b bolt) close() error { return b.db.Close() }
