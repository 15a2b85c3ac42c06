package joined

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/client"
	"sampan.dev/internal/resource"
)

// ref names a ConfigMap or a Secret.
type ref struct {
	kind            *resource.Kind
	namespace, name string
}

// configs follows each ConfigMap and Secret that is asked for, for as long as a pod of this node names it.
type configs struct {
	c             *client.Client
	table         *resource.Table
	maps, secrets *resource.Kind
	pods          func() []*corev1.Pod
	changed       func(namespace, name string)

	mu       sync.Mutex // guards the fields below
	ctx      context.Context
	followed map[ref]*followed
	running  sync.WaitGroup
}

// followed is one object: once synced, what is known of it; nil if it is not there.
type followed struct {
	stop   func()
	synced bool
	object resource.Object
}

func newConfigs(c *client.Client, table *resource.Table, pods func() []*corev1.Pod) *configs {
	f := &configs{c: c, table: table, pods: pods, changed: func(string, string) {}, followed: map[ref]*followed{}}
	f.maps, _ = table.ByKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	f.secrets, _ = table.ByKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	return f
}

func (f *configs) run(ctx context.Context) error {
	f.mu.Lock()
	f.ctx = ctx
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock() // from here on nothing is begun
	f.ctx = nil
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

// get gives what is known of an object, or else asks for it; from then on it is followed.
func get[T resource.Object](ctx context.Context, f *configs, r ref) (T, error) {
	var none T
	f.mu.Lock()
	one := f.followed[r]
	if one != nil && one.synced {
		defer f.mu.Unlock()
		if one.object == nil {
			return none, apierrors.NewNotFound(r.kind.GroupResource(), r.name)
		}
		return one.object.(T), nil
	}
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	obj, err := client.Get[T](ctx, f.c, r.namespace, r.name)
	if err != nil && !apierrors.IsNotFound(err) {
		return none, err
	}
	f.follow(r)
	return obj, err
}

// follow begins to follow an object, unless that has begun.
func (f *configs) follow(r ref) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil || f.followed[r] != nil {
		return
	}
	ctx, cancel := context.WithCancel(f.ctx)
	one := &followed{stop: cancel}
	f.followed[r] = one
	of := client.Selection{Namespace: r.namespace, Fields: "metadata.name=" + r.name}
	follower := client.NewFollower(f.c, r.kind, of, func(ch client.Change) error { return f.take(r, one, ch) })
	f.running.Go(func() {
		defer cancel()
		err := follower.Run(ctx, func(err error) {
			if apierrors.IsForbidden(err) { // no pod of ours names it any more: whoever asks again finds out
				f.drop(r, one)
			}
		})
		if err != nil {
			f.drop(r, one)
		}
	})
}

func (f *configs) take(r ref, one *followed, ch client.Change) error {
	var object resource.Object
	if ch.Type == watch.Added || ch.Type == watch.Modified {
		var err error
		if object, err = f.table.Decode(ch.Data); err != nil {
			return err
		}
		object.SetResourceVersion(strconv.FormatInt(ch.Revision, 10))
	}
	f.mu.Lock()
	if ch.Type == client.Synced {
		one.synced = true
	} else {
		one.object = object
	}
	tell := one.synced && f.followed[r] == one
	f.mu.Unlock()
	if tell {
		f.changed(r.namespace, r.name)
	}
	return nil
}

func (f *configs) drop(r ref, one *followed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.followed[r] == one {
		delete(f.followed, r)
	}
	one.stop()
}

// letGo stops following what no pod of the namespace names.
func (f *configs) letGo(namespace string) {
	pods := slices.DeleteFunc(f.pods(), func(p *corev1.Pod) bool { return p.Namespace != namespace })
	f.mu.Lock()
	defer f.mu.Unlock()
	for r, one := range f.followed {
		if r.namespace == namespace && !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return auth.Names(p, r.kind.Plural, r.name) }) {
			one.stop()
			delete(f.followed, r)
		}
	}
}

func schemaOf(o resource.Object) schema.GroupResource {
	gvk := o.GetObjectKind().GroupVersionKind()
	return schema.GroupResource{Group: gvk.Group, Resource: strings.ToLower(gvk.Kind) + "s"}
}
