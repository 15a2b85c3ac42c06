package apiserver_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
)

func TestHowTheStoreIs(t *testing.T) {
	c := start(t, func(cfg *apiserver.Config) {
		cfg.Standstill = func() time.Duration { return 12300 * time.Millisecond }
	})
	unknown := start(t, func(cfg *apiserver.Config) { cfg.Standstill = nil })
	config := c.PKI.ClientTLS("", nil)
	config.GetClientCertificate = nil
	nobody := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	for name, q := range map[string]struct {
		at     *cluster
		client *http.Client
		method string
		code   int
		want   string
	}{
		"a node is told for how long it has stood still": {c, c.HTTPClient("system:node:n1", auth.Nodes), "GET", 200, `{"stalled":"12.3s"}`},
		"an administrator, too":                          {c, c.HTTPClient("admin", auth.Masters), "GET", 200, `{"stalled":"12.3s"}`},
		"where nothing is known it works":                {unknown, unknown.HTTPClient("system:node:n1", auth.Nodes), "GET", 200, `{"stalled":"0s"}`},
		"anonymous is told nothing":                      {c, nobody, "GET", 403, `cannot get path \"/sampan/v1/store\"`},
		"nor is somebody":                                {c, c.HTTPClient("jane"), "GET", 403, `cannot get path`},
		"nor a name without its group":                   {c, c.HTTPClient("system:node:n1"), "GET", 403, `cannot get path`},
		"a node writes nothing there":                    {c, c.HTTPClient("system:node:n1", auth.Nodes), "POST", 403, `cannot post path`},
		"nor does an administrator":                      {c, c.HTTPClient("admin", auth.Masters), "PUT", 405, `only read`},
	} {
		if response, body := q.at.AskAs(q.client, q.method, apiserver.StorePath, ""); response.StatusCode != q.code || !strings.Contains(body, q.want) {
			t.Errorf("%s: %d %s", name, response.StatusCode, body)
		}
	}
}
