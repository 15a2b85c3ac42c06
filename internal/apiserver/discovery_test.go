package apiserver_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/restmapper"
)

func TestDiscoveryClientFindsEveryKindInBothForms(t *testing.T) {
	c := start(t)
	for _, legacy := range []bool{false, true} {
		client, err := discovery.NewDiscoveryClientForConfig(c.admin())
		if err != nil {
			t.Fatal(err)
		}
		client.UseLegacyDiscovery = legacy
		_, lists, err := client.ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]metav1.APIResource{}
		for _, list := range lists {
			for _, r := range list.APIResources {
				found[list.GroupVersion+" "+r.Name] = r
			}
		}
		for _, k := range c.Table.All() {
			r, ok := found[k.GroupVersionKind.GroupVersion().String()+" "+k.Plural]
			if !ok {
				t.Errorf("legacy %v: %s is missing", legacy, k.Plural)
				continue
			}
			if r.Kind != k.Kind || r.Namespaced != k.Namespaced || r.SingularName != k.Singular || !slices.Equal(r.ShortNames, k.ShortNames) ||
				!slices.Equal(r.Categories, k.Categories) || !slices.Equal([]string(r.Verbs), k.ServedVerbs()) {
				t.Errorf("legacy %v: %+v", legacy, r)
			}
		}
		for name, verbs := range map[string]string{
			"v1 pods/log": "get", "v1 pods/exec": "create get", "v1 pods/status": "get patch update", "v1 pods/eviction": "create",
			"v1 bindings": "create", "v1 namespaces/finalize": "update", "events.k8s.io/v1 events": "create delete deletecollection get list patch update watch",
			"authorization.k8s.io/v1 selfsubjectaccessreviews": "create",
		} {
			if got := strings.Join(found[name].Verbs, " "); got != verbs {
				t.Errorf("legacy %v: %s has verbs %q", legacy, name, got)
			}
		}
		if r := found["v1 pods/eviction"]; r.Group != "policy" || r.Version != "v1" || r.Kind != "Eviction" {
			t.Errorf("legacy %v: eviction is %+v", legacy, r)
		}
	}
}

func TestRESTMapperKnowsShortNamesAndScopes(t *testing.T) {
	c := start(t)
	client, err := discovery.NewDiscoveryClientForConfig(c.admin())
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(client)
	if err != nil {
		t.Fatal(err)
	}
	mapping, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(schema.GroupKind{Group: "coordination.k8s.io", Kind: "Lease"})
	if err != nil || mapping.Resource.Resource != "leases" || mapping.Scope.Name() != "namespace" {
		t.Errorf("%+v: %v", mapping, err)
	}
}

