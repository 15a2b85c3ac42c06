package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sampan.dev/internal/store"
)

func seedRecords(f *testing.F) [][]byte {
	var seeds [][]byte
	for _, r := range []record{
		{key: []byte("/a"), value: []byte("value"), revision: 2, created: 2},
		{key: []byte("/a"), value: []byte("other"), revision: 3, created: 2, previous: 2},
		{key: []byte("/a"), deleted: true, revision: 4, created: 2, previous: 3, place: 1},
	} {
		seeds = append(seeds, appendRecord(nil, &r))
	}
	return seeds
}

// seal puts the right checksums into what may be meant for records, since no fuzzer finds these by chance.
func seal(b []byte) []byte {
	b = bytes.Clone(b)
	for rest := b; len(rest) >= recordHeader; {
		size := recordSize(int(binary.LittleEndian.Uint16(rest[4:])), int(binary.LittleEndian.Uint32(rest[8:])))
		if size > len(rest) {
			break
		}
		binary.LittleEndian.PutUint32(rest, crc32.Checksum(rest[4:size], castagnoli))
		rest = rest[size:]
	}
	return b
}

// Bytes that parse as a record are exactly that record's file form, so that nothing has two readings.
func FuzzRecord(f *testing.F) {
	for _, seed := range seedRecords(f) {
		f.Add(seed)
		f.Add(seed[:len(seed)-1])
	}
	f.Add([]byte{})
	f.Add(make([]byte, recordHeader))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzRecord(t, b)
		fuzzRecord(t, seal(b))
	})
}

func fuzzRecord(t *testing.T, b []byte) {
	r, err := parseRecord(b)
	if err != nil {
		if err != errEnd && err != errTorn && err != errShort {
			t.Fatal(err)
		}
		return
	}
	if again := appendRecord(nil, &r); !bytes.Equal(again, b[:len(again)]) {
		t.Fatalf("%x reads as a record that is written %x", b, again)
	}
	if at := laterBatch(b, r.revision-int64(r.place)-1); at != 0 {
		t.Fatalf("looking for the record finds it at %d", at)
	}
}

// Whatever the files hold, Open either says that they are damaged, or the store works, now and when it is opened again.
func FuzzOpen(f *testing.F) {
	seeds := seedRecords(f)
	log := bytes.Join(seeds, nil)
	f.Add(log, []byte{}, int64(1))
	f.Add(log, seeds[0], int64(1))
	f.Add(log[:len(log)-9], seeds[0], int64(1))
	f.Add(seeds[1], seeds[0], int64(1))
	f.Add(append(seeds[0], make([]byte, 80)...), []byte{}, int64(0))
	f.Fuzz(func(t *testing.T, log, base []byte, count int64) {
		dir := t.TempDir()
		if count >= 0 { // else the bytes are the whole files
			log = append(frame(magicLog, 2), seal(log)...)
			base = slices.Concat(frame(magicBase, 2), seal(base), frame(magicEnd, count))
		}
		err := os.WriteFile(filepath.Join(dir, fileName(2, logEnd)), log, 0o600)
		if count != 0 && len(base) > 0 {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, fileName(2, baseEnd)), base, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s, err := Open(dir, Options{})
			if errors.Is(err, ErrDamaged) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			before, revision, err := s.List(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Apply(t.Context(), store.Write{Key: "/fuzz", Value: []byte("v"), Expect: store.Any})
			if err != nil || r.Revision != revision+1 {
				t.Fatalf("wrote revision %d after %d: %v", r.Revision, revision, err)
			}
			if after, _, err := s.List(t.Context(), ""); err != nil || len(after) < len(before) {
				t.Fatalf("%d records, then %d: %v", len(before), len(after), err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
