package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/volume/downward"
)

// environment is what a container's variables are made of, in order; a later one wins.
type environment struct {
	order []string
	value map[string]string
}

func (e *environment) set(name, value string) {
	if _, there := e.value[name]; !there {
		e.order = append(e.order, name)
	}
	e.value[name] = value
}

func (e *environment) list() []*cri.KeyValue {
	out := make([]*cri.KeyValue, 0, len(e.order))
	for _, name := range e.order {
		out = append(out, &cri.KeyValue{Key: name, Value: []byte(e.value[name])})
	}
	return out
}

// environmentOf reads a container's variables. The pod has the addresses that are known by now.
func environmentOf(ctx context.Context, v View, pod *corev1.Pod, c *corev1.Container, node corev1.ResourceList) (*environment, error) {
	e := &environment{value: map[string]string{}}
	links := serviceLinks(v, pod)
	s := &sources{view: v, namespace: pod.Namespace, configs: map[string]*corev1.ConfigMap{}, secrets: map[string]*corev1.Secret{}}
	for _, from := range c.EnvFrom {
		values, err := s.all(ctx, from)
		if err != nil {
			return nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			if name := from.Prefix + k; name != "" && !strings.ContainsAny(name, "=\x00") {
				e.set(name, values[k])
			}
		}
	}
	for _, env := range c.Env {
		value, skip, err := s.one(ctx, pod, c, env, either{e.value, links}, node)
		if err != nil {
			return nil, err
		}
		if !skip {
			e.set(env.Name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(links)) { // what the pod says itself comes first
		if _, own := e.value[name]; !own {
			e.set(name, links[name])
		}
	}
	return e, nil
}

// either is the variables that a pod has said so far, and for others those of Services.
type either struct{ own, links map[string]string }

func (e either) get(name string) (string, bool) {
	if v, ok := e.own[name]; ok {
		return v, true
	}
	v, ok := e.links[name]
	return v, ok
}

// sources reads each ConfigMap and Secret once for a container, so that all variables are of one version.
type sources struct {
	view      View
	namespace string
	configs   map[string]*corev1.ConfigMap
	secrets   map[string]*corev1.Secret
}

// config and secret return nil for one that may be missing and is.
func (s *sources) config(ctx context.Context, name string, optional *bool) (*corev1.ConfigMap, error) {
	if have, ok := s.configs[name]; ok {
		return have, nil
	}
	cm, err := s.view.ConfigMap(ctx, s.namespace, name)
	if apierrors.IsNotFound(err) {
		if optional != nil && *optional {
			return nil, nil
		}
		return nil, fmt.Errorf("configmap %q not found", name)
	}
	if err == nil {
		s.configs[name] = cm
	}
	return cm, err
}

func (s *sources) secret(ctx context.Context, name string, optional *bool) (*corev1.Secret, error) {
	if have, ok := s.secrets[name]; ok {
		return have, nil
	}
	secret, err := s.view.Secret(ctx, s.namespace, name)
	if apierrors.IsNotFound(err) {
		if optional != nil && *optional {
			return nil, nil
		}
		return nil, fmt.Errorf("secret %q not found", name)
	}
	if err == nil {
		s.secrets[name] = secret
	}
	return secret, err
}

func (s *sources) all(ctx context.Context, from corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		cm, err := s.config(ctx, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		if err != nil || cm == nil {
			return nil, err
		}
		return cm.Data, nil
	case from.SecretRef != nil:
		secret, err := s.secret(ctx, from.SecretRef.Name, from.SecretRef.Optional)
		if err != nil || secret == nil {
			return nil, err
		}
		values := make(map[string]string, len(secret.Data))
		for k, v := range secret.Data {
			values[k] = string(v)
		}
		return values, nil
	}
	return nil, nil
}

func (s *sources) one(ctx context.Context, pod *corev1.Pod, c *corev1.Container, env corev1.EnvVar, before either, node corev1.ResourceList) (value string, skip bool, err error) {
	from := env.ValueFrom
	switch {
	case from == nil:
		return expandBy(env.Value, func(name string) string {
			if v, ok := before.get(name); ok {
				return v
			}
			return "$(" + name + ")"
		}), false, nil
	case from.FieldRef != nil:
		value, err = downward.Field(pod, from.FieldRef.FieldPath)
		return value, false, err
	case from.ResourceFieldRef != nil:
		value, err = downward.Resource(pod, c.Name, from.ResourceFieldRef, node)
		return value, false, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := s.config(ctx, ref.Name, ref.Optional)
		if err != nil || cm == nil {
			return "", true, err
		}
		value, ok := cm.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return value, !ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := s.secret(ctx, ref.Name, ref.Optional)
		if err != nil || secret == nil {
			return "", true, err
		}
		value, ok := secret.Data[ref.Key]
		if !ok && (ref.Optional == nil || !*ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(value), !ok, nil
	}
	return "", false, fmt.Errorf("variable %s: a source of this kind is not supported on this node", env.Name)
}

// expand replaces $(NAME) by the variable's value; $$ stands for $, and a name that is not there stays as it is written.
func expand(s string, values map[string]string) string {
	return expandBy(s, func(name string) string {
		if v, ok := values[name]; ok {
			return v
		}
		return "$(" + name + ")"
	})
}

func expandBy(s string, value func(string) string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			out.WriteByte(s[i])
			continue
		}
		switch next := s[i+1]; next {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i+2:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			out.WriteString(value(s[i+2 : i+2+end]))
			i += 2 + end
		default:
			out.WriteByte('$')
			out.WriteByte(next)
			i++
		}
	}
	return out.String()
}

func expandAll(list []string, values map[string]string) []string {
	var out []string
	for _, s := range list {
		out = append(out, expand(s, values))
	}
	return out
}
