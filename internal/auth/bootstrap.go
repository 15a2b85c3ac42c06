package auth

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Names of what a join token is kept by (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/).
const (
	BootstrapNamespace = "kube-system"
	BootstrapPrefix    = "bootstrap-token-" // of the Secret's name, before the token's id
	BootstrapType      = corev1.SecretTypeBootstrapToken

	BootstrapID          = "token-id"
	BootstrapSecret      = "token-secret"
	BootstrapExpiration  = "expiration" // RFC 3339; without it, it does not end
	BootstrapDescription = "description"
	BootstrapForAPI      = "usage-bootstrap-authentication" // "true"
	BootstrapGroups      = "auth-extra-groups"              // with commas
)

var (
	joinToken  = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	joinGroup  = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
	errJoining = errors.New("the join token is not known, or has expired")
)

// joining reads a join token.
func joining(text string) (id, secret string, is bool) {
	m := joinToken.FindStringSubmatch(text)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// joiner is who holds a join token.
func (t *Tokens) joiner(id, secret string, now time.Time) (*Identity, error) {
	o, is := t.find("secrets", BootstrapNamespace, BootstrapPrefix+id).(*corev1.Secret)
	if !is || o == nil || o.Type != BootstrapType || o.DeletionTimestamp != nil {
		return nil, errJoining
	}
	if string(o.Data[BootstrapID]) != id || subtle.ConstantTimeCompare(o.Data[BootstrapSecret], []byte(secret)) != 1 || BootstrapExpired(o, now) {
		return nil, errJoining
	}
	if string(o.Data[BootstrapForAPI]) != "true" {
		return nil, fmt.Errorf("the join token %s is not for the API", id)
	}
	user := &Identity{Name: "system:bootstrap:" + id, Groups: []string{Bootstrappers, Authenticated}}
	for group := range strings.SplitSeq(string(o.Data[BootstrapGroups]), ",") {
		switch group = strings.TrimSpace(group); {
		case group == "":
		case !joinGroup.MatchString(group):
			return nil, fmt.Errorf("the join token %s has the group %q, which it may not have", id, group)
		default:
			user.Groups = append(user.Groups, group)
		}
	}
	return user, nil
}

// BootstrapExpired says whether a join token has ended. One whose end cannot be read has.
func BootstrapExpired(o *corev1.Secret, now time.Time) bool {
	text := string(o.Data[BootstrapExpiration])
	if text == "" {
		return false
	}
	end, err := time.Parse(time.RFC3339, text)
	return err != nil || !now.Before(end)
}
