package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

func key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func authority(t testing.TB, k *ecdsa.PrivateKey, earlier ...*ecdsa.PublicKey) *Authority {
	t.Helper()
	a, err := New(DefaultIssuer, k, earlier...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func sign(t testing.TB, a *Authority, c Claims) string {
	t.Helper()
	text, err := a.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var when = time.Unix(1_800_000_000, 5)

func claims() Claims {
	return Bound(Binding{
		Namespace: "web", ServiceAccount: Ref{"robot", "u-robot"}, Pod: &Ref{"a", "u-a"}, Node: &Ref{"n1", "u-n1"},
	}, []string{DefaultIssuer}, when, ExtendedSeconds*time.Second, InjectedSeconds*time.Second)
}

func TestClaimsAreUpstreams(t *testing.T) {
	c := claims()
	c.ID = "some-id"
	parts := strings.Split(sign(t, authority(t, key(t)), c), ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"aud":["https://kubernetes.default.svc.cluster.local"],"exp":1831536000,"iat":1800000000,` +
		`"iss":"https://kubernetes.default.svc.cluster.local","jti":"some-id",` +
		`"kubernetes.io":{"namespace":"web","node":{"name":"n1","uid":"u-n1"},"pod":{"name":"a","uid":"u-a"},` +
		`"serviceaccount":{"name":"robot","uid":"u-robot"},"warnafter":1800003607},` +
		`"nbf":1800000000,"sub":"system:serviceaccount:web:robot"}`
	if string(payload) != want {
		t.Errorf("claims\n%s\nwant\n%s", payload, want)
	}
	if a, b := claims(), claims(); a.ID == "" || a.ID == b.ID {
		t.Errorf("ids %q and %q", a.ID, b.ID)
	}
}

func TestWhatWasSignedIsVerified(t *testing.T) {
	k := key(t)
	text := sign(t, authority(t, k), claims())
	got, err := authority(t, key(t), &k.PublicKey).Verify(text) // the key is an earlier one by now
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject != "system:serviceaccount:web:robot" || got.Kubernetes.Pod.UID != "u-a" || got.Kubernetes.WarnAfter.Time().Unix() != 1800003607 {
		t.Errorf("claims %+v", got)
	}
	peeked, err := Peek(text)
	if err != nil || peeked.ID != got.ID {
		t.Errorf("peeked %+v, %v", peeked, err)
	}
}

// crafted is a token put together from parts, signed as sign says.
func crafted(header, payload string, sign func(signed string) []byte) string {
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return signed + "." + base64.RawURLEncoding.EncodeToString(sign(signed))
}

func es256(t *testing.T, k *ecdsa.PrivateKey) func(string) []byte {
	return func(signed string) []byte {
		digest := sha256.Sum256([]byte(signed))
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
}

func TestRefusals(t *testing.T) {
	k, other := key(t), key(t)
	a := authority(t, k)
	good := sign(t, a, claims())
	parts := strings.Split(good, ".")
	payload, err := json.Marshal(Claims{Issuer: DefaultIssuer, Subject: "x"})
	if err != nil {
		t.Fatal(err)
	}
	ours := es256(t, k)
	with := func(header string) string { return crafted(header, string(payload), ours) }
	public, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := New("https://elsewhere", k)
	if err != nil {
		t.Fatal(err)
	}
	der := func(signed string) []byte {
		digest := sha256.Sum256([]byte(signed))
		s, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"nothing", "", ErrMalformed},
		{"two parts", parts[0] + "." + parts[1], ErrMalformed},
		{"something behind it", good + ".x", ErrMalformed},
		{"a line's end behind it", good + "\n", ErrMalformed},
		{"padding behind it", good + "=", ErrMalformed},
		{"a line's end within", good[:40] + "\n" + good[40:], ErrMalformed},
		{"a claim twice", crafted(`{"alg":"ES256"}`, `{"iss":"`+DefaultIssuer+`","sub":"a","sub":"b"}`, ours), ErrMalformed},
		{"something behind the claims", crafted(`{"alg":"ES256"}`, string(payload)+"{}", ours), ErrMalformed},
		{"claims that are a list", crafted(`{"alg":"ES256"}`, `[]`, ours), ErrMalformed},
		{"another issuer", sign(t, foreign, claims()), ErrOtherIssuer},
		{"no issuer", crafted(`{"alg":"ES256"}`, `{"sub":"a"}`, ours), ErrOtherIssuer},
		{"an issuer in capitals", crafted(`{"alg":"ES256"}`, `{"ISS":"`+DefaultIssuer+`"}`, ours), ErrOtherIssuer},
		{"another's key under the name of ours", crafted(`{"alg":"ES256","kid":"`+a.kid+`"}`, string(payload), es256(t, other)), ErrSignature},
		{"another's key", sign(t, authority(t, other), claims()), ErrUnknownKey},
		{"another's key without a name", crafted(`{"alg":"ES256"}`, string(payload), es256(t, other)), ErrSignature},
		{"no algorithm", with(`{}`), ErrSignature},
		{"the algorithm none", crafted(`{"alg":"none"}`, string(payload), func(string) []byte { return nil }), ErrSignature},
		{"the algorithm none, and signed", with(`{"alg":"none"}`), ErrSignature},
		{"the public key as a shared secret", crafted(`{"alg":"HS256"}`, string(payload), func(signed string) []byte {
			m := hmac.New(sha256.New, public)
			m.Write([]byte(signed))
			return m.Sum(nil)
		}), ErrSignature},
		{"another algorithm's name", with(`{"alg":"ES384"}`), ErrSignature},
		{"small letters", with(`{"alg":"es256"}`), ErrSignature},
		{"what must be understood and is not", with(`{"alg":"ES256","crit":["exp"]}`), ErrSignature},
		{"a signature in DER", crafted(`{"alg":"ES256"}`, string(payload), der), ErrSignature},
		{"a signature of zeros", crafted(`{"alg":"ES256"}`, string(payload), func(string) []byte { return make([]byte, 64) }), ErrSignature},
		{"a short signature", parts[0] + "." + parts[1] + "." + parts[2][:84], ErrSignature},
		{"other claims", parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + parts[2], ErrSignature},
		{"too large", crafted(`{"alg":"ES256"}`, `{"iss":"`+DefaultIssuer+`","sub":"`+strings.Repeat("x", maxSize)+`"}`, ours), ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := a.Verify(c.text); !errors.Is(err, c.want) || got != nil {
				t.Errorf("claims %v, error %v, want %v", got, err, c.want)
			}
		})
	}
	if _, err := a.Verify(with(`{"alg":"ES256","typ":"JWT"}`)); err != nil {
		t.Errorf("a token that names no key, and says what it is: %v", err)
	}
}

func TestKeysOfOtherCurvesAreRefused(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(DefaultIssuer, k); err == nil {
		t.Error("taken")
	}
	if _, err := New(DefaultIssuer, key(t), &k.PublicKey); err == nil {
		t.Error("taken for verification")
	}
}

func TestTimes(t *testing.T) {
	c := Bound(Binding{Namespace: "web", ServiceAccount: Ref{"robot", "u"}}, nil, when, time.Hour, 0)
	for _, at := range []struct {
		name  string
		after time.Duration
		want  error
	}{
		{"at once", 0, nil},
		{"by a clock that is a minute behind", -time.Minute, nil},
		{"by a clock that is further behind", -time.Minute - time.Second, ErrNotValidYet},
		{"at its end", time.Hour, nil},
		{"within the minute that clocks may differ", time.Hour + 59*time.Second, nil},
		{"after that", time.Hour + 61*time.Second, ErrExpired},
	} {
		t.Run(at.name, func(t *testing.T) {
			if err := c.At(when.Add(at.after)); !errors.Is(err, at.want) {
				t.Errorf("error %v, want %v", err, at.want)
			}
		})
	}
	c.NotBefore = 0
	if err := c.At(when.Add(-time.Hour)); !errors.Is(err, ErrInFuture) {
		t.Errorf("issued in the future: %v", err)
	}
}

func TestAudiences(t *testing.T) {
	c := Claims{Audience: Audience{"a", "b", "a"}}
	if got := c.For([]string{"c", "a"}); len(got) != 1 || got[0] != "a" {
		t.Errorf("both %q", got)
	}
	if got := c.For([]string{"c"}); got != nil {
		t.Errorf("both %q", got)
	}
	var one Claims
	if err := json.Unmarshal([]byte(`{"aud":"vault","exp":1.8e9}`), &one); err != nil || one.Audience[0] != "vault" || one.Expiry != 1800000000 {
		t.Errorf("%+v, %v", one, err)
	}
}

func TestDocuments(t *testing.T) {
	k := key(t)
	a := authority(t, k, &key(t).PublicKey)
	config, err := a.Configuration("https://10.0.0.1:6443/openid/v1/jwks")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"issuer":"https://kubernetes.default.svc.cluster.local","jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks",` +
		`"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`
	if string(config) != want {
		t.Errorf("configuration %s", config)
	}
	text, err := a.Keys()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(text, &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("keys %s, %v", text, err)
	}
	first := set.Keys[0]
	number := func(name string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(first[name])
		if err != nil || len(b) != 32 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		return new(big.Int).SetBytes(b)
	}
	raw, err := k.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if number("x").Cmp(new(big.Int).SetBytes(raw[1:33])) != 0 || number("y").Cmp(new(big.Int).SetBytes(raw[33:])) != 0 {
		t.Errorf("the key is another: %v", first)
	}
	if first["kid"] != a.kid || first["alg"] != "ES256" || first["use"] != "sig" || first["kty"] != "EC" || first["crv"] != "P-256" {
		t.Errorf("key %v", first)
	}
}

// FuzzVerify: nothing that is not signed here is taken, and what is taken is taken in one form only.
func FuzzVerify(f *testing.F) {
	a := authority(f, key(f))
	good := sign(f, a, claims())
	f.Add(good)
	f.Add(good + "\n")
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := a.Verify(text)
		if (got == nil) == (err == nil) {
			t.Fatalf("claims %v and error %v", got, err)
		}
		if err == nil && text != good {
			t.Fatalf("taken: %q", text)
		}
		_, _ = Peek(text)
	})
}
