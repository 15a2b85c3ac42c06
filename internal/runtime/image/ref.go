package image

import (
	"fmt"
	"net/netip"
	"strings"
)

// Reference is an image's name in full, as people may shorten it: "nginx" is
// docker.io/library/nginx:latest.
type Reference struct {
	Domain string // "docker.io", "localhost:5000"
	Path   string // "library/nginx"
	Tag    string // empty if only a digest was given
	Digest string // "sha256:…" or empty
}

// InvalidNameError says that a text is no image name.
type InvalidNameError struct{ Name, Reason string }

func (e *InvalidNameError) Error() string {
	return fmt.Sprintf("couldn't parse image name %q: %s", e.Name, e.Reason)
}

const malformed = "invalid reference format"

// ParseReference reads an image name in any form that Kubernetes takes and fills in what was left out.
// Its errors are *InvalidNameError, in Kubernetes' words.
func ParseReference(s string) (Reference, error) {
	fail := func(format string, args ...any) (Reference, error) {
		return Reference{}, &InvalidNameError{Name: s, Reason: fmt.Sprintf(format, args...)}
	}
	if isHex(s, 64) {
		return fail("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", s)
	}
	rest, digest, hasDigest := strings.Cut(s, "@")
	var r Reference
	if hasDigest {
		if reason := checkDigest(digest); reason != "" {
			return fail("%s", reason)
		}
		r.Digest = digest
	}
	r.Domain, rest = splitDomain(rest)
	hasTag := false
	r.Path, r.Tag, hasTag = strings.Cut(rest, ":")
	if hasTag && !validTag(r.Tag) {
		return fail(malformed)
	}
	if r.Domain == "docker.io" && !strings.Contains(r.Path, "/") {
		r.Path = "library/" + r.Path
	}
	if lower := strings.ToLower(r.Path); lower != r.Path && validPath(lower) {
		return fail("invalid reference format: repository name (%s) must be lowercase", r.Path)
	}
	if !validDomain(r.Domain) || !validPath(r.Path) {
		return fail(malformed)
	}
	if len(r.Domain)+1+len(r.Path) > 255 {
		return fail("repository name must not be more than 255 characters")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = "latest"
	}
	return r, nil
}

// splitDomain takes the registry off the front if there is one: only what has a dot, a colon or a
// capital, or is localhost, can be one.
func splitDomain(s string) (domain, rest string) {
	first, after, ok := strings.Cut(s, "/")
	if !ok || (!strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first) {
		return "docker.io", s
	}
	if first == "index.docker.io" {
		first = "docker.io"
	}
	return first, after
}

// Repo is the name without tag and digest.
func (r Reference) Repo() string { return r.Domain + "/" + r.Path }

// String is the name in full.
func (r Reference) String() string {
	s := r.Repo()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// key is the name by which the store knows what is meant: where there is a digest the tag says nothing.
func (r Reference) key() string {
	if r.Digest != "" {
		return r.Repo() + "@" + r.Digest
	}
	return r.Repo() + ":" + r.Tag
}

// checkDigest gives the reason why s is no digest, or "". Only sha256 is verified here, so only that is taken.
func checkDigest(s string) string {
	algorithm, hex, ok := strings.Cut(s, ":")
	switch {
	case !ok || algorithm == "" || len(hex) < 32:
		return malformed
	case algorithm != "sha256":
		return "unsupported digest algorithm"
	case len(hex) != 64:
		return "invalid checksum digest length"
	case !isHex(hex, 64):
		return "invalid checksum digest format"
	}
	return ""
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func validTag(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return true
}

// validPath holds each part to: lower case letters and digits, separated by one dot, one or two
// underscores, or any number of dashes.
func validPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		end := 0 // of the last letter or digit: separators are part[end:i]
		for i := range len(part) {
			c := part[i]
			if c != '.' && c != '_' && c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				return false
			}
			if !isAlnum(c) {
				continue
			}
			switch separator := part[end:i]; separator {
			case "", ".", "_", "__":
				if separator != "" && end == 0 {
					return false
				}
			default:
				if strings.Trim(separator, "-") != "" || end == 0 {
					return false
				}
			}
			end = i + 1
		}
		if part == "" || end != len(part) {
			return false
		}
	}
	return true
}

// validDomain takes a DNS name or a bracketed IPv6 address, with or without a port.
func validDomain(s string) bool {
	host, port := s, ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		if ip, err := netip.ParseAddr(s[1:end]); err != nil || !ip.Is6() || ip.Zone() != "" {
			return false
		}
		host, port = "ipv6", s[end+1:]
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i:]
	}
	if port != "" && (port[0] != ':' || len(port) < 2 || strings.Trim(port[1:], "0123456789") != "") {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || !isAlnum(label[0]) || !isAlnum(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if !isAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}
