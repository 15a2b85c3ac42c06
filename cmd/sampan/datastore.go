package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/uuid"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/cache"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/join"
	"sampan.dev/internal/keyring"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/server"
	"sampan.dev/internal/store"
	"sampan.dev/internal/store/etcd"
)

// datastoreFlags are those that name an etcd.
func datastoreFlags(f *pflag.FlagSet, given *instance.Datastore) {
	f.StringSliceVar(&given.Endpoints, "datastore", nil, "the etcd that servers share, such as https://192.0.2.1:2379,https://192.0.2.2:2379 (default: a store of its own, in the data directory)")
	f.StringVar(&given.CA, "datastore-ca", "", "a file with the certificates that etcd's are checked by (default: the system's)")
	f.StringVar(&given.Cert, "datastore-cert", "", "a file with the certificate by which etcd knows this server")
	f.StringVar(&given.Key, "datastore-key", "", "a file with that certificate's key")
}

// takeDatastore puts what was typed over what is remembered.
func takeDatastore(f *pflag.FlagSet, s *instance.Settings, given instance.Datastore) error {
	if f.Changed("datastore") {
		s.Datastore.Endpoints = nil
		for _, e := range given.Endpoints {
			u, err := url.Parse(strings.TrimSpace(e))
			if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" {
				return usageError{fmt.Errorf("--datastore: %q is not an address of etcd's, such as https://192.0.2.1:2379", e)}
			}
			if u.Port() == "" {
				u.Host = net.JoinHostPort(u.Hostname(), "2379")
			}
			s.Datastore.Endpoints = append(s.Datastore.Endpoints, u.Scheme+"://"+u.Host)
		}
	}
	for flag, path := range map[string]struct{ from, to *string }{
		"datastore-ca": {&given.CA, &s.Datastore.CA}, "datastore-cert": {&given.Cert, &s.Datastore.Cert}, "datastore-key": {&given.Key, &s.Datastore.Key},
	} {
		if !f.Changed(flag) {
			continue
		}
		full, err := filepath.Abs(*path.from)
		if err != nil {
			return err
		}
		*path.to = full
	}
	switch d := s.Datastore; {
	case !s.Shared() && (d.CA != "" || d.Cert != "" || d.Key != ""):
		return usageError{errors.New("--datastore-ca, --datastore-cert and --datastore-key are of a datastore: give its addresses with --datastore")}
	case (d.Cert == "") != (d.Key == ""):
		return usageError{errors.New("--datastore-cert and --datastore-key belong together: give both or neither")}
	}
	if s.Shared() && s.ServerID == "" {
		s.ServerID = string(uuid.NewUUID())
	}
	return nil
}

// datastorePatience is how long a start waits for a datastore that does not answer.
const datastorePatience = 30 * time.Second

// openDatastore connects with etcd, and sees to it that this server has the cluster's keys. Where no datastore is named it returns nil.
func (u *up) openDatastore(ctx context.Context) (store.Store, error) {
	d := u.settings.Datastore
	if !u.settings.Shared() {
		return nil, nil
	}
	waiting, cancel := context.WithTimeout(ctx, datastorePatience)
	defer cancel()
	slow := time.AfterFunc(2*time.Second, func() { u.say("datastore", "waiting for %s", strings.Join(d.Endpoints, ", ")) })
	st, err := etcd.Open(waiting, etcd.Config{Endpoints: d.Endpoints, CA: d.CA, Cert: d.Cert, Key: d.Key, Log: u.log})
	slow.Stop()
	if err != nil {
		return nil, err
	}
	if err := u.belongs(ctx, st); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	first, err := keyring.Share(ctx, st, u.inst.PKI(), u.token)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	what := "with"
	if first {
		what = "first server on"
	}
	u.say("datastore", "%s %s", what, strings.Join(d.Endpoints, ", "))
	return st, nil
}

// rootCA is where each cluster says what its authority is, for the pods of a namespace that every cluster has.
const rootCA = "/registry/configmaps/kube-system/kube-root-ca.crt"

