package apiserver_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
	"sampan.dev/internal/token"
)

// tokenFor asks for a token of the account default.
func (c *cluster) tokenFor(spec authenticationv1.TokenRequestSpec) string {
	c.t.Helper()
	r, err := c.clients().CoreV1().ServiceAccounts("default").CreateToken(context.Background(), "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Status.Token
}

// podToken is a token that is bound to a pod.
func podToken(p *corev1.Pod, seconds int64) authenticationv1.TokenRequestSpec {
	return authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: &authenticationv1.BoundObjectReference{
		Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID,
	}}
}

// inCluster is a client's configuration as client-go makes it in a pod: the token in a file, the address and the authority, and no more.
func (c *cluster) inCluster(text string) *rest.Config {
	c.t.Helper()
	dir := c.t.TempDir()
	for name, data := range map[string][]byte{"token": []byte(text), "ca.crt": c.PKI.CA()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	return &rest.Config{Host: c.URL, BearerToken: text, BearerTokenFile: filepath.Join(dir, "token"), TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "ca.crt")}}
}

func TestAPodCallsTheAPI(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	admin := c.clients()
	node, err := admin.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := pod("a")
	p.Spec.NodeName = "n1"
	if p, err = admin.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	me := c.typed(c.inCluster(c.tokenFor(podToken(p, token.InjectedSeconds))))
	if _, err := me.Discovery().ServerVersion(); err != nil {
		t.Error(err)
	}
	if _, err := me.Discovery().ServerGroups(); err != nil {
		t.Error(err)
	}
	self, err := me.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u := self.Status.UserInfo
	if u.Username != "system:serviceaccount:default:default" || u.UID == "" ||
		!reflect.DeepEqual(u.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"}) ||
		!strings.HasPrefix(u.Extra[auth.ExtraCredential][0], "JTI=") || u.Extra[auth.ExtraPodName][0] != "a" || u.Extra[auth.ExtraPodUID][0] != string(p.UID) ||
		u.Extra[auth.ExtraNodeName][0] != "n1" || u.Extra[auth.ExtraNodeUID][0] != string(node.UID) {
		t.Errorf("user %+v", u)
	}
	_, err = me.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "system:serviceaccount:default:default" cannot list resource "pods" in API group "" in the namespace "default"`) {
		t.Errorf("it listed pods: %v", err)
	}
	if err := admin.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	if _, err := me.Discovery().ServerVersion(); !apierrors.IsUnauthorized(err) {
		t.Errorf("the pod is gone, and its token is good: %v", err)
	}
}

func TestATokenEndsWithWhatItIsBoundTo(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	core := c.clients().CoreV1()
	if _, err := core.Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		kind, name string
		extra      string // that tells what it is bound to, if anything does
		end        func() error
	}{
		{"Secret", "s", "", func() error { return core.Secrets("default").Delete(ctx, "s", metav1.DeleteOptions{}) }},
		{"Node", "n1", auth.ExtraNodeName, func() error { return core.Nodes().Delete(ctx, "n1", metav1.DeleteOptions{}) }},
		{"ServiceAccount", "default", "", func() error { return core.ServiceAccounts("default").Delete(ctx, "default", metav1.DeleteOptions{}) }},
	} {
		spec := authenticationv1.TokenRequestSpec{}
		if q.kind != "ServiceAccount" {
			spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: q.kind, APIVersion: "v1", Name: q.name}
		}
		text := c.tokenFor(spec)
		me := c.typed(c.inCluster(text))
		self, err := me.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("%s: %v", q.kind, err)
		}
		if q.extra != "" && self.Status.UserInfo.Extra[q.extra][0] != q.name {
			t.Errorf("%s: %+v", q.kind, self.Status.UserInfo)
		}
		if err := q.end(); err != nil {
			t.Fatal(err)
		}
		if _, err := me.Discovery().ServerVersion(); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s is gone, and the token is good: %v", q.kind, err)
		}
		review, err := c.clients().AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: text}}, metav1.CreateOptions{})
		want := "[invalid bearer token, service account token has been invalidated]"
		if q.kind == "ServiceAccount" {
			want = `[invalid bearer token, serviceaccounts "default" not found]`
		}
		if err != nil || review.Status.Error != want {
			t.Errorf("%s: %+v, %v", q.kind, review.Status, err)
		}
	}
}

func TestRefusedTokensAreAnsweredAlike(t *testing.T) {
	c := start(t)
	good := c.tokenFor(authenticationv1.TokenRequestSpec{})
	other := c.tokenFor(authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	nobody := c.HTTPClient("")
	for _, q := range []struct {
		name, header string
		code         int
	}{
		{"a good one", "Bearer " + good, 200},
		{"the scheme in small letters", "bearer " + good, 200},
		{"something behind it", "Bearer " + good + " x", 200},
		{"for somebody else", "Bearer " + other, 401},
		{"cut off", "Bearer " + good[:len(good)-1], 401},
		{"none at all, which is anonymous", "Bearer", 403},
		{"a password, which nobody looks at", "Basic eDp5", 403},
	} {
		response, body := c.AskAs(nobody, "GET", "/api", "", "Authorization", q.header)
		if response.StatusCode != q.code {
			t.Errorf("%s: %d %s", q.name, response.StatusCode, body)
		}
		want := `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}` + "\n"
		if q.code == 401 && body != want {
			t.Errorf("%s: %s", q.name, body)
		}
	}
	response, body := c.AskAs(c.HTTPClient("admin", auth.Masters), "GET", "/metrics", "", "Authorization", "Bearer x")
	if response.StatusCode != 200 {
		t.Errorf("a good certificate beside a bad token: %d %s", response.StatusCode, body)
	}
	response, _ = c.AskAs(nobody, "GET", "/version", "", "Authorization", "Bearer  "+good)
	if got := response.Header.Get("Warning"); !strings.Contains(got, "the provided Authorization header contains extra space before the bearer token, and is ignored") {
		t.Errorf("two spaces: warning %q", got)
	}
}

func TestTokenRequests(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	admin := c.clients()
	p, err := admin.CoreV1().Pods("default").Create(ctx, pod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, q := range []struct {
		name, account, body string
		code                int
		want                string
	}{
		{"nothing said", "default", `{}`, 201, `"expirationSeconds":3600`},
		{"the API is whom it is for", "default", `{}`, 201, `"audiences":["https://kubernetes.default.svc.cluster.local"]`},
		{"a secret to be bound to", "robot", `{"spec":{"boundObjectRef":{"kind":"Secret","apiVersion":"v1","name":"s"}}}`, 201, `"token":"ey`},
		{"an account that is not there", "ghost", `{}`, 404, `serviceaccounts \"ghost\" not found`},
		{"too short", "default", `{"spec":{"expirationSeconds":599}}`, 422, `TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{"too long", "default", `{"spec":{"expirationSeconds":4294967297}}`, 422, `may not specify a duration larger than 2^32 seconds`},
		{"another name", "default", `{"metadata":{"name":"robot"}}`, 422, `metadata.name: Invalid value: \"robot\": must match the service account name if specified`},
		{"another namespace", "default", `{"metadata":{"namespace":"web"}}`, 400, `the namespace of the provided object does not match the namespace sent on the request`},
		{"another uid", "default", `{"metadata":{"uid":"u"}}`, 409, `the UID in the token request (u) does not match the UID of the service account (`},
		{"a pod that is not there", "default", `{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"b"}}}`, 404, `pods \"b\" not found`},
		{"a pod of another account", "robot", `{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"a"}}}`, 400, `cannot bind token for serviceaccount \"robot\" to pod running with different serviceaccount name.`},
		{"a pod of another uid", "default", `{"spec":{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"a","uid":"u"}}}`, 409, `Operation cannot be fulfilled on Pod \"a\": the UID in the bound object reference (u) does not match the UID in record. The object might have been deleted and then recreated`},
		{"a node that is not there", "default", `{"spec":{"boundObjectRef":{"kind":"Node","apiVersion":"v1","name":"n1"}}}`, 404, `nodes \"n1\" not found`},
		{"what nothing is bound to", "default", `{"spec":{"boundObjectRef":{"kind":"Deployment","apiVersion":"apps/v1","name":"a"}}}`, 400, `cannot bind token to object of type apps/v1, Kind=Deployment`},
		{"another kind", "default", `{"kind":"Pod","apiVersion":"v1"}`, 400, ``},
	} {
		response, body := c.ask("POST", "/api/v1/namespaces/default/serviceaccounts/"+q.account+"/token", q.body)
		if response.StatusCode != q.code || !strings.Contains(body, q.want) {
			t.Errorf("%s: %d %s", q.name, response.StatusCode, body)
		}
	}
	if response, body := c.ask("GET", "/api/v1/namespaces/default/serviceaccounts/default/token", ""); response.StatusCode != 405 {
		t.Errorf("read a token: %d %s", response.StatusCode, body)
	}
	for _, q := range []struct {
		name       string
		spec       authenticationv1.TokenRequestSpec
		good, warn time.Duration // from now on
	}{
		{"what each pod has lives for a year, and should be renewed in an hour", podToken(p, 3607), 365 * 24 * time.Hour, 3607 * time.Second},
		{"another time is taken at its word", podToken(p, 3600), time.Hour, 0},
		{"so is what is bound to no pod", authenticationv1.TokenRequestSpec{ExpirationSeconds: func() *int64 { s := int64(3607); return &s }()}, 3607 * time.Second, 0},
		{"and what is for others", func() authenticationv1.TokenRequestSpec {
			s := podToken(p, 3607)
			s.Audiences = []string{"vault"}
			return s
		}(), 3607 * time.Second, 0},
	} {
		claims, err := token.Peek(c.tokenFor(q.spec))
		if err != nil {
			t.Fatal(err)
		}
		if got := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); got != q.good {
			t.Errorf("%s: good for %v", q.name, got)
		}
		warn := time.Duration(0)
		if claims.Kubernetes.WarnAfter != 0 {
			warn = claims.Kubernetes.WarnAfter.Time().Sub(claims.IssuedAt.Time())
		}
		if warn != q.warn {
			t.Errorf("%s: warns after %v", q.name, warn)
		}
	}
}

