package auth

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/token"
)

// Names that Kubernetes gives to what is known of a user besides name and groups.
const (
	ExtraCredential = "authentication.kubernetes.io/credential-id"
	ExtraPodName    = "authentication.kubernetes.io/pod-name"
	ExtraPodUID     = "authentication.kubernetes.io/pod-uid"
	ExtraNodeName   = "authentication.kubernetes.io/node-name"
	ExtraNodeUID    = "authentication.kubernetes.io/node-uid"
)

// ServiceAccounts is the group of all service accounts; with a colon and a namespace, of those in it.
const ServiceAccounts = "system:serviceaccounts"

// Find gives the object of that name as it is now, or nil; resource is "serviceaccounts", "pods", "secrets" or "nodes". It is shared and never changed.
type Find func(resource, namespace, name string) metav1.Object

// Tokens tells whose a token is. It may be used from many goroutines.
//
// That a token is well signed is remembered; that what it is bound to is still there is asked each time.
type Tokens struct {
	authority *token.Authority
	audiences []string
	find      Find
	now       func() time.Time

	mu    sync.Mutex // guards the fields below
	known map[[sha256.Size]byte]*knownToken
	order [][sha256.Size]byte // of known, a ring
	next  int                 // in order
}

// knownTokens is how many tokens are remembered: some for each pod that one machine runs, about a megabyte. Then the one goes that was
// verified first; if it is still in use, that is done again.
const knownTokens = 512

// knownToken is a token whose signature is good.
type knownToken struct {
	claims *token.Claims
	user   *Identity
}

// ErrInvalidated is said of tokens that are bound to what is gone.
var ErrInvalidated = errors.New("service account token has been invalidated")

// NewTokens verifies the authority's tokens for these audiences.
func NewTokens(authority *token.Authority, audiences []string, find Find) *Tokens {
	return &Tokens{authority: authority, audiences: audiences, find: find, now: time.Now, known: map[[sha256.Size]byte]*knownToken{}}
}

// Audiences are those that tokens are verified for if none are asked for: the API's own.
func (t *Tokens) Audiences() []string { return t.audiences }

// Authenticate says whose token it is, and for which of the audiences it is good. No audiences are the API's own. Errors are for whoever
// asks about others' tokens; who shows a bad one himself is told no more than that.
func (t *Tokens) Authenticate(text string, audiences []string) (*Identity, []string, error) {
	now := t.now()
	if id, secret, is := joining(text); is {
		user, err := t.joiner(id, secret, now)
		return user, t.audiences, err
	}
	k, err := t.verify(text, now)
	if err != nil {
		return nil, nil, err
	}
	if len(audiences) == 0 {
		audiences = t.audiences
	}
	claims := *k.claims
	if len(claims.Audience) == 0 {
		claims.Audience = t.audiences
	}
	good := claims.For(audiences)
	if len(good) == 0 {
		return nil, nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(claims.Audience), audiences)
	}
	if err := k.claims.At(now); err != nil {
		return nil, nil, err
	}
	if err := t.bound(&k.claims.Kubernetes, now.Add(-token.Leeway())); err != nil {
		return nil, nil, err
	}
	return k.user, good, nil
}

// verify looks at the signature alone.
func (t *Tokens) verify(text string, now time.Time) (*knownToken, error) {
	sum := sha256.Sum256([]byte(text))
	t.mu.Lock()
	k := t.known[sum]
	if k != nil && errors.Is(k.claims.At(now), token.ErrExpired) {
		delete(t.known, sum)
	}
	t.mu.Unlock()
	if k != nil {
		return k, nil
	}
	claims, err := t.authority.Verify(text)
	if err != nil {
		return nil, err
	}
	k = &knownToken{claims, FromClaims(claims)}
	if claims.At(now) == nil {
		t.remember(sum, k)
	}
	return k, nil
}

func (t *Tokens) remember(sum [sha256.Size]byte, k *knownToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known[sum] != nil {
		return
	}
	if len(t.order) < knownTokens {
		t.order = append(t.order, sum)
	} else {
		delete(t.known, t.order[t.next])
		t.order[t.next] = sum
		t.next = (t.next + 1) % knownTokens
	}
	t.known[sum] = k
}

// bound says whether all that the token is bound to is there, and was not deleted before that time.
func (t *Tokens) bound(b *token.Kubernetes, before time.Time) error {
	deleted := func(o metav1.Object) bool { at := o.GetDeletionTimestamp(); return at != nil && at.Time.Before(before) }
	account := t.find("serviceaccounts", b.Namespace, b.ServiceAccount.Name)
	switch {
	case account == nil:
		return fmt.Errorf("serviceaccounts %q not found", b.ServiceAccount.Name)
	case string(account.GetUID()) != b.ServiceAccount.UID:
		return fmt.Errorf("service account UID (%s) does not match claim (%s)", account.GetUID(), b.ServiceAccount.UID)
	case deleted(account):
		return fmt.Errorf("service account %s/%s has been deleted", b.Namespace, b.ServiceAccount.Name)
	}
	node := b.Node
	if b.Pod != nil {
		node = nil // then it only tells where the pod is
	}
	for _, to := range []struct {
		ref                       *token.Ref
		resource, namespace, word string
	}{
		{b.Secret, "secrets", b.Namespace, "secret"}, {b.Pod, "pods", b.Namespace, "pod"}, {node, "nodes", "", "node"},
	} {
		if to.ref == nil {
			continue
		}
		object := t.find(to.resource, to.namespace, to.ref.Name)
		if object == nil {
			return ErrInvalidated
		}
		if string(object.GetUID()) != to.ref.UID {
			return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", to.word, object.GetUID(), to.word, to.ref.UID)
		}
		if deleted(object) {
			return ErrInvalidated
		}
	}
	return nil
}

// FromClaims is who a token's holder is.
func FromClaims(c *token.Claims) *Identity {
	b := &c.Kubernetes
	user := &Identity{
		Name: token.Subject(b.Namespace, b.ServiceAccount.Name), UID: b.ServiceAccount.UID,
		Groups: []string{ServiceAccounts, ServiceAccounts + ":" + b.Namespace, Authenticated},
		Extra:  map[string][]string{},
	}
	set := func(name, value string) {
		if value != "" {
			user.Extra[name] = []string{value}
		}
	}
	if c.ID != "" {
		set(ExtraCredential, "JTI="+c.ID)
	}
	if b.Pod != nil {
		set(ExtraPodName, b.Pod.Name)
		set(ExtraPodUID, b.Pod.UID)
	}
	if b.Node != nil {
		set(ExtraNodeName, b.Node.Name)
		set(ExtraNodeUID, b.Node.UID)
	}
	return user
}
