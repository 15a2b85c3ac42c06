package store

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPaceTellsOfSlowWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pace
		told := func(want string) {
			t.Helper()
			got := ""
			if err := p.Slow(); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("after %q, want %q", got, want)
			}
		}
		told("")
		end := p.Begin()
		time.Sleep(900 * time.Millisecond)
		told("")
		p.Begin()() // others are quick
		time.Sleep(600 * time.Millisecond)
		told("the disk is slow: a write has been waiting for it for 1.5s")
		time.Sleep(500 * time.Millisecond)
		end()
		time.Sleep(3 * time.Second)
		p.Begin()()
		told("the disk is slow: 3s ago a write took 2s")
		time.Sleep(8 * time.Second)
		told("")
	})
}
