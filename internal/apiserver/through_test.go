package apiserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRequestsGoThroughToNodes(t *testing.T) {
	c, n := startWithNode(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if _, err := c.clients().CoreV1().Nodes().Create(context.Background(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const base = "/api/v1/nodes/n1/proxy"
	for _, q := range []struct{ method, path, asked string }{
		{"GET", "/stats/summary?a=b", "GET /stats/summary?a=b"},
		{"GET", "/", "GET /?"},
		{"POST", "/run/default/p/c", "POST /run/default/p/c?"},
		{"DELETE", "/some/proxy/thing", "DELETE /some/proxy/thing?"},
	} {
		response, body := c.Ask(q.method, base+q.path, "", "Authorization: Bearer secret")
		if response.StatusCode != 200 || body != "first\n" {
			t.Errorf("%s %s: %d %s", q.method, q.path, response.StatusCode, body)
		}
		if got := n.next(); got != "system:apiserver "+q.asked {
			t.Errorf("%s %s: the node was asked %s", q.method, q.path, got)
		}
	}
	// The node's answer is its own, whatever it is.
	if response, body := c.Ask("GET", base+"/waiting", ""); response.StatusCode != http.StatusBadRequest || !strings.HasPrefix(body, "container \"waiting\"") {
		t.Errorf("a refusal: %d %s", response.StatusCode, body)
	}
	n.next()
	if response, _ := c.Ask("GET", base+"?a=b", ""); n.next() != "system:apiserver GET /?a=b" && response.Header.Get("Location") != base+"/?a=b" {
		t.Errorf("without a path: %d to %s", response.StatusCode, response.Header.Get("Location"))
	}
}

func TestWhatIsNotGoneThroughTo(t *testing.T) {
	c, n := startWithNode(t)
	ctx := context.Background()
	services, slices := c.clients().CoreV1().Services("default"), c.clients().DiscoveryV1().EndpointSlices("default")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}}
	if _, err := services.Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, u := range []struct{ path, code, words string }{
		{"/api/v1/namespaces/default/services/own/proxy/", "503", `no endpoints available for service \"own\"`},
		{"/api/v1/namespaces/default/services/own:81/proxy/", "503", `no service port 81 found for service \"own\"`},
		{"/api/v1/namespaces/default/services/none/proxy/", "404", `services \"none\" not found`},
		{"/api/v1/namespaces/default/services/ftp:own:80/proxy/", "400", `invalid service request \"ftp:own:80\"`},
		{"/api/v1/namespaces/default/pods/unbound/proxy/", "400", "address not allowed"},
		{"/api/v1/nodes/none/proxy/", "404", `nodes \"none\" not found`},
	} {
		response, body := c.Ask("GET", u.path, "")
		if response.Status[:3] != u.code || !strings.Contains(body, u.words) {
			t.Errorf("%s: %s %s", u.path, response.Status, body)
		}
	}
	// Nobody asks the server itself in its own name by writing an endpoint: the API refuses such addresses, and so does the way to a pod that claims one.
	pods := c.clients().CoreV1().Pods("default")
	p, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.PodIP, p.Status.PodIPs = "127.0.0.1", []corev1.PodIP{{IP: "127.0.0.1"}}
	if _, err := pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if response, body := c.Ask("GET", "/api/v1/namespaces/default/pods/p:6443/proxy/", ""); response.StatusCode != 400 || !strings.Contains(body, "address not allowed") {
		t.Errorf("a pod that is this machine: %s %s", response.Status, body)
	}
	slice := &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, AddressType: discovery.AddressTypeIPv4, Endpoints: []discovery.Endpoint{{Addresses: []string{"127.0.0.1"}}}}
	if _, err := slices.Create(ctx, slice, metav1.CreateOptions{}); err == nil {
		t.Error("an endpoint that is this machine is taken")
	}
	// Nor does who may not.
	stranger := c.HTTPClient("stranger")
	if response, _ := c.AskAs(stranger, "GET", "/api/v1/nodes/n1/proxy/pods", ""); response.StatusCode != http.StatusForbidden || n.next() != "" {
		t.Errorf("a stranger gets %s", response.Status)
	}
}
