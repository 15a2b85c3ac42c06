package dns

import (
	"encoding/binary"
	"sync"
	"time"
)

// Bounds of what is kept of other servers' answers. What does not fit pushes out what ends first among a few.
const (
	maxEntries = 4096
	maxBytes   = 2 << 20
	maxKeep    = time.Hour        // of an answer
	maxKeepNo  = 30 * time.Minute // of its lack
	entryCost  = 200              // bytes that an entry takes besides key and message, roughly
)

// cache keeps answers as long as their records live, and not a second longer.
type cache struct {
	mu      sync.Mutex
	entries map[string]entry
	bytes   int
}

type entry struct {
	wire        []byte // without what extends the protocol; shared, never changed
	since, ends time.Time
}

func (c *cache) get(key []byte, now time.Time) (entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, found := c.entries[string(key)]
	return e, found && now.Before(e.ends)
}

func (c *cache) put(key []byte, wire []byte, keep time.Duration, now time.Time) {
	cost := len(key) + len(wire) + entryCost
	if keep <= 0 || cost > maxBytes/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(string(key))
	for len(c.entries) >= maxEntries || c.bytes+cost > maxBytes {
		c.evict()
	}
	c.entries[string(key)] = entry{wire: wire, since: now, ends: now.Add(keep)}
	c.bytes += cost
}

// evict drops the one of a few entries, taken anyhow, that ends first.
func (c *cache) evict() {
	victim, tried := "", 0
	for key, e := range c.entries { // the language begins anywhere
		if tried == 0 || e.ends.Before(c.entries[victim].ends) {
			victim = key
		}
		if tried++; tried == 8 {
			break
		}
	}
	c.drop(victim)
}

func (c *cache) drop(key string) {
	if e, found := c.entries[key]; found {
		c.bytes -= len(key) + len(e.wire) + entryCost
		delete(c.entries, key)
	}
}

func (c *cache) size() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries), c.bytes
}

// answer is what another server said, or nothing if none did.
type answer struct {
	wire []byte // as in an entry
	age  uint32 // seconds since it came
}

// appendTo writes the answer for one asker: its identity, its spelling of the question, the time that is left, as much as it takes.
func (a answer) appendTo(b []byte, q *query) []byte {
	if a.wire == nil {
		r := reply{b: b}
		return r.fail(q, rcodeServer)
	}
	b = b[:0]
	room := q.limit()
	if q.edns {
		room -= optSize
	}
	if cap(b) < len(a.wire)+optSize && len(a.wire) > room {
		b = make([]byte, 0, len(a.wire)+optSize)
	}
	b = append(b, a.wire...)
	flags := binary.BigEndian.Uint16(a.wire[2:])
	flags = flagResponse | flagAvailable | flags&15 | q.flags&(flagRecursion|flagChecking) | flags&flagAuthentic
	if !q.do && q.flags&flagAuthentic == 0 {
		flags &^= flagAuthentic // nobody asked whether it is proved
	}
	copy(b[headerSize:], q.raw[headerSize:])
	counts := [3]uint16{}
	end := len(q.raw)
	for section := range counts {
		for range binary.BigEndian.Uint16(a.wire[6+2*section:]) {
			i := skipName(b, end)
			next := i + 10 + int(binary.BigEndian.Uint16(b[i+8:])) // the message was packed here: it is well formed
			if next > room {
				if section < 2 {
					flags |= flagTruncated // what is only beside the answer can be left out in silence
				}
				goto cut
			}
			ttl := binary.BigEndian.Uint32(b[i+4:])
			binary.BigEndian.PutUint32(b[i+4:], ttl-min(ttl, a.age))
			counts[section]++
			end = next
		}
	}
cut:
	b = b[:end]
	if q.edns {
		b = appendOPT(b, 0, q.do)
		counts[2]++
	}
	putHeader(b, q.id, flags, 1, counts[0], counts[1], counts[2])
	return b
}
