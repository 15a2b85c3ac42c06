package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sampan.dev/internal/store"
)

// recover takes the directory and brings memory to what its files say. It leaves the last log so that everything in it
// is durable and nothing stands behind its last record, then removes files that an earlier run did not come to remove.
func (s *Store) recover() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	var err error
	if s.lock, err = lockDir(s.dir); err != nil {
		return err
	}
	bases, logs, leftover, err := listDir(s.dir)
	if err != nil {
		return err
	}
	s.revision = store.First
	if n := len(bases); n > 0 {
		if err := s.loadBase(bases[n-1]); err != nil {
			return err
		}
		for _, old := range bases[:n-1] {
			leftover = append(leftover, fileName(old, baseEnd))
		}
	}
	for len(logs) > 1 && logs[1] <= s.revision+1 { // the base has all of it
		leftover = append(leftover, fileName(logs[0], logEnd))
		logs = logs[1:]
	}
	for i, first := range logs {
		if err := s.loadLog(first, i == len(logs)-1); err != nil {
			return err
		}
	}
	if len(logs) == 0 {
		if err := s.addLog(); err != nil {
			return err
		}
	}
	if err := syncDir(filepath.Dir(s.dir)); err != nil {
		return err
	}
	if s.base != nil {
		s.floor = s.base.first
	}
	s.setFloor(s.historyStart())
	for _, name := range leftover {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
			return err
		}
	}
	s.tidy <- struct{}{}
	return nil
}

// listDir returns the revisions that the names in dir tell, ascending, and the names of unfinished files.
func listDir(dir string) (bases, logs []int64, unfinishedFiles []string, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, entry := range names {
		if r, ok := parseName(entry.Name(), baseEnd); ok {
			bases = append(bases, r)
		} else if r, ok := parseName(entry.Name(), logEnd); ok {
			logs = append(logs, r)
		} else if strings.HasSuffix(entry.Name(), unfinished) {
			unfinishedFiles = append(unfinishedFiles, entry.Name())
		}
	}
	slices.Sort(bases)
	slices.Sort(logs)
	return bases, logs, unfinishedFiles, nil
}

// loadBase reads the base that was compacted to a revision. It was durable before it had its name, so it must be whole.
func (s *Store) loadBase(revision int64) error {
	path := filepath.Join(s.dir, fileName(revision, baseEnd))
	f, size, err := s.opts.open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	g := &segment{path: path, file: f, first: revision, base: true, size: frameSize, space: size}
	g.refs.Store(1)
	s.base, s.revision = g, revision
	count, err := frames(f, size, revision)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	g.revs, g.offs = make([]int64, 0, count), make([]uint32, 0, count)
	in := newScanner(f, frameSize, size-frameSize)
	for {
		r, at, err := in.next()
		if err == errEnd && at == size-frameSize && len(g.revs) == count {
			return nil
		}
		if err == nil && (r.deleted || r.revision > revision || len(g.revs) > 0 && r.revision <= g.revs[len(g.revs)-1]) {
			err = errTorn
		}
		if err != nil {
			return damaged(path, at, err)
		}
		g.add(r.revision, r.size())
		s.account(string(r.key), entry{r.revision, r.created}, 0, false, r.size())
	}
}

// frames checks both ends of a base and returns how many records it has.
func frames(f io.ReaderAt, size, revision int64) (int, error) {
	b := make([]byte, 2*frameSize)
	if size < int64(len(b)) {
		return 0, fmt.Errorf("%w: it ends at byte %d", ErrDamaged, size)
	}
	if _, err := f.ReadAt(b[:frameSize], 0); err != nil {
		return 0, err
	}
	if _, err := f.ReadAt(b[frameSize:], size-frameSize); err != nil && err != io.EOF {
		return 0, err
	}
	first, err := parseFrame(b, magicBase)
	count, err2 := parseFrame(b[frameSize:], magicEnd)
	if err = errors.Join(err, err2); err != nil || first != revision || count < 0 || count > size/recordHeader {
		return 0, fmt.Errorf("%w: not a base at revision %d (%v)", ErrDamaged, revision, err)
	}
	return int(count), nil
}

