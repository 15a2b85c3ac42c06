package apiserver_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
)

func (c *cluster) makeMaps(names ...string) {
	c.t.Helper()
	for _, name := range names {
		if _, err := c.clients().CoreV1().ConfigMaps("default").Create(context.Background(), configMap(name, "1"), metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

func names(list *corev1.ConfigMapList) (all []string) {
	for _, o := range list.Items {
		all = append(all, o.Name)
	}
	return all
}

func TestPagesShowOneState(t *testing.T) {
	c := start(t)
	c.makeMaps("a", "b", "c", "d", "e")
	ctx, maps := context.Background(), c.clients().CoreV1().ConfigMaps("default")
	first, err := maps.List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil || !slices.Equal(names(first), []string{"a", "b"}) || first.Continue == "" || first.RemainingItemCount == nil || *first.RemainingItemCount != 3 {
		t.Fatalf("first page %+v: %v", first, err)
	}
	if err := maps.Delete(ctx, "c", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.makeMaps("cc")
	second, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: first.Continue})
	if err != nil || !slices.Equal(names(second), []string{"c", "d"}) || second.ResourceVersion != first.ResourceVersion {
		t.Fatalf("second page %v at %s: %v", names(second), second.ResourceVersion, err)
	}
	third, err := maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: second.Continue})
	if err != nil || !slices.Equal(names(third), []string{"e"}) || third.Continue != "" || third.RemainingItemCount != nil {
		t.Errorf("third page %+v: %v", third, err)
	}
	old, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil || !slices.Equal(names(old), []string{"a", "b", "c", "d", "e"}) {
		t.Errorf("the state then %v: %v", names(old), err)
	}
	now, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil || !slices.Equal(names(now), []string{"a", "b", "cc", "d", "e"}) {
		t.Errorf("no older than then %v: %v", names(now), err)
	}
	if any, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: "0", Limit: 1}); err != nil || len(any.Items) != 5 || any.Continue != "" {
		t.Errorf("whatever is at hand %v: %v", names(any), err)
	}
	selected, err := maps.List(ctx, metav1.ListOptions{Limit: 1, LabelSelector: "value=1"})
	if err != nil || len(selected.Items) != 1 || selected.Continue == "" || selected.RemainingItemCount != nil {
		t.Errorf("a page of what is selected %+v: %v", selected.ListMeta, err)
	}
}

func TestAContinueThatIsTooOldCanGoOnInconsistently(t *testing.T) {
	c := start(t)
	c.makeMaps("a", "b", "c")
	// {"v":"meta.k8s.io/v1","rv":1,"start":"default/a\u0000"}
	response, body := c.ask("GET", mapsPath+"?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJkZWZhdWx0L2FcdTAwMDAifQ", "")
	var status metav1.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 410 || status.Reason != metav1.StatusReasonExpired || !strings.HasPrefix(status.Message, "The provided continue parameter is too old to display a consistent list result.") {
		t.Fatalf("%d %s", response.StatusCode, body)
	}
	list, err := c.clients().CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{Continue: status.Continue})
	if err != nil || !slices.Equal(names(list), []string{"b", "c"}) {
		t.Errorf("went on with %v: %v", list, err)
	}
}

func TestListsOfAVersionThatIsNotStored(t *testing.T) {
	c := start(t)
	ctx := context.Background()
	for _, format := range []string{"application/json", protobuf} {
		config := c.admin()
		config.ContentType, config.AcceptContentTypes = format, format
		clients := c.typed(config)
		name := "e" + fmt.Sprint(len(format))
		_, err := clients.CoreV1().Events("default").Create(ctx, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: name}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: name}, Reason: "Started", Message: "hello",
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := clients.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=" + name})
		if err != nil || len(got.Items) != 1 || got.Items[0].Note != "hello" || got.Items[0].Regarding.Name != name {
			t.Errorf("%s: %+v: %v", format, got, err)
		}
		one, err := clients.EventsV1().Events("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil || one.Note != "hello" {
			t.Errorf("%s: %+v: %v", format, one, err)
		}
		w, err := clients.EventsV1().Events("default").Watch(ctx, metav1.ListOptions{FieldSelector: "regarding.name=" + name})
		if err != nil {
			t.Fatal(err)
		}
		if e := <-w.ResultChan(); e.Type != "ADDED" {
			t.Errorf("%s: %+v", format, e)
		}
		w.Stop()
	}
	if _, err := c.clients().EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=x"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a field of the other version: %v", err)
	}
}