func TestANodeGetsTokensForItsPods(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	mine, other := pod("mine"), pod("other")
	mine.Spec.NodeName, other.Spec.NodeName = "n1", "n2"
	mine.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault", Path: "t"}},
	}}}}}
	for _, p := range []**corev1.Pod{&mine, &other} {
		made, err := c.clients().CoreV1().Pods("default").Create(ctx, *p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		*p = made
	}
	n1 := c.typed(c.config("system:node:n1", auth.Nodes))
	with := func(spec authenticationv1.TokenRequestSpec, change func(*authenticationv1.TokenRequestSpec)) authenticationv1.TokenRequestSpec {
		change(&spec)
		return spec
	}
	for _, q := range []struct {
		name string
		spec authenticationv1.TokenRequestSpec
		want string // part of the error
	}{
		{"its pod's", podToken(mine, 3607), ""},
		{"for what its pod asks for", with(podToken(mine, 3607), func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"vault"} }), ""},
		{"for others", with(podToken(mine, 3607), func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"bank"} }), `serviceaccounts "default" is forbidden: audience "bank" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`},
		{"for several", with(podToken(mine, 3607), func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"vault", "bank"} }), `node may only request 0 or 1 audiences`},
		{"bound to nothing", authenticationv1.TokenRequestSpec{}, `node requested token not bound to a pod`},
		{"without a uid", with(podToken(mine, 3607), func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef.UID = "" }), `node requested token with a pod binding without a uid`},
		{"another uid", with(podToken(mine, 3607), func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef.UID = "u" }), `is forbidden: the UID in the bound object reference (u) does not match the UID in record`},
		{"another node's pod's", podToken(other, 3607), `node requested token bound to a pod scheduled on a different node`},
	} {
		_, err := n1.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: q.spec}, metav1.CreateOptions{})
		if (err == nil) != (q.want == "") || err != nil && !strings.Contains(err.Error(), q.want) {
			t.Errorf("%s: %v", q.name, err)
		}
	}
	_, err := n1.CoreV1().ServiceAccounts("kube-system").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: podToken(mine, 3607)}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no relationship found between node 'n1' and this object") {
		t.Errorf("an account that no pod of it has: %v", err)
	}
}