func TestDiscoveryDocuments(t *testing.T) {
	c := start(t)
	for path, want := range map[string]string{
		"/api":                    `"versions":["v1"]`,
		"/apis":                   `"preferredVersion":{"groupVersion":"coordination.k8s.io/v1","version":"v1"}`,
		"/apis/events.k8s.io":     `{"kind":"APIGroup","apiVersion":"v1","name":"events.k8s.io"`,
		"/api/v1":                 `"storageVersionHash":"xPOwRZ+Yhw8="`, // upstream's for pods
		"/":                       `"/apis/coordination.k8s.io/v1"`,
		"/apis/events.k8s.io/v1/": `"groupVersion":"events.k8s.io/v1"`,
	} {
		response, body := c.ask("GET", path, "")
		if response.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
	for _, path := range []string{"/api/v2", "/apis/no.such.group", "/apis/events.k8s.io/v2", "/api/v1/nosuchthings", "/foo"} {
		if response, body := c.ask("GET", path, ""); response.StatusCode != 404 {
			t.Errorf("%s: %d %s", path, response.StatusCode, body)
		}
	}
	const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
	response, body := c.ask("GET", "/apis", "", "Accept", accept)
	tag := response.Header.Get("ETag")
	if got := response.Header.Get("Content-Type"); got != "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" || tag == "" {
		t.Errorf("content type %q, tag %q: %s", got, tag, body)
	}
	if response, body = c.ask("GET", "/apis", "", "Accept", accept, "If-None-Match", tag); response.StatusCode != http.StatusNotModified || body != "" {
		t.Errorf("same tag: %d %s", response.StatusCode, body)
	}
	response, body = c.ask("GET", "/api", "", "Accept", strings.Replace(accept, "v=v2", "v=v2beta1", 1))
	if !strings.Contains(body, `"apiVersion":"apidiscovery.k8s.io/v2beta1"`) || !strings.Contains(body, `"subresource":"log"`) {
		t.Errorf("v2beta1: %d %s", response.StatusCode, body)
	}
}

func TestOpenAPI(t *testing.T) {
	c := start(t)
	client, err := discovery.NewDiscoveryClientForConfig(c.admin())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("version 2 in protobuf", func(t *testing.T) {
		doc, err := client.OpenAPISchema()
		if err != nil {
			t.Fatal(err)
		}
		models := map[string]bool{}
		for _, d := range doc.GetDefinitions().GetAdditionalProperties() {
			models[d.GetName()] = true
		}
		for _, want := range []string{"io.k8s.api.core.v1.Pod", "io.k8s.api.coordination.v1.LeaseList", "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"} {
			if !models[want] {
				t.Errorf("%s is missing among %d", want, len(models))
			}
		}
		if len(doc.GetPaths().GetPath()) < 20 {
			t.Errorf("%d paths", len(doc.GetPaths().GetPath()))
		}
	})
	t.Run("version 2 in JSON", func(t *testing.T) {
		response, body := c.ask("GET", "/openapi/v2", "")
		var doc struct {
			Definitions map[string]struct {
				Description string
				Required    []string
				Kinds       []map[string]string `json:"x-kubernetes-group-version-kind"`
				Properties  map[string]map[string]any
			}
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatalf("%d: %v", response.StatusCode, err)
		}
		spec := doc.Definitions["io.k8s.api.core.v1.PodSpec"]
		containers := spec.Properties["containers"]
		if containers["x-kubernetes-patch-merge-key"] != "name" || containers["x-kubernetes-patch-strategy"] != "merge" || containers["type"] != "array" {
			t.Errorf("containers: %v", containers)
		}
		if !slices.Contains(spec.Required, "containers") || slices.Contains(spec.Required, "nodeName") {
			t.Errorf("required: %v", spec.Required)
		}
		if ns := doc.Definitions["io.k8s.api.core.v1.Namespace"]; len(ns.Kinds) != 1 || ns.Kinds[0]["kind"] != "Namespace" || ns.Properties["apiVersion"] == nil {
			t.Errorf("namespace: %+v", ns)
		}
		if v := doc.Definitions["io.k8s.api.core.v1.Volume"]; v.Properties["emptyDir"] == nil || v.Properties["emptyDir"]["description"] == nil {
			t.Errorf("a volume's embedded sources: %v", v.Properties)
		}
	})
	t.Run("version 3", func(t *testing.T) {
		root := openapi3.NewRoot(client.OpenAPIV3())
		spec, err := root.GVSpec(schema.GroupVersion{Version: "v1"})
		if err != nil {
			t.Fatal(err)
		}
		quantity := spec.Components.Schemas["io.k8s.apimachinery.pkg.api.resource.Quantity"]
		if quantity == nil || len(quantity.OneOf) != 2 {
			t.Errorf("quantity: %+v", quantity)
		}
		patch := spec.Paths.Paths["/api/v1/namespaces/{namespace}/pods/{name}"].Patch
		found := false
		for _, p := range patch.Parameters {
			found = found || p.Name == "fieldValidation" && p.In == "query"
		}
		if !found {
			t.Error("a patch has no parameter fieldValidation")
		}
		if spec.Paths.Paths["/api/v1/namespaces"].Get == nil || spec.Paths.Paths["/api/v1/namespaces"].Delete != nil {
			t.Error("what is not served is described, or the other way round")
		}
		if _, err := root.GVSpec(schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}); err != nil {
			t.Error(err)
		}
	})
	t.Run("version 3 is kept by its hash", func(t *testing.T) {
		paths, err := client.OpenAPIV3().Paths()
		if err != nil {
			t.Fatal(err)
		}
		url := paths["api/v1"].ServerRelativeURL()
		response, _ := c.ask("GET", url, "")
		if got := response.Header.Get("Cache-Control"); got != "public, immutable" {
			t.Errorf("%s: cache control %q", url, got)
		}
		response, _ = c.ask("GET", "/openapi/v3/api/v1?hash=OLD", "")
		if response.StatusCode != 200 || response.Request.URL.Query().Get("hash") == "OLD" {
			t.Errorf("an old hash: %d %s", response.StatusCode, response.Request.URL)
		}
	})
}
