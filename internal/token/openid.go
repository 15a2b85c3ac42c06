package token

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
)

// Where the documents are served, by which others can verify tokens.
const (
	ConfigurationPath = "/.well-known/openid-configuration"
	KeysPath          = "/openid/v1/jwks"
)

// Configuration is the document that says who issues tokens, and where its keys are found.
func (a *Authority) Configuration(keysURL string) ([]byte, error) {
	return json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		Keys          string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{a.issuer, keysURL, []string{"id_token"}, []string{"public"}, []string{algorithm}})
}

// jwk is one public key as JSON.
type jwk struct {
	Use       string `json:"use"`
	Type      string `json:"kty"`
	ID        string `json:"kid"`
	Curve     string `json:"crv"`
	Algorithm string `json:"alg"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

// Keys is the document with the public keys.
func (a *Authority) Keys() ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, k := range a.keys {
		point, err := k.key.Bytes() // 4, x, y: each coordinate has 32 bytes
		if err != nil {
			return nil, fmt.Errorf("show key %s: %w", k.id, err)
		}
		set.Keys = append(set.Keys, jwk{
			Use: "sig", Type: "EC", ID: k.id, Curve: "P-256", Algorithm: algorithm,
			X: base64.RawURLEncoding.EncodeToString(point[1:33]), Y: base64.RawURLEncoding.EncodeToString(point[33:65]),
		})
	}
	return json.Marshal(set)
}
