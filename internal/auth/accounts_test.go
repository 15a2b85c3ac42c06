package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/token"
)

// there are objects by "resource/namespace/name".
type there map[string]*metav1.ObjectMeta

func (w there) find(resource, namespace, name string) metav1.Object {
	if o := w[resource+"/"+namespace+"/"+name]; o != nil {
		return o
	}
	return nil
}

func (w there) add(resource, namespace, name string) *metav1.ObjectMeta {
	o := &metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("u-" + name)}
	w[resource+"/"+namespace+"/"+name] = o
	return o
}

func newAuthority(t testing.TB) *token.Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := token.New(token.DefaultIssuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const api = token.DefaultIssuer

func robot() token.Binding {
	return token.Binding{Namespace: "web", ServiceAccount: token.Ref{Name: "robot", UID: "u-robot"}}
}

func ref(name string) *token.Ref { return &token.Ref{Name: name, UID: "u-" + name} }

func TestTokensAreAsGoodAsWhatTheyAreBoundTo(t *testing.T) {
	authority := newAuthority(t)
	onPod, onSecret, onNode := robot(), robot(), robot()
	onPod.Pod, onPod.Node, onSecret.Secret, onNode.Node = ref("a"), ref("n1"), ref("s"), ref("n1")
	ago := func(d time.Duration) *metav1.Time { at := metav1.NewTime(time.Now().Add(-d)); return &at }
	for _, c := range []struct {
		name   string
		bound  token.Binding
		change func(w there)
		want   string // part of the error; empty: good
	}{
		{"all is there", robot(), func(there) {}, ""},
		{"the account is gone", robot(), func(w there) { delete(w, "serviceaccounts/web/robot") }, `serviceaccounts "robot" not found`},
		{"the account is another of the name", robot(), func(w there) { w["serviceaccounts/web/robot"].UID = "u2" }, "service account UID (u2) does not match claim (u-robot)"},
		{"the account is being deleted", robot(), func(w there) { w["serviceaccounts/web/robot"].DeletionTimestamp = ago(50 * time.Second) }, ""},
		{"the account was deleted a while ago", robot(), func(w there) { w["serviceaccounts/web/robot"].DeletionTimestamp = ago(61 * time.Second) }, "service account web/robot has been deleted"},
		{"the pod is there", onPod, func(there) {}, ""},
		{"the pod is gone", onPod, func(w there) { delete(w, "pods/web/a") }, "service account token has been invalidated"},
		{"the pod is another of the name", onPod, func(w there) { w["pods/web/a"].UID = "u2" }, "pod UID (u2) does not match service account pod ref claim (u-a)"},
		{"the pod has a grace to end", onPod, func(w there) { w["pods/web/a"].DeletionTimestamp = ago(-30 * time.Second) }, ""},
		{"the pod should long be gone", onPod, func(w there) { w["pods/web/a"].DeletionTimestamp = ago(2 * time.Minute) }, "service account token has been invalidated"},
		{"the pod's node is gone, which only tells where it is", onPod, func(w there) { delete(w, "nodes//n1") }, ""},
		{"the secret is there", onSecret, func(there) {}, ""},
		{"the secret is gone", onSecret, func(w there) { delete(w, "secrets/web/s") }, "service account token has been invalidated"},
		{"the secret is another of the name", onSecret, func(w there) { w["secrets/web/s"].UID = "u2" }, "secret UID (u2) does not match service account secret ref claim (u-s)"},
		{"the node is there", onNode, func(there) {}, ""},
		{"the node is gone", onNode, func(w there) { delete(w, "nodes//n1") }, "service account token has been invalidated"},
		{"the node is another of the name", onNode, func(w there) { w["nodes//n1"].UID = "u2" }, "node UID (u2) does not match service account node ref claim (u-n1)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := there{}
			w.add("serviceaccounts", "web", "robot")
			w.add("pods", "web", "a")
			w.add("secrets", "web", "s")
			w.add("nodes", "", "n1")
			text, err := authority.Sign(token.Bound(c.bound, []string{api}, time.Now(), time.Hour, 0))
			if err != nil {
				t.Fatal(err)
			}
			tokens := NewTokens(authority, []string{api}, w.find)
			if _, _, err := tokens.Authenticate(text, nil); err != nil { // it is known then, and that must not help it
				t.Fatal(err)
			}
			c.change(w)
			user, _, err := tokens.Authenticate(text, nil)
			switch {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("user %v, error %v, want %q", user, err, c.want)
			}
		})
	}
}

