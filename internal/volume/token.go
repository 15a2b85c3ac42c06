package volume

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/token"
)

// Tokens makes a token of a service account. Errors are the API's own.
type Tokens func(ctx context.Context, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)

// When tokens are renewed: after four fifths of the time that was asked for, but after a day at the latest; a little earlier, so that not
// all are renewed at once.
const (
	oldest       = 24 * time.Hour
	spread       = 10 * time.Second
	retryRenewal = time.Minute // after one that failed, while the old token is good
	defaultLife  = time.Hour
)

// token is the file of one token of the volume at path, and when it should be renewed. A token that is there is kept until that time:
// all that there is to know about it, it says itself, also to an agent that was not there when it was made.
func (m *Manager) token(ctx context.Context, path string, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection, mode fs.FileMode) (file, time.Time, error) {
	f := file{mode: mode, uid: onlyUser(pod)}
	if f.uid != nil || pod.Spec.SecurityContext != nil && pod.Spec.SecurityContext.FSGroup != nil {
		f.mode = 0o600 // that user may read it, or the group that all of the volume is given to
	}
	life := defaultLife
	if p.ExpirationSeconds != nil {
		life = time.Duration(*p.ExpirationSeconds) * time.Second
	}
	have, claims := held(path, pod, p)
	now := time.Now()
	if claims != nil {
		if due := renewal(claims, life); now.Before(due) && !now.Before(claims.IssuedAt.Time()) {
			f.data = have
			return f, due, nil
		}
	}
	asked := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: p.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if p.Audience != "" {
		asked.Spec.Audiences = []string{p.Audience}
	}
	made, err := m.request(ctx, pod, asked)
	switch {
	case err == nil:
		f.data = []byte(made.Status.Token)
		claims, err := token.Peek(made.Status.Token)
		if err != nil {
			return file{}, time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
		}
		return f, renewal(claims, life), nil
	case claims == nil:
		return file{}, time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
	case now.After(claims.IssuedAt.Time().Add(life)):
		return file{}, time.Time{}, fmt.Errorf("token %q/%q/%#v/%d/%#v expired and refresh failed: %w",
			pod.Spec.ServiceAccountName, pod.Namespace, asked.Spec.Audiences, int64(life/time.Second), *asked.Spec.BoundObjectRef, err)
	}
	f.data = have
	return f, now.Add(retryRenewal), nil
}

func (m *Manager) request(ctx context.Context, pod *corev1.Pod, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	if m.Tokens == nil {
		return nil, errors.New("this node cannot ask for tokens")
	}
	return m.Tokens(ctx, pod.Namespace, pod.Spec.ServiceAccountName, asked)
}

// held is the token that the volume shows, if it is this pod's and what the pod asks for.
func held(path string, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) ([]byte, *token.Claims) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil
	}
	defer root.Close()
	text, err := root.ReadFile(filepath.Join(dataLink, filepath.Clean(p.Path)))
	if err != nil {
		return nil, nil
	}
	claims, err := token.Peek(string(text))
	if err != nil {
		return nil, nil
	}
	k := &claims.Kubernetes
	switch {
	case k.Pod == nil || k.Pod.UID != string(pod.UID), k.ServiceAccount.Name != pod.Spec.ServiceAccountName,
		p.Audience != "" && len(claims.For([]string{p.Audience})) == 0:
		return nil, nil
	}
	return text, claims
}

// renewal is when a token should be renewed that was asked for that long. It is the same whenever it is asked for.
func renewal(claims *token.Claims, life time.Duration) time.Time {
	h := fnv.New64a()
	h.Write([]byte(claims.ID))
	early := time.Duration(h.Sum64() % uint64(spread))
	return claims.IssuedAt.Time().Add(min(oldest, life-life/5) - early)
}

// onlyUser is the user that all containers of the pod run as, if their spec says so.
func onlyUser(pod *corev1.Pod) *int64 {
	var only *int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var user *int64
			if s := pod.Spec.SecurityContext; s != nil {
				user = s.RunAsUser
			}
			if s := list[i].SecurityContext; s != nil && s.RunAsUser != nil {
				user = s.RunAsUser
			}
			if user == nil || only != nil && *only != *user {
				return nil
			}
			only = user
		}
	}
	return only
}
