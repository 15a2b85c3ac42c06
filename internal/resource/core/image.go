package core

import "strings"

// imageTag is the tag that an image's name has: "latest" where it has neither tag nor digest, and nothing where it is no
// image's name at all.
func imageTag(image string) string {
	name, digest, hasDigest := strings.Cut(image, "@")
	tag, hasTag := "", false
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag, hasTag = name[:i], name[i+1:], true
	}
	if !isRepository(name) || hasTag && !isTag(tag) || hasDigest && !isDigest(digest) {
		return ""
	}
	if !hasTag && !hasDigest {
		return "latest"
	}
	return tag
}

func isTag(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-' && all(s, func(c byte) bool {
		return alphanumeric(c) || c == '_' || c == '.' || c == '-'
	})
}

// isDigest wants an algorithm and at least 32 hexadecimal digits.
func isDigest(s string) bool {
	algorithm, hex, ok := strings.Cut(s, ":")
	return ok && algorithm != "" && len(hex) >= 32 && all(hex, func(c byte) bool {
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
	})
}

// isRepository wants an optional host, and after it parts of small letters and digits that single separators join.
func isRepository(name string) bool {
	if len(name) == 64 && all(name, func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' }) {
		return false // would be taken for the ID of an image
	}
	if host, rest, ok := strings.Cut(name, "/"); ok &&
		(strings.ContainsAny(host, ".:[") || host == "localhost" || strings.ToLower(host) != host) {
		if !all(host, func(c byte) bool { return alphanumeric(c) || strings.IndexByte(".:-[]", c) >= 0 }) {
			return false
		}
		name = rest
	}
	for part := range strings.SplitSeq(name, "/") {
		if !isPart(part) {
			return false
		}
	}
	return len(name) <= 255
}

// isPart wants letters and digits first and last, and between them at most ".", "_", "__" or any number of "-" at a time.
func isPart(s string) bool {
	if s == "" || !small(s[0]) || !small(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if small(s[i]) {
			i++
			continue
		}
		end := i
		for end < len(s) && !small(s[end]) {
			end++
		}
		separator := s[i:end]
		if separator != "." && separator != "_" && separator != "__" && strings.Trim(separator, "-") != "" {
			return false
		}
		i = end
	}
	return true
}

func small(c byte) bool        { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
func alphanumeric(c byte) bool { return small(c) || c >= 'A' && c <= 'Z' }

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}