func TestTables(t *testing.T) {
	c := start(t)
	if _, err := c.clients().CoreV1().Pods("default").Create(context.Background(), pod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
	table := func(path string) (out metav1.Table) {
		t.Helper()
		response, body := c.ask("GET", path, "", "Accept", accept)
		if err := json.Unmarshal([]byte(body), &out); err != nil || response.StatusCode != 200 {
			t.Fatalf("%s: %d %s", path, response.StatusCode, body)
		}
		return out
	}
	for _, path := range []string{podsPath, podsPath + "/a"} {
		got := table(path)
		if got.Kind != "Table" || got.APIVersion != "meta.k8s.io/v1" || got.ColumnDefinitions[0].Name != "Name" || len(got.Rows) != 1 || got.ResourceVersion == "" {
			t.Fatalf("%s: %+v", path, got)
		}
		row := got.Rows[0]
		if len(row.Cells) != len(got.ColumnDefinitions) || row.Cells[0] != "a" || row.Cells[2] != "Pending" {
			t.Errorf("%s: cells %v", path, row.Cells)
		}
		if !strings.Contains(string(row.Object.Raw), `"kind":"PartialObjectMetadata"`) || strings.Contains(string(row.Object.Raw), "containers") {
			t.Errorf("%s: object %s", path, row.Object.Raw)
		}
	}
	if raw := table(podsPath + "?includeObject=Object").Rows[0].Object.Raw; !strings.Contains(string(raw), `"kind":"Pod"`) || !strings.Contains(string(raw), "containers") {
		t.Errorf("whole object: %s", raw)
	}
	if raw := table(podsPath + "?includeObject=None").Rows[0].Object.Raw; raw != nil && string(raw) != "null" {
		t.Errorf("no object: %s", raw)
	}
	if rows := table("/api/v1/nodes").Rows; rows == nil || len(rows) != 0 {
		t.Errorf("an empty table's rows: %v", rows)
	}
	response, body := c.ask("GET", podsPath+"?includeObject=Maybe", "", "Accept", accept)
	if response.StatusCode != 400 || !strings.Contains(body, "Unable to convert to Table as requested") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	response, body = c.ask("GET", podsPath, "", "Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
	if response.StatusCode != 406 || !strings.Contains(body, "you requested PartialObjectMetadata, but the requested object is a list (*v1.PodList)") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

func TestForms(t *testing.T) {
	c := start(t)
	c.makeMaps("a")
	for _, f := range []struct{ accept, agent, path, want, contentType string }{
		{"application/json", "", "/a", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"`, "application/json"},
		{"", "curl/8", "/a", "{\n  \"kind\": \"ConfigMap\",", "application/json"},
		{"", "curl/8", "/a?pretty=false", `{"kind":"ConfigMap"`, "application/json"},
		{"", "", "/a?pretty=true", "{\n  \"kind\": \"ConfigMap\",", "application/json"},
		{"", "", "?pretty=true", "{\n  \"kind\": \"ConfigMapList\",", "application/json"},
		{"application/yaml", "", "/a", "apiVersion: v1\ndata:\n  key: \"1\"\nkind: ConfigMap\n", "application/yaml"},
		{"application/yaml", "", "", "apiVersion: v1\nitems:\n- data:", "application/yaml"},
		{"text/html, */*;q=0.1", "", "", `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"`, "application/json"},
		{"application/json;q=0.5, application/vnd.kubernetes.protobuf", "", "/a", "k8s\x00\n\x0f\n\x02v1\x12\tConfigMap", protobuf},
		{"text/html", "", "/a", `"message":"only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"`, "application/json"},
		{"application/json;as=Foo;v=v1;g=meta.k8s.io", "", "/a", `"reason":"NotAcceptable"`, "application/json"},
	} {
		headers := []string{"Accept", f.accept}
		if f.agent != "" {
			headers = append(headers, "User-Agent", f.agent)
		}
		response, body := c.ask("GET", mapsPath+f.path, "", headers...)
		if !strings.Contains(body, f.want) || response.Header.Get("Content-Type") != f.contentType {
			t.Errorf("%q %q: %s %q", f.accept, f.path, response.Header.Get("Content-Type"), body)
		}
	}
	// An item of a list has no kind of its own, and no other way to encode it either.
	_, body := c.ask("GET", mapsPath, "")
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Items) != 1 || list.Items[0]["kind"] != nil || list.Items[0]["apiVersion"] != nil {
		t.Errorf("%v: %s", err, body)
	}
	if !strings.HasSuffix(body, "}]}\n") {
		t.Errorf("end of a list: %q", body[len(body)-10:])
	}
}

// TestLargeListsAreCompressedForOthersMachines asks the handler itself, which then takes its client for one on another machine.
func TestLargeListsAreCompressedForOthersMachines(t *testing.T) {
	c := start(t)
	big := configMap("big", strings.Repeat("x", 10))
	big.Data["key"] = strings.Repeat("0123456789", 20000)
	if _, err := c.clients().CoreV1().ConfigMaps("default").Create(context.Background(), big, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	admin, key, err := c.PKI.ClientCert("admin", []string{auth.Masters}, time.Hour)
	if err != nil || key == nil {
		t.Fatal(err)
	}
	for _, accept := range []string{"application/json", protobuf} {
		for _, path := range []string{mapsPath, mapsPath + "/big"} {
			r := httptest.NewRequest("GET", path, nil) // from 192.0.2.1
			r.TLS = connState(t, admin)
			r.Header.Set("Accept", accept)
			plain, zipped := httptest.NewRecorder(), httptest.NewRecorder()
			c.Server.Handler().ServeHTTP(plain, r)
			r.Header.Set("Accept-Encoding", "br, gzip;q=0.9")
			c.Server.Handler().ServeHTTP(zipped, r)
			if plain.Code != 200 || zipped.Code != 200 || zipped.Header().Get("Content-Encoding") != "gzip" || zipped.Body.Len() > plain.Body.Len()/10 {
				t.Fatalf("%s %s: %d, %d %v: %d bytes of %d", accept, path, plain.Code, zipped.Code, zipped.Header(), zipped.Body.Len(), plain.Body.Len())
			}
			in, err := gzip.NewReader(zipped.Body)
			if err != nil {
				t.Fatal(err)
			}
			if readAll(t, in) != plain.Body.String() {
				t.Errorf("%s %s: unpacked it is something else", accept, path)
			}
		}
	}
	if response, _ := c.ask("GET", mapsPath, "", "Accept-Encoding", "gzip"); response.Header.Get("Content-Encoding") != "" {
		t.Error("compressed for this machine itself")
	}
}
