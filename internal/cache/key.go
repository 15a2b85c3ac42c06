package cache

import (
	"strings"

	"sampan.dev/internal/resource"
)

// roomOf finds the kind that a key of the store belongs to: the one with the longest prefix, or nil.
func (c *Cache) roomOf(key string) *room {
	for end := strings.LastIndexByte(key, '/'); end > 0; end = strings.LastIndexByte(key[:end], '/') {
		if k, ok := c.byPrefix[key[:end+1]]; ok {
			return c.rooms[c.index[k]]
		}
	}
	return nil
}

// split takes a key apart again.
func split(kind *resource.Kind, key string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(key, kind.Prefix)
	if !ok || !kind.Namespaced {
		return "", rest, ok
	}
	return strings.Cut(rest, "/")
}
