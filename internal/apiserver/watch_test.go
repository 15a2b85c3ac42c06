package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/auth"
)

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"value": value}},
		Data:       map[string]string{"key": value},
	}
}

// seen collects what an informer tells.
type seen struct {
	mu     sync.Mutex
	events []string
	news   chan struct{}
}

func (s *seen) add(what string, obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	s.mu.Lock()
	s.events = append(s.events, what+" "+obj.(metav1.Object).GetName())
	s.mu.Unlock()
	s.news <- struct{}{}
}

func (s *seen) handlers() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.add("added", obj) },
		UpdateFunc: func(_, obj any) { s.add("updated", obj) },
		DeleteFunc: func(obj any) { s.add("deleted", obj) },
	}
}

func (s *seen) wait(t *testing.T, want ...string) {
	t.Helper()
	for range want {
		select {
		case <-s.news:
		case <-time.After(30 * time.Second):
			t.Fatalf("waited for %v, saw %v", want, s.events)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.events, want) {
		t.Errorf("saw %v, want %v", s.events, want)
	}
	s.events = nil
}

func TestInformersFollow(t *testing.T) {
	gvr := corev1.SchemeGroupVersion.WithResource("configmaps")
	for name, informer := range map[string]func(c *cluster) cache.SharedIndexInformer{
		"typed, JSON": func(c *cluster) cache.SharedIndexInformer {
			return informers.NewSharedInformerFactory(c.clients(), 0).Core().V1().ConfigMaps().Informer()
		},
		"typed, protobuf": func(c *cluster) cache.SharedIndexInformer {
			config := c.admin()
			config.ContentType = "application/vnd.kubernetes.protobuf"
			return informers.NewSharedInformerFactory(c.typed(config), 0).Core().V1().ConfigMaps().Informer()
		},
		"dynamic": func(c *cluster) cache.SharedIndexInformer {
			return dynamicinformer.NewDynamicSharedInformerFactory(dynamic.NewForConfigOrDie(c.admin()), 0).ForResource(gvr).Informer()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			maps := c.clients().CoreV1().ConfigMaps("default")
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if _, err := maps.Create(ctx, configMap("a", "1"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			saw := &seen{news: make(chan struct{}, 100)}
			i := informer(c)
			if _, err := i.AddEventHandler(saw.handlers()); err != nil {
				t.Fatal(err)
			}
			go i.RunWithContext(ctx)
			if !cache.WaitForCacheSync(ctx.Done(), i.HasSynced) {
				t.Fatal("not synced")
			}
			saw.wait(t, "added a")
			b, err := maps.Create(ctx, configMap("b", "1"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			b.Data["key"] = "2"
			if _, err := maps.Update(ctx, b, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			saw.wait(t, "added b", "updated b", "deleted a")
		})
	}
}

// watchRaw opens a watch and gives its events one by one.
func watchRaw(t *testing.T, c *cluster, path string, headers ...string) (next func() (kind string, object map[string]any), end func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r, err := http.NewRequestWithContext(ctx, "GET", c.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.HTTPClient("admin", auth.Masters).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 200 {
		body, _ := io.ReadAll(response.Body)
		t.Fatalf("%s: %d %s", path, response.StatusCode, body)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	next = func() (string, map[string]any) {
		t.Helper()
		if !lines.Scan() {
			return "", nil
		}
		var e struct {
			Type   string
			Object map[string]any
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		return e.Type, e.Object
	}
	return next, func() { cancel(); response.Body.Close() }
}

func text(object map[string]any, path ...string) string {
	s, _, _ := unstructured.NestedString(object, path...)
	return s
}

func TestWatchListEndsItsBeginningWithAMarkedBookmark(t *testing.T) {
	c := start(t)
	for _, name := range []string{"a", "b"} {
		if response, body := c.ask("POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"`+name+`"}}`); response.StatusCode != 201 {
			t.Fatal(body)
		}
	}
	next, end := watchRaw(t, c, "/api/v1/namespaces/default/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	defer end()
	for _, name := range []string{"a", "b"} {
		if kind, obj := next(); kind != "ADDED" || text(obj, "metadata", "name") != name || text(obj, "kind") != "ConfigMap" || text(obj, "apiVersion") != "v1" {
			t.Fatalf("%s %v, want %s", kind, obj, name)
		}
	}
	kind, obj := next()
	if kind != "BOOKMARK" || text(obj, "metadata", "annotations", "k8s.io/initial-events-end") != "true" || text(obj, "kind") != "ConfigMap" {
		t.Fatalf("%s %v", kind, obj)
	}
	if rv, err := strconv.Atoi(text(obj, "metadata", "resourceVersion")); err != nil || int64(rv) != c.Store.Revision() {
		t.Errorf("bookmark at %d, the store is at %d: %v", rv, c.Store.Revision(), err)
	}
	c.ask("DELETE", "/api/v1/namespaces/default/configmaps/a", "")
	kind, obj = next()
	if kind != "DELETED" || text(obj, "metadata", "name") != "a" || text(obj, "metadata", "resourceVersion") != fmt.Sprint(c.Store.Revision()) {
		t.Errorf("%s %v", kind, obj)
	}
}

func TestWatchFromARevision(t *testing.T) {
	c := start(t)
	maps := c.clients().CoreV1().ConfigMaps("default")
	ctx := context.Background()
	a, err := maps.Create(ctx, configMap("a", "1"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Create(ctx, configMap("b", "2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Run("only what came after it", func(t *testing.T) {
		next, end := watchRaw(t, c, "/api/v1/configmaps?watch=1&resourceVersion="+a.ResourceVersion)
		defer end()
		if kind, obj := next(); kind != "ADDED" || text(obj, "metadata", "name") != "b" {
			t.Errorf("%s %v", kind, obj)
		}
	})
	t.Run("too old", func(t *testing.T) {
		next, end := watchRaw(t, c, "/api/v1/configmaps?watch=1&resourceVersion=1")
		defer end()
		kind, obj := next()
		if kind != "ERROR" || text(obj, "reason") != "Expired" || obj["code"] != float64(410) || !strings.HasPrefix(text(obj, "message"), "too old resource version: 1 (") {
			t.Errorf("%s %v", kind, obj)
		}
		if kind, _ = next(); kind != "" {
			t.Errorf("after the error: %s", kind)
		}
	})
	t.Run("of the future", func(t *testing.T) {
		next, end := watchRaw(t, c, "/api/v1/configmaps?watch=1&resourceVersion=99999999")
		defer end()
		if kind, obj := next(); kind != "ERROR" || !strings.HasPrefix(text(obj, "message"), "Timeout: Too large resource version: 99999999, current: ") {
			t.Errorf("%s %v", kind, obj)
		}
	})
	t.Run("an object enters and leaves the selection", func(t *testing.T) {
		w, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "value=9", ResourceVersion: a.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for _, value := range []string{"9", "8"} {
			a.Labels["value"] = value
			if a, err = maps.Update(ctx, a, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []watch.EventType{watch.Added, watch.Deleted} {
			if e := <-w.ResultChan(); e.Type != want || e.Object.(*corev1.ConfigMap).Name != "a" {
				t.Errorf("%+v, want %s", e, want)
			}
		}
	})
}

func TestWatchEnds(t *testing.T) {
	t.Run("with its time", func(t *testing.T) {
		c := start(t)
		next, end := watchRaw(t, c, "/api/v1/pods?watch=1&timeoutSeconds=1")
		defer end()
		if kind, obj := next(); kind != "" {
			t.Errorf("%s %v", kind, obj)
		}
	})
	t.Run("when the store falls silent, and none begins until it is heard again", func(t *testing.T) {
		var now atomic.Pointer[chan struct{}]
		hear := func() { c := make(chan struct{}); now.Store(&c) }
		hear()
		c := start(t, func(cfg *apiserver.Config) { cfg.Silence = func() <-chan struct{} { return *now.Load() } })
		next, end := watchRaw(t, c, "/api/v1/pods?watch=1")
		defer end()
		close(*now.Load())
		if kind, obj := next(); kind != "" {
			t.Errorf("%s %v", kind, obj)
		}
		if resp, body := c.ask(http.MethodGet, "/api/v1/pods?watch=1", ""); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "ask another one") {
			t.Errorf("%s %s", resp.Status, body)
		}
		hear()
		again, end := watchRaw(t, c, "/api/v1/configmaps?watch=1&resourceVersion=0")
		defer end()
		if _, body := c.ask(http.MethodPost, "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"a"}}`); !strings.Contains(body, `"uid"`) {
			t.Error(body)
		}
		if kind, _ := again(); kind != "ADDED" {
			t.Errorf("%q", kind)
		}
	})
	t.Run("with the server", func(t *testing.T) {
		c := start(t)
		next, end := watchRaw(t, c, "/api/v1/pods?watch=1")
		defer end()
		go c.Stop()
		if kind, obj := next(); kind != "" {
			t.Errorf("%s %v", kind, obj)
		}
	})
}

func TestWatchOfTablesAndMetadata(t *testing.T) {
	c := start(t)
	if _, err := c.clients().CoreV1().Pods("default").Create(context.Background(), pod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	next, end := watchRaw(t, c, "/api/v1/namespaces/default/pods?watch=1", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	defer end()
	_, table := next()
	if text(table, "kind") != "Table" || len(table["columnDefinitions"].([]any)) < 5 {
		t.Errorf("first: %v", table)
	}
	c.ask("PATCH", "/api/v1/namespaces/default/pods/a", `{"metadata":{"labels":{"x":"y"}}}`, "Content-Type", "application/merge-patch+json")
	_, table = next()
	if columns := table["columnDefinitions"]; columns != nil {
		t.Errorf("columns told twice: %v", columns)
	}
	rows := table["rows"].([]any)[0].(map[string]any)
	if rows["cells"].([]any)[0] != "a" || text(rows, "object", "kind") != "PartialObjectMetadata" || text(rows, "object", "metadata", "labels", "x") != "y" {
		t.Errorf("row: %v", rows)
	}

	client, err := metadata.NewForConfig(c.admin())
	if err != nil {
		t.Fatal(err)
	}
	pods := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("default")
	list, err := pods.List(context.Background(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "a" {
		t.Errorf("metadata: %+v: %v", list, err)
	}
	w, err := pods.Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := <-w.ResultChan(); e.Type != watch.Added || e.Object.(*metav1.PartialObjectMetadata).Name != "a" {
		t.Errorf("metadata: %+v", e)
	}
}

func TestBadWatches(t *testing.T) {
	c := start(t)
	for query, want := range map[string]string{
		"sendInitialEvents=true":                         `ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan`,
		"resourceVersionMatch=NotOlderThan":              `resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided`,
		"resourceVersion=abc":                            `resourceVersion: Invalid value: \"abc\"`,
		"timeoutSeconds=x":                               `strconv.ParseInt: parsing \"x\": invalid syntax`,
		"fieldSelector=spec.foo%3Dbar":                   `field label not supported: spec.foo`,
		"labelSelector=%3D%3D":                           `found '=='`,
		"sendInitialEvents=1&resourceVersionMatch=Exact": `supported values: \"NotOlderThan\"`,
	} {
		response, body := c.ask("GET", "/api/v1/pods?watch=true&"+query, "")
		if response.StatusCode/100 != 4 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, response.StatusCode, body)
		}
	}
	response, body := c.ask("GET", "/api/v1/pods?watch=true", "", "Accept", "application/yaml")
	if response.StatusCode != 406 || !strings.Contains(body, "application/json;stream=watch") {
		t.Errorf("YAML: %d %s", response.StatusCode, body)
	}
}

// watchers notes who is said to watch.
type watchers chan string

func (w watchers) Began(node string) { w <- node + " began" }
func (w watchers) Ended(node string) { w <- node + " ended" }

// TestWhichAgentsWatchIsTold asks as an agent, as one without its group and as a person.
func TestWhichAgentsWatchIsTold(t *testing.T) {
	told := make(watchers, 10)
	c := start(t, func(cfg *apiserver.Config) { cfg.Agents = told })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, client := range []*http.Client{c.HTTPClient("ada", auth.Masters), c.HTTPClient("system:node:n2", auth.Masters), c.HTTPClient("system:node:n1", auth.Nodes)} {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/api/v1/services?watch=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		defer resp.Body.Close()
	}
	if got := <-told; got != "n1 began" {
		t.Errorf("it is told that %s", got)
	}
	cancel()
	if got := <-told; got != "n1 ended" {
		t.Errorf("it is told that %s", got)
	}
	if len(told) > 0 {
		t.Errorf("and that %s", <-told)
	}
}