func TestWhoATokensHolderIs(t *testing.T) {
	b := robot()
	b.Pod, b.Node = ref("a"), &token.Ref{Name: "n1"}
	claims := token.Bound(b, nil, time.Now(), time.Hour, 0)
	claims.ID = "some-id"
	want := &Identity{
		Name: "system:serviceaccount:web:robot", UID: "u-robot", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"},
		Extra: map[string][]string{
			"authentication.kubernetes.io/credential-id": {"JTI=some-id"}, "authentication.kubernetes.io/pod-name": {"a"},
			"authentication.kubernetes.io/pod-uid": {"u-a"}, "authentication.kubernetes.io/node-name": {"n1"},
		},
	}
	if got := FromClaims(&claims); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
}

func TestAudiencesOfTokens(t *testing.T) {
	authority := newAuthority(t)
	w := there{}
	w.add("serviceaccounts", "web", "robot")
	tokens := NewTokens(authority, []string{api, "api"}, w.find)
	text := func(audiences ...string) string {
		s, err := authority.Sign(token.Bound(robot(), audiences, time.Now(), time.Hour, 0))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		name        string
		has, wanted []string
		good        []string
		err         string
	}{
		{"the API's, and nothing asked for", []string{api}, nil, []string{api}, ""},
		{"another's, and nothing asked for", []string{"vault"}, nil, nil, `token audiences ["vault"] is invalid for the target audiences ["` + api + `" "api"]`},
		{"another's, which is asked for", []string{"vault", api}, []string{"vault"}, []string{"vault"}, ""},
		{"the API's, and another asked for", []string{api}, []string{"vault"}, nil, `is invalid for the target audiences ["vault"]`},
		{"none, which means the API's", nil, nil, []string{api, "api"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, good, err := tokens.Authenticate(text(c.has...), c.wanted)
			if !reflect.DeepEqual(good, c.good) || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("good %q, error %v", good, err)
			}
		})
	}
}

func TestTokensExpireThoughTheyAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := newAuthority(t)
		w := there{}
		w.add("serviceaccounts", "web", "robot")
		tokens := NewTokens(authority, []string{api}, w.find)
		text, err := authority.Sign(token.Bound(robot(), []string{api}, time.Now(), 10*time.Minute, 0))
		if err != nil {
			t.Fatal(err)
		}
		first, _, err := tokens.Authenticate(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		second, _, err := tokens.Authenticate(text, nil)
		if err != nil || first != second {
			t.Errorf("at its end, within the minute that clocks may differ: %v, the same user %v", err, first == second)
		}
		time.Sleep(time.Minute + time.Second)
		for range 2 {
			if _, _, err := tokens.Authenticate(text, nil); !errors.Is(err, token.ErrExpired) {
				t.Errorf("expired: %v", err)
			}
		}
		if len(tokens.known) != 0 {
			t.Errorf("%d tokens are known still", len(tokens.known))
		}
	})
}

func TestKnownTokensAreBounded(t *testing.T) {
	tokens := NewTokens(newAuthority(t), []string{api}, there{}.find)
	for i := range 2*knownTokens + 10 {
		var sum [32]byte
		copy(sum[:], fmt.Sprint(i))
		tokens.remember(sum, &knownToken{})
		tokens.remember(sum, &knownToken{})
	}
	if len(tokens.known) != knownTokens || len(tokens.order) != knownTokens {
		t.Errorf("%d known, %d in order", len(tokens.known), len(tokens.order))
	}
}

func BenchmarkAKnownToken(b *testing.B) {
	authority := newAuthority(b)
	w := there{}
	w.add("serviceaccounts", "web", "robot")
	tokens := NewTokens(authority, []string{api}, w.find)
	text, err := authority.Sign(token.Bound(robot(), []string{api}, time.Now(), time.Hour, 0))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := tokens.Authenticate(text, nil); err != nil {
			b.Fatal(err)
		}
	}
}
