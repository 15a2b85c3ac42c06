package join_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sampan.dev/internal/join"
	"sampan.dev/internal/pki"
	"sampan.dev/internal/resource/kinds"
)

// impostor is a server as a machine that joins first sees it.
type impostor struct {
	certificates *pki.PKI // that it shows
	says         *pki.PKI // whose authority it says is the cluster's
	minor        string
	ahead        time.Duration // of its clock
	silent       bool
}

func (s impostor) start(t *testing.T) string {
	t.Helper()
	info, err := json.Marshal(map[string]any{"data": map[string]string{"kubeconfig": fmt.Sprintf(
		`{"clusters":[{"name":"","cluster":{"server":"https://x","certificate-authority-data":%q}}]}`, base64(s.says.CA()))}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(s.ahead).UTC().Format(http.TimeFormat))
		switch {
		case s.silent:
			http.Error(w, "no", http.StatusServiceUnavailable)
		case r.Header.Get("Authorization") != "":
			t.Errorf("the token is shown to %s, which has not proved who it is", r.URL.Path)
		case r.URL.Path == "/api/v1/namespaces/kube-public/configmaps/cluster-info":
			_, _ = w.Write(info)
		case r.URL.Path == "/version":
			fmt.Fprintf(w, `{"gitVersion":"v1.%s.0","minor":%q}`, s.minor, s.minor)
		default:
			http.NotFound(w, r)
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = s.certificates.ServerTLS([]string{"localhost"})
	server.StartTLS()
	t.Cleanup(server.Close)
	return strings.Replace(server.URL, "127.0.0.1", "localhost", 1) // by a name: the certificate is chosen by it
}

func base64(data []byte) string {
	text, _ := json.Marshal(data)
	return strings.Trim(string(text), `"`)
}

func TestWhyAMachineMayNotJoin(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	for name, c := range map[string]struct {
		server impostor
		want   string
	}{
		"an agent that is newer than the server": {
			impostor{certificates: ours, says: ours, minor: "36"},
			"this sampan speaks Kubernetes v1.37.2, and the server at URL only v1.36.0: a node must not be newer than its server; update the server first",
		},
		"an agent that is much older than the server": {
			impostor{certificates: ours, says: ours, minor: "41"},
			"this sampan speaks Kubernetes v1.37.2, which is too old for the server at URL with v1.41.0: update this one",
		},
		"a server that does not say which version it is": {
			impostor{certificates: ours, says: ours, minor: "x"}, "the server at URL does not say which version it is",
		},
		"a clock that is behind": {
			impostor{certificates: ours, says: ours, minor: "37", ahead: time.Hour},
			"this machine's clock is 1h0m0s behind that of the server at URL, which makes certificates invalid: set it (timedatectl set-ntp true) and try again",
		},
		"a clock that is ahead": {
			impostor{certificates: ours, says: ours, minor: "37", ahead: -time.Hour},
			"this machine's clock is 1h0m0s ahead of that of the server at URL, which makes certificates invalid: set it (timedatectl set-ntp true) and try again",
		},
		"a server of another cluster": {
			impostor{certificates: theirs, says: theirs, minor: "37"},
			"the server at URL is not of the cluster that the token is for: its authority is sha256:" + digest(t, theirs) + ", and the token names sha256:" + digest(t, ours) + ". Is it the right address? If it is, make a new token there with `sampan token create`",
		},
		"a server that shows the cluster's authority and is not of it": {
			impostor{certificates: theirs, says: ours, minor: "37"}, "the server at URL shows the cluster's authority but cannot prove that it is of it: ",
		},
		"a server that is not ready": {
			impostor{certificates: ours, says: ours, silent: true}, `ask URL which cluster it is of: it answers "503 Service Unavailable"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := c.server.start(t)
			token, err := join.ParseToken("abcdef.0123456789abcdef@sha256:" + digest(t, ours))
			if err != nil {
				t.Fatal(err)
			}
			_, err = join.Join(t.Context(), join.Config{Servers: []string{url}, Node: "n", Dir: t.TempDir(), Table: kinds.Table(), Ping: time.Second}, &token)
			if err == nil {
				t.Fatal("it has joined")
			}
			got := strings.ReplaceAll(err.Error(), url, "URL")
			if got != c.want && !(strings.HasSuffix(c.want, ": ") && strings.HasPrefix(got, c.want)) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if strings.Contains(got, "\n") {
				t.Errorf("more than one sentence: %q", got)
			}
		})
	}
}

func authority(t *testing.T) *pki.PKI {
	t.Helper()
	p, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func digest(t *testing.T, p *pki.PKI) string {
	t.Helper()
	block, _ := pem.Decode(p.CA())
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(ca.RawSubjectPublicKeyInfo))
}

func FuzzParseToken(f *testing.F) {
	f.Add("abcdef.0123456789abcdef@sha256:" + strings.Repeat("0", 64))
	f.Add("abcdeg.0123456789abcdeg")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := join.ParseToken(text)
		if err == nil && fmt.Sprintf("%s.%s@sha256:%x", token.ID, token.Secret, token.Authority) != strings.TrimSpace(text) {
			t.Errorf("%q is read as %+v", text, token)
		}
		if err != nil && len(text) > 20 && strings.Contains(err.Error(), text) {
			t.Errorf("what may be secret is repeated: %v", err)
		}
	})
}
