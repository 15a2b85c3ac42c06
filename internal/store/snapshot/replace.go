package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"sampan.dev/internal/store"
)

// Stream writes a snapshot of the store to w. The store goes on meanwhile.
func Stream(ctx context.Context, s store.Store, w io.Writer, head Head) error {
	records, revision, err := contents(ctx, s)
	if err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	head.Revision, head.Count = revision, int64(len(records))
	if err := Encode(w, head, records); err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	return nil
}

// Changes counts what Replace has done.
type Changes struct {
	Written int `json:"written"` // created, or made what they were
	Deleted int `json:"deleted"`
	Same    int `json:"same"`
}

// passes is how often Replace looks again, where others write at the same time.
const passes = 5

// Replace makes a store that is in use hold what a snapshot holds, but for keys that are to be kept as they are. Nothing is written if the snapshot is damaged. Revisions go
// on, so that watchers see it as so many changes; it is not one step, and what others write meanwhile may stay. A failure leaves the store between the two states: the same
// snapshot again makes it whole.
func Replace(ctx context.Context, s store.Store, r io.Reader, keep func(key string) bool) (c Changes, err error) {
	fail := func(err error) (Changes, error) { return c, fmt.Errorf("restore snapshot: %w", err) }
	_, records, err := Decode(r)
	if err != nil {
		return fail(err)
	}
	want := map[string][]byte{}
	for rec, err := range records {
		if err != nil {
			return fail(err)
		}
		if !keep(rec.Key) {
			want[rec.Key] = rec.Value
		}
	}
	for range passes {
		have, _, err := contents(ctx, s)
		if err != nil {
			return fail(err)
		}
		// What is written goes before what is deleted, and apart: a key that somebody else deletes first fails those that were to be deleted with it, until the next pass.
		writes, deletes := loader{ctx: ctx, to: s}, loader{ctx: ctx, to: s}
		same, written := 0, 0
		there := make(map[string]struct{}, len(have))
		for _, rec := range have {
			if keep(rec.Key) {
				continue
			}
			there[rec.Key] = struct{}{}
			value, wanted := want[rec.Key]
			switch {
			case !wanted:
			case bytes.Equal(value, rec.Value):
				same++
			default:
				err = writes.write(store.Write{Key: rec.Key, Value: bytes.Clone(value), Expect: store.Any})
				written++
			}
			if err != nil {
				return fail(err)
			}
		}
		for key, value := range want {
			if _, ok := there[key]; ok {
				continue
			}
			if err := writes.write(store.Write{Key: key, Value: bytes.Clone(value), Expect: store.Any}); err != nil {
				return fail(err)
			}
			written++
		}
		if err := writes.flush(); err != nil {
			return fail(err)
		}
		for key := range there {
			if _, wanted := want[key]; wanted {
				continue
			}
			if err := deletes.write(store.Write{Key: key, Expect: store.Any}); err != nil && !errors.Is(err, store.ErrNotFound) {
				return fail(err)
			}
		}
		if err := deletes.flush(); err != nil && !errors.Is(err, store.ErrNotFound) {
			return fail(err)
		}
		c.Deleted += deletes.done
		if c.Written == 0 {
			c.Same = same
		}
		c.Written += written
		if same == len(want) && len(there) == len(want) {
			return c, nil
		}
	}
	return c, nil // others write faster than this looks: what they write is theirs
}
