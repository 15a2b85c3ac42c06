package apiserver

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/resource/kinds"
)

func podCall(t testing.TB) (*Server, *call) {
	table := kinds.Table()
	c := &call{target: target{verb: "list", version: "v1", resource: "pods", namespace: "default", name: "p", isResource: true}}
	if c.kind, c.as = table.ByResource(c.gvr()); c.kind == nil {
		t.Fatal("no pods")
	}
	return &Server{table: table, codecs: newCodecs(table.Codecs())}, c
}

// blames says that an error is one that the client is told it is to blame for.
func blames(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if s := statusOf(err); s.Code < 400 || s.Code > 499 || s.Message == "" {
		t.Errorf("code %d: %v", s.Code, err)
	}
}

func FuzzBody(f *testing.F) {
	f.Add(byte(0), []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}]}}`))
	f.Add(byte(1), []byte("kind: Pod\nmetadata:\n  name: p\n  labels: &a {x: y}\n"))
	f.Add(byte(2), []byte("k8s\x00\n\x09\n\x02v1\x12\x03Pod\x12\x05\n\x03\n\x01p\x1a\x00\"\x00"))
	s, c := podCall(f)
	f.Fuzz(func(t *testing.T, form byte, data []byte) {
		obj, err := s.decodeObject(c, format(form%3), data, metav1.FieldValidationStrict, &warnings{})
		blames(t, err)
		if err == nil && obj == nil {
			t.Error("neither object nor error")
		}
		var o metav1.DeleteOptions
		blames(t, decodeOptions(format(form%3), data, &o))
	})
}

func FuzzQuery(f *testing.F) {
	for _, q := range []string{
		"labelSelector=a%3Db,c+in+(d,e)&fieldSelector=metadata.name%3Dp&limit=3&continue=abc", "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
		"resourceVersion=12&resourceVersionMatch=Exact&timeoutSeconds=-4", "tailLines=1&sinceTime=2026-01-02T03:04:05Z&follow",
	} {
		f.Add("/api/v1/namespaces/default/pods/p/log", q)
		f.Add("/apis/coordination.k8s.io/v1/leases", q)
	}
	_, c := podCall(f)
	f.Fuzz(func(t *testing.T, path, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL = &url.URL{Path: path, RawQuery: query}
		found := parsePath(r)
		found.fieldName(r)
		if found.isResource && (found.verb == "" || found.version == "") {
			t.Errorf("%+v", found)
		}
		for _, verb := range []string{"list", "watch"} {
			each := *c
			each.verb = verb
			_, err := each.listOptions(r)
			blames(t, err)
		}
		var o corev1.PodLogOptions
		blames(t, logOptions(r.URL.Query(), &o))
		if token, err := parseContinue(r.URL.Query().Get("continue")); err == nil && strings.Contains(token.Start, "..") && strings.Contains(token.Start, "/../") {
			t.Errorf("climbs: %q", token.Start)
		}
	})
}

func FuzzAccept(f *testing.F) {
	for _, a := range []string{"application/json;as=Table;v=v1;g=meta.k8s.io, */*;q=0.5", "text/*", "*", ";q=,/", "application/json;q=NaN"} {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Accept"] = []string{accept}
		m, err := negotiate(r, allowObjects)
		blames(t, err)
		if err == nil && m.as == "Table" && m.format == asProtobuf {
			t.Error("a table in protobuf")
		}
	})
}

func FuzzPatch(f *testing.F) {
	for i, p := range []string{
		`[{"op":"add","path":"/metadata/labels","value":{}},{"op":"move","from":"/spec","path":"/x"},{"op":"copy","from":"/spec/containers/0","path":"/spec/containers/-"}]`,
		`{"spec":{"containers":null}}`, `{"spec":{"containers":[{"name":"c","$patch":"delete"}],"$setElementOrder/containers":[{"name":"c"}],"$retainKeys":["containers"]}}`,
	} {
		f.Add(byte(i), []byte(p))
	}
	_, c := podCall(f)
	old := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", ResourceVersion: "5"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}},
	}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		p := &patcher{c: c, kind: types.PatchType(patchTypes[int(kind)%len(patchTypes)]), data: data, directive: metav1.FieldValidationWarn, warn: warningsOf(context.Background())}
		next, err := p.safely(old)
		if err != nil {
			blames(t, asBad(err))
		} else if next.GetName() != "p" || next.GetNamespace() != "default" {
			t.Errorf("another object: %s/%s", next.GetNamespace(), next.GetName())
		}
		if old.Name != "p" || len(old.Spec.Containers) != 1 || old.Spec.Containers[0].Image != "i" {
			t.Fatal("the patch changed what it was applied to")
		}
	})
}
