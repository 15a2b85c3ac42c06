package local

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sampan.dev/internal/store"
)

// Patient writes wait for others and share a sync with them; one that is not patient waits for nobody, and takes along those that do.
func TestPatientWritesAreWrittenTogether(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var syncs atomic.Int64
		d := &disk{t: t, onSync: func(string) error { syncs.Add(1); return nil }}
		s := open(t, dir, d.options(Options{}))
		defer s.Close()
		syncs.Store(0)
		done := make(chan error, 3)
		apply := func(key string, patient bool) {
			_, err := s.Apply(t.Context(), store.Write{Key: key, Value: []byte("x"), Patient: patient})
			done <- err
		}
		answered := func(n int) {
			t.Helper()
			for range n {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		begin := time.Now()
		for _, key := range []string{"/a", "/b", "/c"} {
			go apply(key, true)
		}
		synctest.Wait()
		if n := syncs.Load(); n != 0 {
			t.Errorf("%d syncs before the patience has ended", n)
		}
		answered(3)
		if n, waited := syncs.Load(), time.Since(begin); n != 1 || waited != store.Patience {
			t.Errorf("three patient writes took %d syncs and %v", n, waited)
		}
		begin = time.Now()
		go apply("/d", true)
		synctest.Wait()
		go apply("/e", false)
		answered(2)
		if n, waited := syncs.Load(), time.Since(begin); n != 2 || waited != 0 {
			t.Errorf("a patient write and another took %d syncs and %v", n-1, waited)
		}
		go apply("/f", true)
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		answered(1)
	})
}

// A store whose disk takes nothing says so once that has lasted for a while, and counts the time; one that nobody writes to stands not still.
func TestADiskThatStandsStill(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var stands atomic.Bool
		d := &disk{t: t, onSync: func(string) error {
			if stands.Load() {
				time.Sleep(30 * time.Second)
			}
			return nil
		}}
		s := open(t, dir, d.options(Options{}))
		defer s.Close()
		stalled := s.Stalled()
		told := func(when string, still, since time.Duration) {
			t.Helper()
			if got, all := s.Standstill(), s.Stalled()-stalled; got != still || all != since {
				t.Errorf("%s: it stands still for %v and did for %v, want %v and %v", when, got, all, still, since)
			}
		}
		time.Sleep(time.Minute)
		told("nobody writes", 0, 0)
		stands.Store(true)
		done := make(chan error)
		go func() { _, err := s.Apply(t.Context(), store.Write{Key: "/a", Value: []byte("x")}); done <- err }()
		time.Sleep(1500 * time.Millisecond)
		told("the disk is slow", 0, 1500*time.Millisecond)
		time.Sleep(8500 * time.Millisecond)
		told("the disk stands still", 10*time.Second, 10*time.Second)
		stands.Store(false)
		if err := <-done; err != nil {
			t.Error(err)
		}
		told("it works again", 0, 30*time.Second)
	})
}
