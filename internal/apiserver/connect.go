package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
)

func isConnectName(k *resource.Kind, sub string) bool {
	_, known := connects[sub]
	return known && slices.Contains(k.Connects, sub)
}

func isConnect(c *call) bool {
	return (c.rest == "" || c.sub == "proxy") && c.isStored() && isConnectName(c.kind, c.sub)
}

// connect answers requests for subresources that are not the object itself: streams of a pod, and orders about it.
func (s *Server) connect(w http.ResponseWriter, r *http.Request, c *call) error {
	if !slices.Contains(connects[c.sub].verbs, c.verb) {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: c.group, Resource: c.resource + "/" + c.sub}, c.verb)
	}
	switch c.sub {
	case "binding":
		return s.bind(w, r, c)
	case "eviction":
		return s.evict(w, r, c)
	case "log":
		return s.logs(w, r, c)
	case "proxy":
		return s.through(w, r, c)
	case "token":
		return s.createToken(w, r, c)
	}
	if len(query(r)["dryRun"]) > 0 {
		return bad("dryRun is not supported")
	}
	pod, err := s.pod(r, c)
	if err != nil {
		return err
	}
	q := query(r)
	path, forward := "", url.Values{}
	if c.sub == "portforward" {
		path = fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name)
		if ports := q["ports"]; len(ports) > 0 {
			forward["port"] = ports
		}
	} else {
		container, err := pickContainer(pod, q.Get("container"))
		if err != nil {
			return err
		}
		if path, err = streamQuery(c.sub, q, forward); err != nil {
			return err
		}
		path = fmt.Sprintf("/%s/%s/%s/%s", path, pod.Namespace, pod.Name, container)
	}
	if pod.Spec.NodeName == "" {
		return bad(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	if c.sub == "portforward" && wantsTunnel(r) {
		return s.tunnel(w, r, pod.Spec.NodeName, path)
	}
	return s.upgrade(w, r, pod.Spec.NodeName, path, forward)
}

// streamQuery turns the options of exec and attach into those that the node's server knows.
func streamQuery(sub string, q, forward url.Values) (path string, err error) {
	some := false
	for _, o := range []struct {
		name, node string
		normally   bool
	}{{"stdin", "input", false}, {"stdout", "output", true}, {"stderr", "error", true}, {"tty", "tty", false}} {
		on := o.normally && q[o.name] == nil && sub == "attach"
		if v := q[o.name]; v != nil {
			_ = runtime.Convert_Slice_string_To_bool(&v, &on, nil) // it never fails: whatever is not false is true
		}
		if on {
			forward.Set(o.node, "1")
			some = some || o.name != "tty"
		}
	}
	if !some {
		return "", bad("you must specify at least one of stdin, stdout, stderr")
	}
	if sub == "exec" {
		if len(q["command"]) == 0 {
			return "", bad("you must specify at least one command for the container")
		}
		forward["command"] = q["command"]
	}
	return sub, nil
}

// pod is the pod that the request names, as it is now.
func (s *Server) pod(r *http.Request, c *call) (*corev1.Pod, error) {
	snap, err := s.fresh(r.Context())
	if err != nil {
		return nil, err
	}
	obj := snap.Get(c.kind, c.namespace, c.name)
	if obj == nil {
		return nil, apierrors.NewNotFound(c.gr(), c.name)
	}
	return cache.Typed[*corev1.Pod](obj), nil
}

// pickContainer finds which container is meant: without a name, the only one that there is.
func pickContainer(pod *corev1.Pod, name string) (string, error) {
	var names, initial []string
	for i := range pod.Spec.Containers {
		names = append(names, pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.InitContainers {
		initial = append(initial, pod.Spec.InitContainers[i].Name)
	}
	if name == "" {
		switch len(names) {
		case 1:
			return names[0], nil
		case 0:
			return "", bad("a container name must be specified for pod " + pod.Name)
		}
		message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(names, " "))
		if len(initial) > 0 {
			message += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(initial, " "))
		}
		return "", bad(message)
	}
	ephemeral := func(c corev1.EphemeralContainer) bool { return c.Name == name }
	if slices.Contains(names, name) || slices.Contains(initial, name) || slices.ContainsFunc(pod.Spec.EphemeralContainers, ephemeral) {
		return name, nil
	}
	return "", bad(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}

// logs sends what a container has written.
func (s *Server) logs(w http.ResponseWriter, r *http.Request, c *call) error {
	q := query(r)
	var o corev1.PodLogOptions
	if err := logOptions(q, &o); err != nil {
		return err
	}
	if errs := checkLogOptions(&o); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, c.name, errs)
	}
	pod, err := s.pod(r, c)
	if err != nil {
		return err
	}
	container, err := pickContainer(pod, o.Container)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		w.WriteHeader(http.StatusNoContent) // nothing runs, so nothing is written
		return nil
	}
	forward := url.Values{}
	for _, name := range []string{"follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"} {
		if v, ok := q[name]; ok && len(v) > 0 && v[0] != "" {
			forward.Set(name, v[0])
		}
	}
	for name, on := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if forward.Del(name); on {
			forward.Set(name, "true")
		}
	}
	path := fmt.Sprintf("/containerLogs/%s/%s/%s", pod.Namespace, pod.Name, container)
	return s.relay(w, r, c, pod.Spec.NodeName, path, forward)
}

