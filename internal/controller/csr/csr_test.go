package csr

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
	"sampan.dev/internal/pki"
)

// asked is a request of somebody.
type asked struct {
	signer, user string
	groups       []string
	usages       []certificatesv1.KeyUsage
	template     x509.CertificateRequest
	conditions   []certificatesv1.RequestConditionType
	seconds      *int32
	age          time.Duration
}

var (
	client = []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature}
	server = []certificatesv1.KeyUsage{certificatesv1.UsageServerAuth}
	worker = pkix.Name{CommonName: "system:node:worker", Organization: []string{"system:nodes"}}
)

func (a asked) make(t *testing.T, now time.Time) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &a.template, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r", CreationTimestamp: metav1.NewTime(now.Add(-a.age))},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: a.signer, Username: a.user, Groups: a.groups, Usages: a.usages, ExpirationSeconds: a.seconds,
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		},
	}
	for _, c := range a.conditions {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: c, Status: "True", LastUpdateTime: metav1.NewTime(now.Add(-a.age))})
	}
	return r
}

func TestDecide(t *testing.T) {
	const kubelet, serving, any = certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientSignerName
	joining := asked{signer: kubelet, user: "system:bootstrap:abcdef", groups: []string{bootstrappers}, usages: client, template: x509.CertificateRequest{Subject: worker}}
	renewing := asked{signer: kubelet, user: "system:node:worker", groups: []string{nodes}, usages: client, template: x509.CertificateRequest{Subject: worker}}
	serves := asked{
		signer: serving, user: "system:node:worker", groups: []string{nodes}, usages: server,
		template: x509.CertificateRequest{Subject: worker, DNSNames: []string{"worker"}, IPAddresses: []net.IP{net.ParseIP("192.0.2.7")}},
	}
	there := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker"}}
	there.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeHostName, Address: "worker.example"}}
	with := func(a asked, change func(*asked)) asked {
		change(&a)
		return a
	}
	approved := []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved}
	for name, c := range map[string]struct {
		asked asked
		node  *corev1.Node
		key   string
		want  string // approve, deny, issue, fail, delete or nothing
		life  time.Duration
	}{
		"a new node":                              {asked: joining, want: "approve"},
		"a node's name that nobody has any more":  {asked: joining, key: "another", want: "approve"},
		"a node's name that another key has":      {asked: joining, node: there, key: "another", want: "deny"},
		"a node without a known key":              {asked: joining, node: there, want: "deny"},
		"a node that renews itself":               {asked: renewing, node: there, key: "another", want: "approve"},
		"a node that wants to be another":         {asked: with(renewing, func(a *asked) { a.user = "system:node:thief" }), node: there},
		"somebody without a token":                {asked: with(joining, func(a *asked) { a.groups = nil }), want: ""},
		"a node that wants names, too":            {asked: with(joining, func(a *asked) { a.template.DNSNames = []string{"api"} })},
		"a node that wants more uses":             {asked: with(joining, func(a *asked) { a.usages = append(server, client...) })},
		"a node in more groups":                   {asked: with(joining, func(a *asked) { a.template.Subject.Organization = []string{"system:nodes", "system:masters"} })},
		"a node's server":                         {asked: serves, node: there, want: "approve"},
		"a node's server under its other name":    {asked: with(serves, func(a *asked) { a.template.DNSNames = []string{"worker.example"} }), node: there, want: "approve"},
		"a node's server before it has addresses": {asked: serves},
		"a node's server with another's address":  {asked: with(serves, func(a *asked) { a.template.IPAddresses = []net.IP{net.ParseIP("192.0.2.1")} }), node: there},
		"a node's server with another's name":     {asked: with(serves, func(a *asked) { a.template.DNSNames = []string{"kubernetes.default"} }), node: there},
		"a node's server that a joiner asks for":  {asked: with(serves, func(a *asked) { a.user, a.groups = "system:bootstrap:abcdef", []string{bootstrappers} }), node: there},
		"a person":                                {asked: asked{signer: any, user: "jane", usages: client, template: x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}}},
		"a person with leave":                     {asked: asked{signer: any, usages: client, template: x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, conditions: approved}, want: "issue", life: longest},
		"with leave for an hour":                  {asked: asked{signer: any, usages: client, seconds: new(int32(3600)), conditions: approved}, want: "issue", life: time.Hour},
		"with leave for ten years":                {asked: asked{signer: any, usages: client, seconds: new(int32(315360000)), conditions: approved}, want: "issue", life: longest},
		"with leave to be a server":               {asked: asked{signer: any, usages: server, conditions: approved}, want: "fail"},
		"with leave for what no node is":          {asked: asked{signer: kubelet, usages: client, conditions: approved}, want: "fail"},
		"another signer's":                        {asked: asked{signer: "example.com/other", usages: client, conditions: approved}},
		"denied":                                  {asked: asked{signer: any, usages: client, conditions: []certificatesv1.RequestConditionType{certificatesv1.CertificateDenied}}},
		"denied an hour ago":                      {asked: asked{signer: any, usages: client, conditions: []certificatesv1.RequestConditionType{certificatesv1.CertificateDenied}, age: time.Hour}, want: "delete"},
		"pending for a day":                       {asked: with(joining, func(a *asked) { a.age = 24 * time.Hour }), want: "delete"},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			p := Decide(c.asked.make(t, now), Facts{Node: c.node, Key: c.key, Now: now})
			got := ""
			switch {
			case p.Approve != "":
				got = "approve"
			case p.Deny != "":
				got = "deny"
			case p.Issue != nil:
				if got = "issue"; p.Issue.Life != c.life {
					t.Errorf("for %v, wanted %v", p.Issue.Life, c.life)
				}
			case p.Fail != "":
				got = "fail"
			case p.Delete:
				got = "delete"
			}
			if got != c.want {
				t.Errorf("the plan is %+v, wanted %q", p, c.want)
			}
			if got == "" && p.Again <= 0 {
				t.Error("nobody looks at it again, and it stays for ever")
			}
		})
	}
}

