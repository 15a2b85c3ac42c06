package clustertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/rogpeppe/go-internal/testscript"

	"sampan.dev/internal/client"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
)

// Remote are the parameters to run one script with on a cluster that runs already, known by an administrator's kubeconfig. The commands are those of
// Params, but for node.
func Remote(script, kubectl, kubeconfig string) testscript.Params {
	p := params("", func(env *testscript.Env) error {
		cfg, err := client.FromKubeconfig(kubeconfig, "")
		if err != nil {
			return err
		}
		ctx, stop := context.WithCancel(context.Background())
		r := &remote{kinds: kinds.Table(), server: cfg.Server, http: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg.TLS}}}
		p := &played{source: r, ctx: ctx}
		env.Defer(func() {
			stop()
			p.guards.running.Wait()
			r.http.CloseIdleConnections()
		})
		env.Values[playedKey{}] = p
		env.Setenv("KUBECTL", kubectl)
		env.Setenv("KUBECONFIG", kubeconfig)
		env.Setenv("HOME", env.WorkDir)
		env.Setenv("SERVER", cfg.Server)
		return nil
	})
	p.Files = []string{script}
	return p
}

// remote follows a cluster over HTTP.
type remote struct {
	kinds  *resource.Table
	server string
	http   *http.Client
}

func (r *remote) table() *resource.Table { return r.kinds }

// named is what is read of any object.
type named struct {
	Metadata struct {
		Namespace       string `json:"namespace"`
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
}

func (r *remote) follow(ctx context.Context, t target, seen func(state []byte) bool) error {
	for {
		objects := map[string][]byte{}
		version, err := r.list(ctx, t, objects)
		if err != nil {
			return err
		}
		if !seen(t.state(objects)) {
			return nil
		}
		more, err := r.watch(ctx, t, version, objects, seen)
		if !more || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

func (r *remote) url(t target, more url.Values) string {
	path := "/api/" + t.kind.Version
	if t.kind.Group != "" {
		path = "/apis/" + t.kind.Group + "/" + t.kind.Version
	}
	if t.sel.Namespace != "" {
		path += "/namespaces/" + t.sel.Namespace
	}
	if t.sel.Labels != nil {
		more.Set("labelSelector", t.sel.Labels.String())
	}
	if t.sel.Fields != nil {
		more.Set("fieldSelector", t.sel.Fields.String())
	}
	return r.server + path + "/" + t.kind.Plural + "?" + more.Encode()
}

func (r *remote) get(ctx context.Context, address string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := r.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("get %s: %s: %s", address, response.Status, text)
	}
	return response.Body, nil
}

func (r *remote) list(ctx context.Context, t target, objects map[string][]byte) (version string, err error) {
	body, err := r.get(ctx, r.url(t, url.Values{}))
	if err != nil {
		return "", err
	}
	defer body.Close()
	var list struct {
		named
		Items []json.RawMessage `json:"items"`
	}
	if err := json.NewDecoder(body).Decode(&list); err != nil {
		return "", fmt.Errorf("list %s: %w", t.kind.Plural, err)
	}
	for _, item := range list.Items {
		key, err := keyOf(item)
		if err != nil {
			return "", err
		}
		objects[key] = item
	}
	return list.Metadata.ResourceVersion, nil
}

func keyOf(object []byte) (string, error) {
	var o named
	err := json.Unmarshal(object, &o)
	return o.Metadata.Namespace + "/" + o.Metadata.Name, err
}

// watch returns true if the watch ended, and the state must be read anew.
func (r *remote) watch(ctx context.Context, t target, version string, objects map[string][]byte, seen func([]byte) bool) (bool, error) {
	body, err := r.get(ctx, r.url(t, url.Values{"watch": {"true"}, "resourceVersion": {version}}))
	if err != nil {
		return false, err
	}
	defer body.Close()
	for in := json.NewDecoder(bufio.NewReader(body)); ; {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := in.Decode(&event); err != nil || event.Type == "ERROR" {
			return true, nil //nolint:nilerr // whatever ended it, a list goes on
		}
		key, err := keyOf(event.Object)
		if err != nil {
			return false, err
		}
		if event.Type == "DELETED" {
			delete(objects, key)
		} else {
			objects[key] = event.Object
		}
		if !seen(t.state(objects)) {
			return false, nil
		}
	}
}