// loadLog replays a log. All but the last must be whole and lead up to the next one.
func (s *Store) loadLog(first int64, isLast bool) error {
	path := filepath.Join(s.dir, fileName(first, logEnd))
	if first > s.revision+1 {
		return fmt.Errorf("%w: revisions %d to %d are missing before %s", ErrDamaged, s.revision+1, first-1, path)
	}
	f, size, err := s.opts.open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	g := &segment{path: path, file: f, first: first, size: frameSize, space: size}
	g.refs.Store(1)
	s.logs = append(s.logs, g)
	var b [frameSize]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return err
	}
	if named, err := parseFrame(b[:], magicLog); err != nil || named != first {
		if !isLast {
			return damaged(path, 0, errTorn)
		}
		return s.replaceLog(g)
	}
	in := newScanner(f, frameSize, size)
	for {
		r, at, err := in.next()
		if err == nil && r.revision == g.last()+1 {
			if err = s.replay(g, &r); err != nil {
				return damaged(path, at, err)
			}
			continue
		}
		switch {
		case err == nil, err == errTorn && !isLast:
			return damaged(path, at, errTorn)
		case err != errEnd && err != errTorn:
			return err
		case isLast:
			return s.cutTail(g)
		}
		return nil
	}
}

// replay does for one record what publish did when it was written.
func (s *Store) replay(g *segment, r *record) error {
	g.add(r.revision, r.size())
	if r.revision <= s.revision {
		return nil // the base is beyond it
	}
	current, _ := s.index.Get(string(r.key))
	if current.revision != r.previous {
		return fmt.Errorf("%w: the key was at revision %d, not %d", errTorn, current.revision, r.previous)
	}
	s.account(string(r.key), entry{r.revision, r.created}, r.previous, r.deleted, r.size())
	s.revision = r.revision
	return nil
}

// cutTail removes what a batch that was never acknowledged left behind the last record of the last log. If it stayed, later records could come to
// stand right before a part of it, and that part would be taken for a write.
func (s *Store) cutTail(g *segment) error {
	if s.revision > g.last() {
		return fmt.Errorf("%w: the last log %s ends with revision %d, before %d", ErrDamaged, g.path, g.last(), s.revision)
	}
	tail := make([]byte, g.space-g.size)
	if n, err := g.file.ReadAt(tail, g.size); err != nil && err != io.EOF {
		return err
	} else if tail = tail[:n]; !isZero(tail) {
		if at := laterBatch(tail, g.last()+1); at >= 0 {
			return fmt.Errorf("%w: %s at byte %d: revision %d is unreadable, but a later batch stands at byte %d",
				ErrDamaged, g.path, g.size, g.last()+1, g.size+int64(at))
		}
		s.opts.Log.Warn("Removed a write that was under way when the store last stopped", "file", g.path, "byte", g.size)
		if err := g.file.Truncate(g.size); err != nil {
			return err
		}
		g.space = g.size
	}
	s.active = g
	return g.file.Sync() // what was read may so far be in the page cache alone
}

// laterBatch looks for a record that was written after the one with the missing revision had been synced: one whose
// batch began later. It returns where, or -1.
func laterBatch(tail []byte, missing int64) int {
	for at := 0; at+recordHeader <= len(tail); at += align {
		b := tail[at:]
		began := int64(binary.LittleEndian.Uint64(b[16:])) - int64(binary.LittleEndian.Uint32(b[12:]))
		if began <= missing || began-missing > 1<<32 {
			continue // quick: most bytes go this way
		}
		if _, err := parseRecord(b); err == nil {
			return at
		}
	}
	return -1
}

// replaceLog makes a last log anew whose beginning was never written. If it has any record, the beginning was.
func (s *Store) replaceLog(g *segment) error {
	all := make([]byte, g.space)
	if n, err := g.file.ReadAt(all, 0); err != nil && err != io.EOF {
		return err
	} else if laterBatch(all[:n], g.first-1) >= 0 || g.first != s.revision+1 {
		return damaged(g.path, 0, errTorn)
	}
	s.logs = s.logs[:len(s.logs)-1]
	if err := g.done(); err != nil {
		return err
	}
	return s.addLog()
}

func damaged(path string, at int64, err error) error {
	return fmt.Errorf("%w: %s at byte %d: %w", ErrDamaged, path, at, err)
}