func TestTokenReviews(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	reviews := c.clients().AuthenticationV1().TokenReviews()
	forVault := c.tokenFor(authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	review := func(text string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		r, err := reviews.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: text, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	got := review(forVault, "bank", "vault")
	if !got.Authenticated || got.User.Username != "system:serviceaccount:default:default" || got.User.UID == "" || !reflect.DeepEqual(got.Audiences, []string{"vault"}) || got.Error != "" {
		t.Errorf("status %+v", got)
	}
	if got := review(c.tokenFor(authenticationv1.TokenRequestSpec{})); !got.Authenticated || got.Audiences[0] != token.DefaultIssuer {
		t.Errorf("status %+v", got)
	}
	if got := review(forVault); got.Authenticated || got.User.Username != "" ||
		got.Error != `[invalid bearer token, token audiences ["vault"] is invalid for the target audiences ["https://kubernetes.default.svc.cluster.local"]]` {
		t.Errorf("status %+v", got)
	}
	if got := review("x"); got.Authenticated || got.Error != "invalid bearer token" {
		t.Errorf("status %+v", got)
	}
	_, err := reviews.Create(ctx, &authenticationv1.TokenReview{}, metav1.CreateOptions{})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "token is required for TokenReview in authentication") {
		t.Errorf("no token: %v", err)
	}
}

func TestOthersCanVerifyTokens(t *testing.T) {
	c := start(t, func(cfg *apiserver.Config) { cfg.Address = netip.MustParseAddrPort("192.0.2.1:6443") })
	me := c.tokenFor(authenticationv1.TokenRequestSpec{})
	nobody := c.HTTPClient("")
	for _, q := range []struct{ path, kind, want string }{
		{"/.well-known/openid-configuration", "application/json", `"issuer":"https://kubernetes.default.svc.cluster.local","jwks_uri":"https://192.0.2.1:6443/openid/v1/jwks"`},
		{"/openid/v1/jwks", "application/jwk-set+json", `"kty":"EC"`},
		{"/openid/v1/jwks/", "application/jwk-set+json", `"kty":"EC"`},
	} {
		response, body := c.AskAs(nobody, "GET", q.path, "", "Authorization", "Bearer "+me)
		if response.StatusCode != 200 || response.Header.Get("Content-Type") != q.kind || response.Header.Get("Cache-Control") != "public, max-age=3600" || !strings.Contains(body, q.want) {
			t.Errorf("%s: %d %v %s", q.path, response.StatusCode, response.Header, body)
		}
		if response, _ := c.AskAs(nobody, "GET", q.path, ""); response.StatusCode != 403 {
			t.Errorf("%s for nobody: %d", q.path, response.StatusCode)
		}
	}
	if response, _ := c.ask("POST", "/openid/v1/jwks", ""); response.StatusCode != 405 {
		t.Errorf("POST: %d", response.StatusCode)
	}
	if response, _ := c.ask("GET", "/openid/v2", ""); response.StatusCode != 404 {
		t.Errorf("what is not there: %d", response.StatusCode)
	}
}

func TestTokensAreDiscovered(t *testing.T) {
	c := start(t)
	_, body := c.ask("GET", "/api/v1", "")
	var list metav1.APIResourceList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list.APIResources {
		if r.Name == "serviceaccounts/token" {
			if !r.Namespaced || r.Group != "authentication.k8s.io" || r.Version != "v1" || r.Kind != "TokenRequest" || strings.Join(r.Verbs, " ") != "create" {
				t.Errorf("%+v", r)
			}
			return
		}
	}
	t.Error("serviceaccounts/token is missing")
}

func TestWithoutAKeyThereAreNoTokens(t *testing.T) {
	c := start(t, func(cfg *apiserver.Config) { cfg.Tokens = nil })
	for path, code := range map[string]int{"/api/v1/namespaces/default/serviceaccounts/default/token": 404, "/openid/v1/jwks": 404} {
		if response, body := c.ask(http.MethodPost, path, `{}`); response.StatusCode != code {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
	if response, _ := c.AskAs(c.HTTPClient(""), "GET", "/version", "", "Authorization", "Bearer x"); response.StatusCode != 401 {
		t.Errorf("a token: %d", response.StatusCode)
	}
}
