package image

import (
	"errors"
	"strings"
	"testing"
)

var someDigest = "sha256:" + strings.Repeat("0a", 32)

func TestParseReference(t *testing.T) {
	long := strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"nginx":                            "docker.io/library/nginx:latest",
		"nginx:1.10":                       "docker.io/library/nginx:1.10",
		"docker.io/nginx":                  "docker.io/library/nginx:latest",
		"index.docker.io/library/nginx":    "docker.io/library/nginx:latest",
		"bitnami/nginx":                    "docker.io/bitnami/nginx:latest",
		"localhost/x":                      "localhost/x:latest",
		"localhost:5000/x:y":               "localhost:5000/x:y",
		"[::1]:5000/a/b__c-d.e":            "[::1]:5000/a/b__c-d.e:latest",
		"reg.example/a---b:V_1.-":          "reg.example/a---b:V_1.-",
		"Host/x":                           "Host/x:latest",
		"nginx@" + someDigest:              "docker.io/library/nginx@" + someDigest,
		"nginx:1@" + someDigest:            "docker.io/library/nginx:1@" + someDigest,
		"sampan.dev/hello:2":               "sampan.dev/hello:2",
		"registry.k8s.io/pause:3.10":       "registry.k8s.io/pause:3.10",
		"x:" + strings.Repeat("t", 128):    "docker.io/library/x:" + strings.Repeat("t", 128),
		strings.Repeat("0", 63):            "docker.io/library/" + strings.Repeat("0", 63) + ":latest",
		"gcr.io/" + long:                   "gcr.io/" + long + ":latest",
		"127.0.0.1:1/" + long + "/b:12345": "127.0.0.1:1/" + long + "/b:12345",
	} {
		r, err := ParseReference(in)
		if err != nil || r.String() != want {
			t.Errorf("ParseReference(%q) = %q, %v, want %q", in, r, err, want)
		}
	}
}

func TestParseReferenceRefusesInKubernetesWords(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  malformed,
		" ":                                 malformed,
		"nginx:":                            malformed,
		":latest":                           malformed,
		"nginx:a b":                         malformed,
		"nginx latest":                      malformed,
		"-nginx":                            malformed,
		"nginx-":                            malformed,
		"a..b":                              malformed,
		"a___b":                             malformed,
		"a._b":                              malformed,
		"a//b":                              malformed,
		"/a":                                malformed,
		"../etc/passwd":                     malformed,
		"a/../b":                            malformed,
		"a/./b":                             malformed,
		"reg_istry.example/x":               malformed,
		"host:port/x":                       malformed,
		"https://nginx":                     malformed,
		"nginx:" + strings.Repeat("t", 129): malformed,
		"nginx@":                            malformed,
		"nginx@sha256:123":                  malformed,
		"nginx\x00":                         malformed,
		"nginx\n":                           malformed,
		"\xff":                              malformed,
		"NGINX":                             "invalid reference format: repository name (library/NGINX) must be lowercase",
		"docker.io/Library/x":               "invalid reference format: repository name (Library/x) must be lowercase",
		"nginx@sha256:" + strings.Repeat("g", 64): "invalid checksum digest format",
		"nginx@sha256:" + strings.Repeat("a", 65): "invalid checksum digest length",
		"nginx@sha1:" + strings.Repeat("a", 40):   "unsupported digest algorithm",
		"r.io/" + strings.Repeat("a/", 200) + "a": "repository name must not be more than 255 characters",
		strings.Repeat("a", 64):                   "invalid repository name (" + strings.Repeat("a", 64) + "), cannot specify 64-byte hexadecimal strings",
	} {
		_, err := ParseReference(in)
		var invalid *InvalidNameError
		if !errors.As(err, &invalid) || invalid.Reason != want {
			t.Errorf("ParseReference(%q): %v, want %q", in, err, want)
			continue
		}
		if !strings.HasPrefix(err.Error(), "couldn't parse image name ") {
			t.Errorf("%q does not begin as Kubernetes does", err)
		}
	}
}

// What is parsed is in normal form, and one that the registry library can ask for.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"nginx", "a/b:c", "localhost:5000/x@" + someDigest, "[::1]/x", "A.b/c", "a-.b", "x:y@z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q became %q, which becomes %q, %v", s, r, again, err)
		}
		if strings.Contains(r.Path, "..") || strings.HasPrefix(r.Path, "/") {
			t.Fatalf("%q has the path %q", s, r.Path)
		}
		if _, err := source(r); err != nil {
			t.Fatalf("%q became %q, which the registry library refuses: %v", s, r.key(), err)
		}
	})
}