// shelf is the API and the view of it.
type shelf struct {
	mu      sync.Mutex // guards the fields below
	request *certificatesv1.CertificateSigningRequest
	keys    map[string]string
	order   []string
}

func (s *shelf) Request(string) *certificatesv1.CertificateSigningRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.request
}

func (s *shelf) Requests() []*certificatesv1.CertificateSigningRequest {
	return []*certificatesv1.CertificateSigningRequest{s.Request("r")}
}
func (s *shelf) Node(string) *corev1.Node { return nil }
func (s *shelf) Key(node string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[node]
}

func (s *shelf) Delete(context.Context, *certificatesv1.CertificateSigningRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request, s.order = nil, append(s.order, "delete")
	return nil
}

func (s *shelf) SetKey(_ context.Context, node, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[node], s.order = key, append(s.order, "key")
	return nil
}

func (s *shelf) Approval(_ context.Context, _ string, change func(*certificatesv1.CertificateSigningRequest)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request = s.request.DeepCopy()
	change(s.request)
	for i := range s.request.Status.Conditions {
		s.request.Status.Conditions[i].LastUpdateTime = metav1.Now()
	}
	s.order = append(s.order, "approval")
	return nil
}

func (s *shelf) Status(ctx context.Context, name string, change func(*certificatesv1.CertificateSigningRequest)) error {
	err := s.Approval(ctx, name, change)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order[len(s.order)-1] = "status"
	return err
}

func TestARequestFromItsBeginningToItsEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, err := pki.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		joining := asked{signer: certificatesv1.KubeAPIServerClientKubeletSignerName, groups: []string{bootstrappers}, usages: client, template: x509.CertificateRequest{Subject: worker}}
		s := &shelf{request: joining.make(t, time.Now()), keys: map[string]string{}}
		c := New(s, s, ca, nil, nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		for range 3 {
			c.Mark(loop.Key{Name: "r"})
			synctest.Wait()
		}
		block, _ := pem.Decode(s.Request("r").Status.Certificate)
		if block == nil {
			t.Fatalf("it has no certificate: %+v", s.Request("r").Status)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Subject.CommonName != "system:node:worker" || cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 1 {
			t.Errorf("the certificate is %+v", cert)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: time.Now()}); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		if len(s.order) != 3 || s.order[0] != "key" || s.keys["worker"] == "" {
			t.Errorf("it was done in the order %v; the key is remembered first", s.order)
		}
		s.mu.Unlock()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if s.Request("r") != nil {
			t.Error("it stays for ever")
		}
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
