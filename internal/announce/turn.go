package announce

import "time"

// How an address is taken over (RFC 5227, with shorter waits, since people wait for it).
const (
	probes        = 3
	probeEvery    = 60 * time.Millisecond
	announces     = 3
	announceEvery = time.Second

	firstPause = 200 * time.Millisecond // after another machine has been found to have the address
	mostPause  = 30 * time.Second
	lookAgain  = 10 * time.Second // least time between two defences of an address
)

// phase is how far an address has come.
type phase int

const (
	probing    phase = iota // nobody is answered yet
	announcing              // it is ours: questions are answered
	holding                 // all has been told
	blocked                 // another machine has it
)

// turn is where one address stands, and when something is to be done.
type turn struct {
	phase phase
	sent  int       // in this phase
	due   time.Time // not before
	tries int       // that found another machine
	rival *MAC      // that was heard to have the address
}

// deed is what is to be done now.
type deed int

const (
	nothing deed = iota
	probe
	announceIt
	complain // that another machine has it
	defend   // complain, and announce
)

// next says what is to be done, and where the address stands after it. A rival that is heard once may be the node that had the address before and has not heard
// yet; one that is heard again is told of.
func (t turn) next(now time.Time) (deed, turn) {
	if t.rival != nil && (t.phase == probing || t.phase == announcing && t.sent == 0) {
		t.rival, t.phase, t.sent = nil, blocked, 0
		t.due = now.Add(min(firstPause<<min(2*t.tries, 16), mostPause))
		if t.tries++; t.tries == 2 {
			return complain, t
		}
		return nothing, t
	}
	if now.Before(t.due) {
		return nothing, t
	}
	switch t.phase {
	case blocked:
		t.phase, t.sent = probing, 0
		return t.next(now)
	case probing:
		if t.sent < probes {
			t.sent, t.due = t.sent+1, now.Add(probeEvery)
			return probe, t
		}
		t.phase, t.sent, t.tries = announcing, 0, 0
		return t.next(now)
	case announcing:
		if t.rival, t.sent, t.due = nil, t.sent+1, now.Add(announceEvery); t.sent == announces {
			t.phase = holding
		}
		return announceIt, t
	}
	if t.rival != nil {
		t.rival, t.due = nil, now.Add(lookAgain)
		return defend, t
	}
	t.due = time.Time{}
	return nothing, t
}

// heard is where an address stands once somebody else says that it is his. Who holds it waits a little: it may have been given to another node, and this one not have
// heard yet.
func (t turn) heard(rival MAC, now time.Time) turn {
	if t.rival == nil && t.phase == holding {
		if late := now.Add(announceEvery); t.due.Before(late) {
			t.due = late
		}
	}
	t.rival = &rival
	return t
}

// answers says that questions for the address are answered.
func (t turn) answers() bool { return t.phase == announcing || t.phase == holding }
