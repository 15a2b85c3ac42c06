package apiserver

import (
	"encoding/base64"
	"net/http"
	"strings"
	"unicode/utf8"
)

// bearerProtocol begins the name of a WebSocket's protocol that is none, but a token: programs in browsers cannot set other headers.
const bearerProtocol = "base64url.bearer.authorization.k8s.io."

const protocolHeader = "Sec-Websocket-Protocol"

// socketToken takes the token out of the protocols that a WebSocket's request offers: no one further on shall see it. There must be a real
// protocol beside it. A token that cannot be read is one that is not good.
func socketToken(r *http.Request) (text string, ok bool) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", false
	}
	var others []string
	for _, header := range r.Header.Values(protocolHeader) {
		for p := range strings.SplitSeq(header, ",") {
			p = strings.TrimSpace(p)
			encoded, is := strings.CutPrefix(p, bearerProtocol)
			switch {
			case !is:
				others = append(others, p)
			case ok:
				return "", true // several: none
			default:
				ok = true
				if data, err := base64.RawURLEncoding.DecodeString(encoded); err == nil && utf8.Valid(data) {
					text = string(data)
				}
			}
		}
	}
	if !ok {
		return "", false
	}
	if len(others) == 0 {
		return "", true
	}
	r.Header.Set(protocolHeader, strings.Join(others, ","))
	return text, true
}
