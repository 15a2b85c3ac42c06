package apiserver

import (
	"encoding/base64"
	"net/http"
	"testing"
)

func TestTokensOfWebSockets(t *testing.T) {
	hidden := bearerProtocol + base64.RawURLEncoding.EncodeToString([]byte("secret"))
	for _, c := range []struct {
		name, upgrade string
		protocols     []string
		text          string
		ok            bool
		left          string // of the protocols
	}{
		{"beside a protocol", "websocket", []string{hidden + ", v5.channel.k8s.io"}, "secret", true, "v5.channel.k8s.io"},
		{"in a header of its own", "WebSocket", []string{"v5.channel.k8s.io, v4.channel.k8s.io", hidden}, "secret", true, "v5.channel.k8s.io,v4.channel.k8s.io"},
		{"no token", "websocket", []string{"v5.channel.k8s.io"}, "", false, "v5.channel.k8s.io"},
		{"no WebSocket", "", []string{hidden + ", v5.channel.k8s.io"}, "", false, hidden + ", v5.channel.k8s.io"},
		{"nothing beside it is not good", "websocket", []string{hidden}, "", true, hidden},
		{"two are not good", "websocket", []string{hidden + "," + hidden + ",x"}, "", true, hidden + "," + hidden + ",x"},
		{"what cannot be read is not good", "websocket", []string{bearerProtocol + "!, x"}, "", true, "x"},
		{"what is no text is not good", "websocket", []string{bearerProtocol + "_w, x"}, "", true, "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &http.Request{Header: http.Header{"Upgrade": {c.upgrade}, protocolHeader: c.protocols}}
			text, ok := socketToken(r)
			if text != c.text || ok != c.ok || r.Header.Get(protocolHeader) != c.left {
				t.Errorf("token %q, %v; left %q", text, ok, r.Header.Get(protocolHeader))
			}
		})
	}
}
