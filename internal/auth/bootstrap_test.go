package auth

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestJoinTokens(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	good := map[string]string{BootstrapID: "abcdef", BootstrapSecret: "0123456789abcdef", BootstrapForAPI: "true", BootstrapGroups: "system:bootstrappers:workers, system:bootstrappers:a-b"}
	for name, c := range map[string]struct {
		text string
		data map[string]string // besides what is good
		kind corev1.SecretType
		want string // groups, or "" for nobody
	}{
		"a good one":                       {text: "abcdef.0123456789abcdef", want: "[system:bootstrappers system:authenticated system:bootstrappers:workers system:bootstrappers:a-b]"},
		"one that ends later":              {text: "abcdef.0123456789abcdef", data: map[string]string{BootstrapExpiration: "2026-01-02T03:04:06Z", BootstrapGroups: ""}, want: "[system:bootstrappers system:authenticated]"},
		"one that has ended":               {text: "abcdef.0123456789abcdef", data: map[string]string{BootstrapExpiration: "2026-01-02T03:04:05Z"}},
		"one whose end cannot be read":     {text: "abcdef.0123456789abcdef", data: map[string]string{BootstrapExpiration: "tomorrow"}},
		"another secret":                   {text: "abcdef.0123456789abcdee"},
		"another id":                       {text: "abcdeg.0123456789abcdef"},
		"one of another id in its place":   {text: "abcdef.0123456789abcdef", data: map[string]string{BootstrapID: "zzzzzz"}},
		"one that is not for the API":      {text: "abcdef.0123456789abcdef", data: map[string]string{BootstrapForAPI: "false"}},
		"one with a group it may not have": {text: "abcdef.0123456789abcdef", data: map[string]string{BootstrapGroups: "system:masters"}},
		"a secret of another kind":         {text: "abcdef.0123456789abcdef", kind: corev1.SecretTypeOpaque},
		"capital letters":                  {text: "ABCDEF.0123456789abcdef"},
	} {
		t.Run(name, func(t *testing.T) {
			secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: BootstrapNamespace, Name: BootstrapPrefix + "abcdef"}, Type: BootstrapType, Data: map[string][]byte{}}
			if c.kind != "" {
				secret.Type = c.kind
			}
			for _, data := range []map[string]string{good, c.data} {
				for k, v := range data {
					secret.Data[k] = []byte(v)
				}
			}
			tokens := &Tokens{now: func() time.Time { return now }, find: func(resource, namespace, name string) metav1.Object {
				if resource == "secrets" && namespace == secret.Namespace && name == secret.Name {
					return secret
				}
				return nil
			}}
			id, password, is := joining(c.text)
			got := ""
			if is {
				if user, err := tokens.joiner(id, password, now); err == nil {
					got = fmt.Sprint(user.Groups)
					if user.Name != "system:bootstrap:abcdef" {
						t.Errorf("it is %s's", user.Name)
					}
				}
			}
			if got != c.want {
				t.Errorf("groups %q, wanted %q", got, c.want)
			}
		})
	}
}
