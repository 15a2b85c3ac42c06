package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sampan.dev/internal/store"
)

// The crash test kills a process that writes to a store, over and over on the same directory. What the process was told
// it passes on through a pipe, one line for each acknowledged write and for each event of its watcher.
const (
	crashDir   = "SAMPAN_STORE_CRASH_DIR"
	crashRound = "SAMPAN_STORE_CRASH_ROUND"
	crashSeen  = "SAMPAN_STORE_CRASH_SEEN" // the last revision that the parent's watcher has seen
	crashKeys  = 200
)

// Small files, so that kills meet logs being begun and a base being written.
var crashOptions = Options{HistoryBytes: 4 << 20}

// crashValue is the whole value of an id, so that half a value is known when it is seen.
func crashValue(id string) []byte {
	hash := fnv.New64a()
	hash.Write([]byte(id))
	random := rand.NewPCG(hash.Sum64(), 0)
	v := append([]byte(id), ' ')
	for n := random.Uint64() % 1500; n > 0; n-- {
		v = append(v, byte(random.Uint64()))
	}
	return v
}

func crashID(v []byte) string {
	id, _, _ := strings.Cut(string(v), " ")
	return id
}

// TestCrashChild is the process that is killed. It does nothing in an ordinary run.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return // it is run by TestKilledAtRandomMoments
	}
	var round, seen int64
	if _, err := fmt.Sscan(os.Getenv(crashRound)+" "+os.Getenv(crashSeen), &round, &seen); err != nil {
		t.Fatal(err)
	}
	pipe := os.NewFile(3, "pipe")
	say := func(format string, args ...any) { // a line is one write, and so whole or not there
		if _, err := fmt.Fprintf(pipe, format+"\n", args...); err != nil {
			os.Exit(1) // the parent is gone
		}
	}
	s := open(t, dir, crashOptions)
	batches, reason, err := s.Watch(t.Context(), "", seen)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for batch := range batches {
			for _, e := range batch {
				say("event %d %s %s", e.Revision, e.Key, what(e.Deleted, e.Value))
			}
		}
		say("failed %v", reason())
	}()
	go func() {
		if err := s.Compact(t.Context(), seen); err != nil {
			say("failed %v", err)
		}
	}()
	var group sync.WaitGroup
	for writer := range 16 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(round), uint64(writer)))
			for n := 0; ; n++ {
				w := store.Write{Key: fmt.Sprintf("/%d", random.IntN(crashKeys)), Expect: store.Any}
				if random.IntN(5) > 0 {
					w.Value = crashValue(fmt.Sprintf("%d/%d/%d", round, writer, n))
				}
				if now, err := s.Get(t.Context(), w.Key); random.IntN(2) == 0 && (err == nil || errors.Is(err, store.ErrNotFound)) {
					w.Expect = now.Revision // somebody else may be quicker
				}
				r, err := s.Apply(t.Context(), w)
				switch {
				case err == nil:
					say("wrote %d %s %s", r.Revision, w.Key, what(w.Value == nil, w.Value))
				case !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound):
					say("failed %v", err)
				}
			}
		})
	}
	group.Wait()
}

func what(deleted bool, value []byte) string {
	if deleted {
		return "deleted"
	}
	return crashID(value)
}

