package apiserver

import (
	"errors"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/token"
)

// accounts is what the server knows of service accounts' tokens; nil if it takes and makes none.
type accounts struct {
	issuer   *tokens.Issuer
	verifier *auth.Tokens
}

func newAccounts(s *Server, issuer *tokens.Issuer) *accounts {
	if issuer == nil {
		return nil
	}
	return &accounts{issuer, auth.NewTokens(issuer.Authority, issuer.Audiences, func(resource, namespace, name string) metav1.Object {
		return issuer.Find(s.cache.Snapshot(), resource, namespace, name)
	})}
}

// errBearer is what is said of a token that is no service account's. Who asks about a token is told more than who shows it.
var errBearer = errors.New("invalid bearer token")

// bearer finds the token in a request; there is none if the header is something else.
func bearer(r *http.Request) (text string, ok bool) {
	parts := strings.SplitN(strings.TrimSpace(r.Header.Get("Authorization")), " ", 3)
	if len(parts) < 2 || !strings.EqualFold(parts[0], "bearer") {
		return "", false
	}
	if parts[1] == "" {
		if len(parts) == 3 {
			warningsOf(r.Context()).add("the provided Authorization header contains extra space before the bearer token, and is ignored")
		}
		return "", false
	}
	return parts[1], true
}

// authenticate says whose token it is, in the words that TokenReview has for its errors.
func (s *Server) authenticate(text string, audiences []string) (*auth.Identity, []string, error) {
	if s.accounts == nil {
		return nil, nil, errBearer
	}
	user, good, err := s.accounts.verifier.Authenticate(text, audiences)
	switch {
	case errors.Is(err, token.ErrMalformed) || errors.Is(err, token.ErrOtherIssuer):
		return nil, nil, errBearer
	case err != nil:
		return nil, nil, errorf("[%w, %w]", errBearer, err)
	}
	return user, good, nil
}

// createToken makes a token of a service account.
func (s *Server) createToken(w http.ResponseWriter, r *http.Request, c *call) error {
	if s.accounts == nil {
		http.NotFound(w, r)
		return nil
	}
	var asked authenticationv1.TokenRequest
	if err := decodeReview(r, tokens.Kind, &asked); err != nil {
		return err
	}
	if asked.Namespace != "" && asked.Namespace != c.namespace {
		return bad("the namespace of the provided object does not match the namespace sent on the request")
	}
	snap, err := s.fresh(r.Context())
	if err != nil {
		return err
	}
	made, err := s.accounts.issuer.Issue(snap, auth.User(r.Context()), c.namespace, c.name, &asked)
	if err != nil {
		return err
	}
	return s.created(w, r, made)
}

// reviewToken tells somebody whose token it is that somebody else has shown.
func (s *Server) reviewToken(w http.ResponseWriter, r *http.Request, c *call) error {
	var review authenticationv1.TokenReview
	if err := decodeReview(r, authenticationv1.SchemeGroupVersion.WithKind("TokenReview"), &review); err != nil {
		return err
	}
	if review.Spec.Token == "" {
		return bad("token is required for TokenReview in authentication")
	}
	if _, err := s.fresh(r.Context()); err != nil { // what it is bound to may be new
		return err
	}
	review.Status = authenticationv1.TokenReviewStatus{}
	user, good, err := s.authenticate(strings.TrimSpace(review.Spec.Token), review.Spec.Audiences)
	if err != nil {
		review.Status.Error = err.Error()
	} else {
		review.Status.Authenticated, review.Status.User, review.Status.Audiences = true, userInfo(user), good
	}
	return s.created(w, r, &review)
}

// userInfo is a user as reviews show it.
func userInfo(user *auth.Identity) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: user.Name, UID: user.UID, Groups: user.Groups}
	if len(user.Extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(user.Extra))
		for k, v := range user.Extra {
			info.Extra[k] = v
		}
	}
	return info
}

// openID serves the documents by which others verify tokens.
func (s *Server) openID(w http.ResponseWriter, r *http.Request) error {
	if s.accounts == nil {
		http.NotFound(w, r)
		return nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "405: Method Not Allowed", http.StatusMethodNotAllowed)
		return nil
	}
	var data []byte
	var err error
	kind := "application/json"
	switch authority := s.accounts.issuer.Authority; strings.TrimSuffix(r.URL.Path, "/") {
	case token.ConfigurationPath:
		data, err = authority.Configuration("https://" + s.cfg.Address.String() + token.KeysPath)
	case token.KeysPath:
		data, err = authority.Keys()
		kind = "application/jwk-set+json"
	default:
		http.NotFound(w, r)
		return nil
	}
	if err != nil {
		return errorf("serve %s: %w", r.URL.Path, err)
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(data) // what fails now is the client's connection
	return nil
}
