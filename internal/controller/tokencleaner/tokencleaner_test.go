package tokencleaner

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/loop"
)

type shelf map[string]*corev1.Secret

func (s shelf) Secret(key loop.Key) *corev1.Secret { return s[key.String()] }

func (s shelf) DeleteSecret(_ context.Context, o *corev1.Secret) error {
	delete(s, o.Namespace+"/"+o.Name)
	return nil
}

func TestTokensGoWhenTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := shelf{}
		c := New(s, s, nil, nil)
		put := func(namespace, name string, kind corev1.SecretType, end string) {
			o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: kind, Data: map[string][]byte{}}
			if end != "" {
				o.Data[auth.BootstrapExpiration] = []byte(end)
			}
			s[namespace+"/"+name] = o
			c.Mark(loop.Key{Namespace: namespace, Name: name})
		}
		in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
		put("kube-system", "soon", auth.BootstrapType, in(time.Minute))
		put("kube-system", "past", auth.BootstrapType, in(-time.Minute))
		put("kube-system", "garbled", auth.BootstrapType, "tomorrow")
		put("kube-system", "lasting", auth.BootstrapType, "")
		put("kube-system", "other", corev1.SecretTypeOpaque, in(-time.Minute))
		put("default", "elsewhere", auth.BootstrapType, in(-time.Minute))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		left := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for name := range s {
				got = append(got, name)
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("left are %v, wanted %v", got, want)
			}
		}
		left("default/elsewhere", "kube-system/lasting", "kube-system/other", "kube-system/soon")
		time.Sleep(time.Minute + time.Second)
		left("default/elsewhere", "kube-system/lasting", "kube-system/other")
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