func TestKilledAtRandomMoments(t *testing.T) {
	rounds := 50
	dir := t.TempDir()
	// What the watcher has seen up to now: all events without a gap, and the records that they leave.
	seen := store.First
	records := map[string]store.Event{}
	total, rewritten := 0, 0
	for round := range rounds {
		acknowledged, watched := runAndKill(t, dir, round, seen)
		total += len(acknowledged)

		s, err := Open(dir, crashOptions)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if s.base != nil {
			rewritten++
		}
		highest := s.Revision()
		for _, told := range []map[int64]string{acknowledged, watched} {
			for revision := range told {
				if revision > highest {
					t.Fatalf("round %d: revision %d was told, but the store is back at %d", round, revision, highest)
				}
			}
		}
		for revision := range acknowledged {
			if revision <= seen {
				t.Fatalf("round %d: revision %d was given again, %d was seen before", round, revision, seen)
			}
		}
		batches, reason, err := s.Watch(t.Context(), "", seen)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for seen < highest {
			batch, ok := <-batches
			if !ok {
				t.Fatalf("round %d: the watch from revision %d ended: %v", round, seen, reason())
			}
			for _, e := range batch {
				if e.Revision != seen+1 {
					t.Fatalf("round %d: the watcher got revision %d after %d", round, e.Revision, seen)
				}
				seen = e.Revision
				checkEvent(t, round, e, records)
				got := e.Key + " " + what(e.Deleted, e.Value)
				for by, told := range map[string]map[int64]string{"a writer": acknowledged, "the watcher": watched} {
					if want, ok := told[seen]; ok && want != got {
						t.Fatalf("round %d: revision %d is %q, but %s was told %q", round, seen, got, by, want)
					}
				}
			}
		}
		checkList(t, round, s, records)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d acknowledged writes over %d kills, last revision %d; %d times there was a base", total, rounds, seen, rewritten)
	if total < 50*rounds || rewritten == 0 {
		t.Fatal("the kills came too early to show anything")
	}
}

// checkEvent checks that an event is whole and follows from those before it.
func checkEvent(t *testing.T, round int, e store.Event, records map[string]store.Event) {
	t.Helper()
	was, existed := records[e.Key]
	switch {
	case !e.Deleted && !bytes.Equal(e.Value, crashValue(crashID(e.Value))):
		t.Fatalf("round %d: revision %d has half a value: %q", round, e.Revision, e.Value)
	case existed != (e.Previous != nil) || !bytes.Equal(e.Previous, was.Value):
		t.Fatalf("round %d: revision %d has another previous value than the key had", round, e.Revision)
	case existed && e.Created != was.Created, !existed && e.Created != e.Revision, !existed && e.Deleted:
		t.Fatalf("round %d: revision %d was created at %d", round, e.Revision, e.Created)
	}
	if e.Deleted {
		delete(records, e.Key)
	} else {
		records[e.Key] = e
	}
}

func checkList(t *testing.T, round int, s *Store, records map[string]store.Event) {
	t.Helper()
	list, _, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	if len(list) != len(records) {
		t.Fatalf("round %d: the list has %d records, the events leave %d", round, len(list), len(records))
	}
	for _, r := range list {
		if e := records[r.Key]; e.Revision != r.Revision || e.Created != r.Created || !bytes.Equal(e.Value, r.Value) {
			t.Fatalf("round %d: %s is at revision %d, the events leave it at %d", round, r.Key, r.Revision, e.Revision)
		}
	}
}

// runAndKill lets a process write, kills it, and returns what its writers and its watcher were told, by revision.
func runAndKill(t *testing.T, dir string, round int, seen int64) (acknowledged, watched map[int64]string) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var output bytes.Buffer
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestCrashChild$")
	child.Env = append(os.Environ(), crashDir+"="+dir, fmt.Sprintf("%s=%d", crashRound, round), fmt.Sprintf("%s=%d", crashSeen, seen))
	child.ExtraFiles = []*os.File{write}
	child.Stdout, child.Stderr = &output, &output
	if err := errors.Join(child.Start(), write.Close()); err != nil {
		t.Fatal(err)
	}
	// The moment is a number of acknowledged writes, since a time would mean another load on each machine. The process runs
	// on while the signal is on its way.
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	left := random.IntN(3000)
	if round%3 == 0 {
		left = random.IntN(100) // soon after it was opened
	}
	acknowledged, watched = map[int64]string{}, map[int64]string{}
	var killed atomic.Bool
	for in := bufio.NewReader(read); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			break // the process is dead; half a line says nothing
		}
		var kind, key, id string
		var revision int64
		if n, _ := fmt.Sscan(line, &kind, &revision, &key, &id); n != 4 {
			t.Errorf("round %d: %s", round, line)
			break
		}
		if kind == "event" {
			watched[revision] = key + " " + id
			continue
		}
		acknowledged[revision] = key + " " + id
		if left--; left < 0 && killed.CompareAndSwap(false, true) {
			cancel() // SIGKILL
		}
	}
	cancel()
	if err := child.Wait(); !killed.Load() {
		t.Fatalf("round %d: the process ended by itself: %v\n%s", round, err, output.String())
	}
	return acknowledged, watched
}