// belongs fails if a datastore without our keys holds another cluster's objects, which this server must not take for its own; or if it is empty, and this cluster's objects
// are in a store of its own, which it would seem to have lost.
func (u *up) belongs(ctx context.Context, st store.Store) error {
	if _, err := st.Get(ctx, keyring.Key); !errors.Is(err, store.ErrNotFound) {
		return nil // servers share it; whether this is one of them is seen next
	}
	rec, err := st.Get(ctx, rootCA)
	where := strings.Join(u.settings.Datastore.Endpoints, ", ")
	switch {
	case errors.Is(err, store.ErrNotFound):
		left, _ := os.ReadDir(u.inst.Store())
		if _, err := keyring.Token(u.inst.PKI()); err == nil || len(left) == 0 {
			return nil // it shared one before, or is new
		}
		own := u.settings
		own.Datastore = instance.Datastore{} // what was typed is not remembered, so that the old command works as it did
		return errors.Join(fmt.Errorf("%s is empty, and the cluster in %s has a store of its own: `sampan migrate --data-dir %s --datastore ...` moves it there; for a new cluster choose another --data-dir", where, u.inst.Dir, u.inst.Dir), u.inst.Save(own))
	case err != nil:
		return fmt.Errorf("look at what the datastore holds: %w", err)
	}
	o, err := kinds.Table().Decode(rec.Value)
	if err != nil {
		return fmt.Errorf("look at what the datastore holds: %w", err)
	}
	theirs := o.(*corev1.ConfigMap).Data["ca.crt"]
	if ours, err := os.ReadFile(filepath.Join(u.inst.PKI(), "ca.crt")); err == nil && strings.TrimSpace(theirs) == strings.TrimSpace(string(ours)) {
		return nil // it was moved there
	}
	return fmt.Errorf("%s holds the objects of another cluster, whose authority is not this server's: give an empty etcd with --datastore; if that cluster is to move to sampan, put its ca.crt and ca.key into %s first", where, u.inst.PKI())
}

// place learns this node's part of the pods' ranges from the cluster, once the server runs, and that its ranges are the cluster's.
func (u *up) place(ctx context.Context, srv *server.Server, labels map[string]string, taints []corev1.Taint) error {
	select {
	case <-srv.Cache.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := u.sameRanges(srv); err != nil {
		return err
	}
	kind, _ := srv.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Node"))
	name := u.settings.NodeName
	if srv.Cache.Snapshot().Get(kind, "", name) == nil {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
		as := auth.WithUser(ctx, auth.System("system:node:"+name))
		if _, err := srv.Registry.Create(as, kind, node, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make this server's node: %w", err)
		}
	}
	const patience = time.Minute // another server may have led until a moment ago
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	node, err := placed(waiting, srv.Cache, kind, name)
	if err != nil {
		return err
	}
	for _, text := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("read the pod range of node %s: %w", name, err)
		}
		if p.Addr().Is4() {
			u.settings.NodePart = p
		} else {
			u.settings.NodePart6 = p
		}
	}
	return u.inst.Save(u.settings)
}

// placed waits until the node has its part of the pods' range.
func placed(ctx context.Context, seen *cache.Cache, kind *resource.Kind, name string) (*corev1.Node, error) {
	snap := seen.Snapshot()
	w, err := seen.Watch(kind, cache.Selection{Fields: fields.OneTermEqualSelector("metadata.name", name)}, snap.Revision())
	if err != nil {
		return nil, fmt.Errorf("wait for the node's part of the pods' range: %w", err)
	}
	defer w.Stop()
	for obj := snap.Get(kind, "", name); ; {
		if obj != nil {
			if node := cache.Typed[*corev1.Node](obj); len(node.Spec.PodCIDRs) > 0 {
				return node, nil
			}
		}
		select {
		case e, ok := <-w.Events():
			if !ok {
				return nil, fmt.Errorf("wait for the node's part of the pods' range: %w", w.Err())
			}
			obj = e.Object
		case <-ctx.Done():
			return nil, fmt.Errorf("node %s has got no part of the pods' range: `kubectl describe node %s` may tell why: %w", name, name, ctx.Err())
		}
	}
}

// networkOf is what the cluster says of its address ranges and servers, if it does yet.
func networkOf(srv *server.Server) (n join.Network, known bool, err error) {
	kind, _ := srv.Table.ByKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	o := srv.Cache.Snapshot().Get(kind, metav1.NamespaceSystem, auth.NetworkName)
	if o == nil {
		return n, false, nil
	}
	n, err = join.NetworkIn(cache.Typed[*corev1.ConfigMap](o))
	return n, err == nil, err
}

// sameRanges fails if the cluster has other address ranges than this server was started with.
func (u *up) sameRanges(srv *server.Server) error {
	n, known, err := networkOf(srv)
	if err != nil || !known {
		return err // the first server is about to say it
	}
	text := func(list []netip.Prefix) string {
		var all []string
		for _, p := range list {
			all = append(all, p.Masked().String())
		}
		return strings.Join(all, ",")
	}
	if pods, services := text(n.Pods), text(n.Services); pods != text(u.settings.Pods()) || services != text(u.settings.Services()) {
		return fmt.Errorf("the cluster has other address ranges than this server: start it with --pod-range %s --service-range %s", pods, services)
	}
	return nil
}
