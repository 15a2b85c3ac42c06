package storetest

import "testing"

// A checker of histories is worth what it refuses.
func TestCheckHistory(t *testing.T) {
	const start = 1
	write := func(revision, expect, began, ended int64) operation {
		return operation{key: "/a", expect: expect, revision: revision, began: began, ended: ended}
	}
	read := func(revision, began, ended int64) operation {
		return operation{key: "/a", read: true, revision: revision, began: began, ended: ended}
	}
	gone := write(3, 2, 3, 4)
	gone.deleted = true
	for _, c := range []struct {
		name    string
		history []operation
		fine    bool
	}{
		{"one after the other", []operation{write(2, 0, 1, 2), write(3, 2, 3, 4), read(3, 5, 6)}, true},
		{"a read beside a write sees what was before it", []operation{write(2, 0, 1, 2), write(3, 2, 3, 6), read(2, 4, 5)}, true},
		{"a read beside a write sees it", []operation{write(2, 0, 1, 2), write(3, 2, 3, 6), read(3, 4, 5)}, true},
		{"a read after a delete finds nothing", []operation{write(2, 0, 1, 2), gone, read(0, 5, 6)}, true},
		{"a read is stale", []operation{write(2, 0, 1, 2), write(3, 2, 3, 4), read(2, 5, 6)}, false},
		{"a read sees a write that has not begun", []operation{write(2, 0, 3, 4), read(2, 1, 2)}, false},
		{"a read after a delete finds the record", []operation{write(2, 0, 1, 2), gone, read(2, 5, 6)}, false},
		{"two writes over the same revision succeed", []operation{write(2, 0, 1, 2), write(3, 2, 3, 6), write(4, 2, 4, 5)}, false},
		{"revisions run against time", []operation{write(3, -1, 1, 2), write(2, -1, 3, 4)}, false},
		{"a revision is missing", []operation{write(2, -1, 1, 2), write(4, -1, 3, 4)}, false},
		{"a revision is given twice", []operation{write(2, -1, 1, 2), write(2, -1, 3, 4)}, false},
	} {
		if err := checkHistory(c.history, start); (err == nil) != c.fine {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
