package job

import (
	"slices"
	"strconv"
	"strings"
)

// span is the indexes from first to last.
type span struct{ first, last int }

// indexes is a set of completion indexes: spans in ascending order that neither overlap nor touch. It is what a status has as text.
type indexes []span

// parseIndexes reads the text of a status or a rule, without what lies beyond the number of completions. What makes no sense in it is left out.
func parseIndexes(text string, completions int) (set indexes) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isSpan := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil || a < 0 {
			continue
		}
		b := a
		if isSpan {
			if b, err = strconv.Atoi(last); err != nil {
				continue
			}
		}
		if b = min(b, completions-1); a <= b {
			set = set.union(indexes{{a, b}})
		}
	}
	return set
}

// indexesOf is the set of some indexes, in any order.
func indexesOf(list []int) indexes {
	slices.Sort(list)
	set := make(indexes, 0, len(list))
	for _, i := range list {
		set = set.add(span{i, i})
	}
	return set
}

// add appends a span that begins no earlier than the last one.
func (s indexes) add(next span) indexes {
	if n := len(s); n > 0 && next.first <= s[n-1].last+1 {
		s[n-1].last = max(s[n-1].last, next.last)
		return s
	}
	return append(s, next)
}

func (s indexes) union(other indexes) indexes {
	if len(other) == 0 {
		return s
	}
	both := make(indexes, 0, len(s)+len(other))
	for len(s) > 0 || len(other) > 0 {
		if len(other) == 0 || len(s) > 0 && s[0].first < other[0].first {
			both, s = both.add(s[0]), s[1:]
		} else {
			both, other = both.add(other[0]), other[1:]
		}
	}
	return both
}

func (s indexes) total() (n int) {
	for _, p := range s {
		n += p.last - p.first + 1
	}
	return n
}

func (s indexes) has(i int) bool {
	at, found := slices.BinarySearchFunc(s, i, func(p span, i int) int { return p.first - i })
	return found || at > 0 && s[at-1].last >= i
}

// common is how many indexes two sets share.
func (s indexes) common(other indexes) (n int) {
	for len(s) > 0 && len(other) > 0 {
		n += max(0, min(s[0].last, other[0].last)-max(s[0].first, other[0].first)+1)
		if s[0].last < other[0].last {
			s = s[1:]
		} else {
			other = other[1:]
		}
	}
	return n
}

// missing are the first n indexes below completions that are not in the set.
func (s indexes) missing(n, completions int) (list []int) {
	next := 0
	for _, p := range append(slices.Clone(s), span{completions, completions}) {
		for ; next < min(p.first, completions) && len(list) < n; next++ {
			list = append(list, next)
		}
		next = max(next, p.last+1)
	}
	return list
}

// String is the set as a status has it: three or more in a row are written as "first-last".
func (s indexes) String() string {
	var b strings.Builder
	for _, p := range s {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(p.first))
		if p.last > p.first {
			if p.last == p.first+1 {
				b.WriteByte(',')
			} else {
				b.WriteByte('-')
			}
			b.WriteString(strconv.Itoa(p.last))
		}
	}
	return b.String()
}
