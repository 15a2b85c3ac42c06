package ask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/client"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/scheduler/profile"
	"sampan.dev/internal/why"
)

// reader reads objects of one kind.
type reader struct {
	explained bool // else it is only read on the way
	get       func(ctx context.Context, c *client.Client, namespace, name string) (why.Object, error)
	list      func(ctx context.Context, c *client.Client, namespace string) ([]why.Object, error)
}

func reads[T resource.Object](explained bool) *reader {
	return &reader{
		explained: explained,
		get: func(ctx context.Context, c *client.Client, namespace, name string) (why.Object, error) {
			return client.Get[T](ctx, c, namespace, name)
		},
		list: func(ctx context.Context, c *client.Client, namespace string) ([]why.Object, error) {
			list, _, err := client.List[T](ctx, c, client.Selection{Namespace: namespace})
			objects := make([]why.Object, len(list))
			for i, o := range list {
				objects[i] = o
			}
			return objects, err
		},
	}
}

// readers by the plural of the kind.
var readers = map[string]*reader{
	"pods": reads[*corev1.Pod](true), "nodes": reads[*corev1.Node](true), "namespaces": reads[*corev1.Namespace](true), "services": reads[*corev1.Service](true),
	"deployments": reads[*appsv1.Deployment](true), "replicasets": reads[*appsv1.ReplicaSet](true), "statefulsets": reads[*appsv1.StatefulSet](true),
	"daemonsets": reads[*appsv1.DaemonSet](true), "jobs": reads[*batchv1.Job](true), "poddisruptionbudgets": reads[*policyv1.PodDisruptionBudget](true),
	"configmaps": reads[*corev1.ConfigMap](false), "secrets": reads[*corev1.Secret](false), "leases": reads[*coordinationv1.Lease](false),
	"endpointslices":         reads[*discoveryv1.EndpointSlice](false),
	"persistentvolumeclaims": reads[*corev1.PersistentVolumeClaim](true), "persistentvolumes": reads[*corev1.PersistentVolume](false), "storageclasses": reads[*storagev1.StorageClass](false),
}

func explained() string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(readers)) {
		if readers[name].explained {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// schedulingPath is the server's (apiserver.SchedulingPath).
const schedulingPath = "/sampan/v1/scheduling"

// world is the cluster as its API shows it.
type world struct {
	ctx  context.Context // of the one question that this world is made for
	cfg  client.Config
	c    *client.Client
	http *http.Client
}

func newWorld(ctx context.Context, cfg client.Config, c *client.Client) *world {
	return &world{ctx: ctx, cfg: cfg, c: c, http: &http.Client{Transport: &http.Transport{TLSClientConfig: cfg.TLS, ForceAttemptHTTP2: true}, Timeout: 15 * time.Second}}
}

func (w *world) Now() time.Time { return time.Now() }

func (w *world) List(plural, namespace string) ([]why.Object, error) {
	read := readers[plural]
	if read == nil {
		return nil, fmt.Errorf("list %s: nobody has said how they are read", plural)
	}
	return read.list(w.ctx, w.c, namespace)
}

// Scheduling asks the server with what configuration its scheduler was started. Who may not read it is told by the default one.
func (w *world) Scheduling() profile.Config {
	text, err := w.get(schedulingPath, nil)
	if err != nil || len(text) == 0 {
		return profile.Default()
	}
	c, err := profile.Parse(text)
	if err != nil {
		return profile.Default()
	}
	return c
}

// Events asks by kind and name: events of nodes have the node's name for a UID. Those of an earlier object of that name are left out.
func (w *world) Events(about why.Object) ([]*corev1.Event, error) {
	kind := ""
	for _, k := range w.cfg.Table.All() {
		if reflect.TypeOf(k.New()) == reflect.TypeOf(about) {
			kind = k.Kind
		}
	}
	list, _, err := client.List[*corev1.Event](w.ctx, w.c, client.Selection{
		Namespace: about.GetNamespace(), Fields: "involvedObject.kind=" + kind + ",involvedObject.name=" + about.GetName(),
	})
	if err != nil {
		return nil, fmt.Errorf("events of %s %s: %w", strings.ToLower(kind), about.GetName(), err)
	}
	return slices.DeleteFunc(list, func(e *corev1.Event) bool {
		uid := e.InvolvedObject.UID
		return uid != "" && uid != about.GetUID() && string(uid) != about.GetName()
	}), nil
}

func (w *world) Log(namespace, pod, container string, previous bool, lines int) ([]string, error) {
	q := url.Values{"container": {container}, "tailLines": {strconv.Itoa(lines)}}
	if previous {
		q.Set("previous", "true")
	}
	data, err := w.get("/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+url.PathEscape(pod)+"/log", q)
	if err != nil {
		return nil, err
	}
	text := strings.TrimRight(string(data), "\n")
	if text == "" {
		return nil, nil
	}
	list := strings.Split(text, "\n")
	const most = 400 // bytes of a line
	for i, line := range list {
		if list[i] = printable(line); len(list[i]) > most {
			list[i] = strings.ToValidUTF8(list[i][:most], "") + "…"
		}
	}
	return list, nil
}

// printable takes out what would move a terminal's cursor.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, line)
}

// Left asks for every kind that the cluster serves, also for those that others have brought.
func (w *world) Left(namespace string) (left []why.Leftover, err error) {
	var groups metav1.APIGroupList
	if err := w.read("/apis", nil, &groups); err != nil {
		return nil, err
	}
	paths := []string{"/api/v1"}
	for _, g := range groups.Groups {
		paths = append(paths, "/apis/"+g.PreferredVersion.GroupVersion)
	}
	seen := map[string]bool{}
	for _, path := range paths {
		var resources metav1.APIResourceList
		if e := w.read(path, nil, &resources); e != nil {
			err = errors.Join(err, e)
			continue
		}
		for _, r := range resources.APIResources {
			if !r.Namespaced || strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || r.Name == "events" {
				continue
			}
			var list metav1.PartialObjectMetadataList
			if e := w.read(path+"/namespaces/"+url.PathEscape(namespace)+"/"+r.Name, url.Values{"limit": {"500"}}, &list); e != nil {
				err = errors.Join(err, e)
				continue
			}
			for _, o := range list.Items {
				if key := r.Name + " " + string(o.UID); !seen[key] {
					seen[key] = true
					left = append(left, why.Leftover{Resource: r.Name, Name: o.Name, Finalizers: o.Finalizers, Deleted: o.DeletionTimestamp != nil})
				}
			}
		}
	}
	return left, err
}

func (w *world) read(path string, q url.Values, into any) error {
	data, err := w.get(path, q)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// get asks for what is no object: a log, a list of whatever kind.
func (w *world) get(path string, q url.Values) ([]byte, error) {
	r, err := http.NewRequestWithContext(w.ctx, http.MethodGet, strings.TrimSuffix(w.c.Server(), "/")+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	r.Header.Set("Accept", "application/json, */*")
	if w.cfg.Bearer != "" {
		r.Header.Set("Authorization", "Bearer "+w.cfg.Bearer)
	}
	response, err := w.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 32<<20))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		var status metav1.Status
		if err := json.Unmarshal(data, &status); err == nil && status.Message != "" {
			return nil, errors.New(status.Message)
		}
		return nil, fmt.Errorf("read %s: %s", path, response.Status)
	}
	return data, nil
}