// logOptions reads the options of a log from a query, as the API's own conversions do.
func logOptions(q url.Values, o *corev1.PodLogOptions) error {
	o.Container = q.Get("container")
	for name, into := range map[string]*bool{"follow": &o.Follow, "previous": &o.Previous, "timestamps": &o.Timestamps} {
		v := q[name]
		_ = runtime.Convert_Slice_string_To_bool(&v, into, nil) // it never fails
	}
	for name, into := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		v := q[name]
		if err := runtime.Convert_Slice_string_To_Pointer_int64(&v, into, nil); err != nil {
			return bad(err.Error())
		}
	}
	if v := q.Get("sinceTime"); v != "" {
		o.SinceTime = &metav1.Time{}
		if err := o.SinceTime.UnmarshalQueryParameter(v); err != nil {
			return bad(err.Error())
		}
	}
	if v := q.Get("stream"); v != "" {
		o.Stream = &v
	}
	return nil
}

func checkLogOptions(o *corev1.PodLogOptions) (errs field.ErrorList) {
	positive := func(name string, v *int64, least int64, why string) {
		if v != nil && *v < least {
			errs = append(errs, field.Invalid(field.NewPath(name), *v, why))
		}
	}
	positive("tailLines", o.TailLines, 0, "must be greater than or equal to 0")
	positive("limitBytes", o.LimitBytes, 1, "must be greater than 0")
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	default:
		positive("sinceSeconds", o.SinceSeconds, 1, "must be greater than 0")
	}
	if o.Stream != nil {
		all := []string{corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr}
		if !slices.Contains(all, *o.Stream) {
			errs = append(errs, field.NotSupported(field.NewPath("stream"), *o.Stream, all))
		}
		if *o.Stream != corev1.LogStreamAll && o.TailLines != nil {
			errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
		}
	}
	return errs
}

// evict deletes a pod in an orderly way, if its disruption budget allows it.
func (s *Server) evict(w http.ResponseWriter, r *http.Request, c *call) error {
	var e policyv1.Eviction
	if err := decodeReview(r, policyv1.SchemeGroupVersion.WithKind("Eviction"), &e); err != nil {
		return err
	}
	if e.Name != "" && e.Name != c.name {
		return bad("name in URL does not match name in Eviction object")
	}
	if e.Namespace != "" && e.Namespace != c.namespace {
		return bad("the namespace of the provided object does not match the namespace sent on the request")
	}
	var o metav1.DeleteOptions
	if e.DeleteOptions != nil {
		o = *e.DeleteOptions
	}
	switch asked := query(r)["dryRun"]; {
	case len(o.DryRun) == 0:
		o.DryRun = asked
	case len(asked) > 0 && !slices.Equal(asked, o.DryRun):
		return failure(http.StatusInternalServerError, metav1.StatusReasonUnknown, fmt.Sprintf("Non-matching dry-run options in request and content: %v and %v", asked, o.DryRun))
	}
	if err := checkDeleteOptions(&o); err != nil {
		return err
	}
	if err := s.registry.Evict(r.Context(), c.namespace, c.name, o); err != nil {
		return err
	}
	s.succeed(w, r, http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated})
	return nil
}
