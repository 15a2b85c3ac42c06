// Package token makes and reads the tokens by which pods and others call the API as a service account: JSON Web Tokens, signed with
// ECDSA on P-256 (ES256).
//
// It watches and writes nothing, and knows nothing of what a token is bound to: its signature and its times are all that is looked at
// here. Always: a token is good under the one algorithm that its key is for, whatever the token itself says; of two texts that decode
// to the same token only one is taken; a key is named by a hash, from which nobody gets the key.
package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	kjson "sigs.k8s.io/json"
)

// DefaultIssuer is what a cluster of the domain cluster.local calls itself, and whom its own API takes tokens for.
const DefaultIssuer = "https://kubernetes.default.svc.cluster.local"

// maxSize of a token that is read. The longest that is made here has some kilobytes: the names of what it is bound to, and the
// audiences that somebody asked for.
const maxSize = 64 << 10

// Errors of tokens that are not good.
var (
	ErrMalformed   = errors.New("service account token is malformed")
	ErrOtherIssuer = errors.New("the token is another issuer's") // not ours to judge
	ErrUnknownKey  = errors.New("invalid signature, no keys found")
	ErrSignature   = errors.New("invalid signature")

	ErrExpired     = errors.New("service account token has expired")
	ErrNotValidYet = errors.New("service account token is not valid yet")
	ErrInFuture    = errors.New("service account token claims could not be validated due to unexpected validation error")
)

var base64url = base64.RawURLEncoding.Strict()

// Authority signs tokens, and tells its own from others. It may be used from many goroutines.
type Authority struct {
	issuer string
	key    *ecdsa.PrivateKey
	kid    string
	header string // of every token, encoded
	keys   []publicKey
}

// publicKey is one that tokens are verified with.
type publicKey struct {
	id  string
	key *ecdsa.PublicKey
}

// New makes an authority that signs with key. Tokens that were signed with one of the earlier keys are good, too.
func New(issuer string, key *ecdsa.PrivateKey, earlier ...*ecdsa.PublicKey) (*Authority, error) {
	a := &Authority{issuer: issuer, key: key}
	for _, k := range append([]*ecdsa.PublicKey{&key.PublicKey}, earlier...) {
		if k.Curve != elliptic.P256() {
			return nil, errors.New("make token authority: the curve of a key is not P-256")
		}
		id, err := keyID(k)
		if err != nil {
			return nil, fmt.Errorf("make token authority: %w", err)
		}
		a.keys = append(a.keys, publicKey{id, k})
	}
	a.kid = a.keys[0].id
	header, err := json.Marshal(header{Algorithm: algorithm, Key: a.kid})
	if err != nil {
		return nil, fmt.Errorf("make token authority: %w", err)
	}
	a.header = base64url.EncodeToString(header)
	return a, nil
}

// keyID names a key as Kubernetes does.
func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Issuer is what tokens say that they are from.
func (a *Authority) Issuer() string { return a.issuer }

const algorithm = "ES256"

type header struct {
	Algorithm string          `json:"alg"`
	Key       string          `json:"kid,omitempty"`
	Critical  json.RawMessage `json:"crit,omitempty"` // what must be understood: nothing is
}

// Sign makes a token of claims, whose issuer is filled in.
func (a *Authority) Sign(claims Claims) (string, error) {
	claims.Issuer = a.issuer
	payload, err := json.Marshal(&claims)
	if err != nil {
		return "", fmt.Errorf("sign token of %s: %w", claims.Subject, err)
	}
	signed := a.header + "." + base64url.EncodeToString(payload)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign token of %s: %w", claims.Subject, err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64url.EncodeToString(signature[:]), nil
}

// Verify reads a token, and refuses what is not signed with one of the authority's keys. Whether it is its time is for Claims.At to
// say. The errors are those above.
func (a *Authority) Verify(text string) (*Claims, error) {
	t, err := parse(text)
	if err != nil {
		return nil, err
	}
	if t.claims.Issuer != a.issuer {
		return nil, ErrOtherIssuer
	}
	if t.header.Algorithm != algorithm || t.header.Critical != nil || len(t.signature) != 64 {
		return nil, ErrSignature
	}
	digest := sha256.Sum256([]byte(t.signed))
	r, s := new(big.Int).SetBytes(t.signature[:32]), new(big.Int).SetBytes(t.signature[32:])
	known := false
	for _, k := range a.keys {
		if t.header.Key != "" && t.header.Key != k.id {
			continue
		}
		known = true
		if ecdsa.Verify(k.key, digest[:], r, s) {
			return t.claims, nil
		}
	}
	if !known {
		return nil, ErrUnknownKey
	}
	return nil, ErrSignature
}

// Peek reads the claims of a token whose signature is nobody's business here: its holder asks how long it will do.
func Peek(text string) (*Claims, error) {
	t, err := parse(text)
	if err != nil {
		return nil, err
	}
	return t.claims, nil
}

// parsed is a token taken apart, and nothing in it verified.
type parsed struct {
	header    header
	claims    *Claims
	signed    string
	signature []byte
}

func parse(text string) (*parsed, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrMalformed, maxSize)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: it has not three parts", ErrMalformed)
	}
	var raw [3][]byte
	for i, part := range parts {
		var err error
		if strings.ContainsAny(part, "\r\n") { // the decoder would pass over them
			return nil, fmt.Errorf("%w: it has several lines", ErrMalformed)
		}
		if raw[i], err = base64url.DecodeString(part); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	t := &parsed{claims: &Claims{}, signed: text[:len(parts[0])+1+len(parts[1])], signature: raw[2]}
	for i, into := range []any{&t.header, t.claims} {
		// Names are taken as they are written, and each only once.
		strict, err := kjson.UnmarshalStrict(raw[i], into, kjson.DisallowDuplicateFields)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if len(strict) > 0 {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, strict[0])
		}
	}
	return t, nil
}

// leeway is by how much clocks may differ.
const leeway = time.Minute

// At says whether the token is good at that time: nil, or one of the errors above.
func (c *Claims) At(now time.Time) error {
	switch {
	case c.Expiry != 0 && now.Add(-leeway).After(c.Expiry.Time()):
		return ErrExpired
	case c.NotBefore != 0 && now.Add(leeway).Before(c.NotBefore.Time()):
		return ErrNotValidYet
	case c.IssuedAt != 0 && now.Add(leeway).Before(c.IssuedAt.Time()):
		return ErrInFuture
	}
	return nil
}

// Leeway is how long something that a token is bound to may be deleted while the token is still good.
func Leeway() time.Duration { return leeway }

// For says which of the audiences that are asked for the token is meant for.
func (c *Claims) For(audiences []string) (both []string) {
	for _, a := range c.Audience {
		if slices.Contains(audiences, a) && !slices.Contains(both, a) {
			both = append(both, a)
		}
	}
	return both
}
