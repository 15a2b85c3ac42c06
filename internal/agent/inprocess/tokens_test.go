package inprocess

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/token"
)

func TestTokensOfItsOwnPods(t *testing.T) {
	table := kinds.Table()
	a, create, changes := worldOf(t, table)
	ctx := t.Context()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := token.New(token.DefaultIssuer, key)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(p *corev1.Pod) (*authenticationv1.TokenRequest, error) {
		return a.CreateToken(ctx, "default", "robot", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
		}})
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}}
	accounts, _ := table.ByKind(corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
	if _, err := a.registry.Create(a.as(ctx), accounts, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	mine, other := pod("mine", "n"), pod("other", "elsewhere")
	mine.Spec.ServiceAccountName, other.Spec.ServiceAccountName = "robot", "robot"
	other, mine = create(other), create(mine)
	<-changes // the cache has them
	if _, err := ask(mine); err == nil || !strings.Contains(err.Error(), "nobody makes any here") {
		t.Errorf("without an issuer: %v", err)
	}
	a.SetTokens(tokens.New(table, authority))
	made, err := ask(mine)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := authority.Verify(made.Status.Token)
	if err != nil || claims.Kubernetes.Pod.UID != string(mine.UID) || claims.Kubernetes.Node.Name != "n" {
		t.Errorf("claims %+v, %v", claims, err)
	}
	if _, err := ask(other); err == nil || !strings.Contains(err.Error(), "bound to a pod scheduled on a different node") {
		t.Errorf("another node's pod: %v", err)
	}
}
