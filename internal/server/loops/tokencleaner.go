package loops

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/controller/tokencleaner"
	"sampan.dev/internal/loop"
	"sampan.dev/internal/resource"
)

// tokenCleaner is the controller of join tokens.
func tokenCleaner(w *world) part {
	s := joinTokens{w, w.kindOf(corev1.SchemeGroupVersion.WithKind("Secret"))}
	c := tokencleaner.New(s, s, w.Queues, w.Log)
	return part{account: "token-cleaner", run: c.Run, on: map[*resource.Kind]func(change){
		s.kind: func(ch change) {
			if ch.new != nil && ch.key.Namespace == auth.BootstrapNamespace {
				c.Mark(ch.key)
			}
		},
	}}
}

// joinTokens shows secrets to their controller.
type joinTokens struct {
	*world
	kind *resource.Kind
}

func (j joinTokens) Secret(key loop.Key) *corev1.Secret {
	return get[*corev1.Secret](j.world, j.kind, key.Namespace, key.Name)
}

func (j joinTokens) DeleteSecret(ctx context.Context, s *corev1.Secret) error {
	return j.delete(ctx, j.kind, s.Namespace, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
}
