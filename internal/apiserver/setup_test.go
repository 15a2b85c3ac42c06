package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/apiserver/apiservertest"
	"sampan.dev/internal/auth"
)

// cluster is an API server with client-go's clients.
type cluster struct {
	*apiservertest.Cluster
	t testing.TB
}

func start(t testing.TB, change ...func(*apiserver.Config)) *cluster {
	t.Helper()
	return &cluster{apiservertest.Start(t, change...), t}
}

// config is a client's configuration as some user.
func (c *cluster) config(user string, groups ...string) *rest.Config {
	cert, key, err := c.PKI.ClientCert(user, groups, time.Hour)
	if err != nil {
		c.t.Fatal(err)
	}
	return &rest.Config{
		Host: c.URL, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.PKI.CA(), CertData: cert, KeyData: key},
	}
}

func (c *cluster) admin() *rest.Config { return c.config("admin", auth.Masters) }

func (c *cluster) clients() *kubernetes.Clientset { return c.typed(c.admin()) }

func (c *cluster) typed(config *rest.Config) *kubernetes.Clientset {
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		c.t.Fatal(err)
	}
	return clients
}

func (c *cluster) ask(method, path, body string, headers ...string) (*http.Response, string) {
	c.t.Helper()
	return c.Ask(method, path, body, headers...)
}

// connState is what a handler sees of a client with that certificate.
func connState(t *testing.T, certPEM []byte) *tls.ConnectionState {
	t.Helper()
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
