package server

import (
	"context"
	"fmt"
	"time"

	coordination "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/server/loops"
)

// leaderLease is the Lease, in kube-system, of the server that runs the control loops.
const leaderLease = "sampan-control-loops"

// Self is what a server that shares its datastore is to the others.
type Self struct {
	Name string // no two servers have the same; that of its node
	ID   string // of its data directory: another one with that name is a mistake
	Run  string // of this start
}

func (s Self) holder() string { return s.Name + "_" + s.Run }

// leases keeps Leases in kube-system. It implements leader.Leases.
type leases struct{ *Server }

func (l leases) kind() *resource.Kind {
	k, _ := l.Table.ByKind(coordination.SchemeGroupVersion.WithKind("Lease"))
	return k
}

// leaseNamespace makes kube-system if it is not there: the loop that keeps it needs a leader, and leaders a place for their Lease.
func (s *Server) leaseNamespace(ctx context.Context) error {
	kind, _ := s.Table.ByKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if s.Cache.Snapshot().Get(kind, "", metav1.NamespaceSystem) != nil {
		return nil
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}}
	if _, err := s.Registry.Create(ctx, kind, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the namespace of the servers' leases: %w", err)
	}
	return nil
}

func (l leases) Lease(name string) *coordination.Lease {
	if o := l.Cache.Snapshot().Get(l.kind(), metav1.NamespaceSystem, name); o != nil {
		return cache.Typed[*coordination.Lease](o)
	}
	return nil
}

func (l leases) Put(ctx context.Context, lease *coordination.Lease) (*coordination.Lease, error) {
	var o resource.Object
	var err error
	if lease.ResourceVersion == "" {
		o, err = l.Registry.Create(ctx, l.kind(), lease.DeepCopy(), metav1.CreateOptions{})
	} else {
		o, _, err = l.Registry.Update(ctx, l.kind(), "", lease.Namespace, lease.Name, func(current resource.Object) (resource.Object, error) {
			if current == nil {
				return nil, apierrors.NewNotFound(l.kind().GroupResource(), lease.Name)
			}
			return lease.DeepCopy(), nil
		}, metav1.UpdateOptions{})
	}
	if err != nil {
		return nil, err
	}
	return o.(*coordination.Lease), nil
}

func (l leases) OnChange(name string, mark func()) (stop func()) {
	return l.Cache.OnChanges([]*resource.Kind{l.kind()}, func(_ *resource.Kind, old, new *cache.Object) {
		o := new
		if o == nil {
			o = old
		}
		if o.Name() == name && o.Namespace() == metav1.NamespaceSystem {
			mark()
		}
	})
}

// presence is how often a server says that it is there. For how long that holds is loops.ServerLease.
const presence = loops.ServerLease / 3

// present keeps the Lease by which others know that this server is there, and takes it away at the end. It fails if another server has this one's name: the one that was
// there first keeps it.
func (s *Server) present(ctx context.Context) error {
	own := leases{s}
	name := loops.ServerPrefix + s.self.Name
	tick := time.NewTicker(presence)
	defer tick.Stop()
	for {
		if err := s.alone(own.Lease(name)); err != nil {
			return err
		}
		lease := s.mine(own.Lease(name), name)
		if _, err := own.Put(ctx, lease); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			s.log.Warn("the lease by which other servers know this one was not renewed", "lease", name, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), presence)
			defer cancel()
			if _, _, err := s.Registry.Delete(end, own.kind(), metav1.NamespaceSystem, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				s.log.Warn("the lease by which other servers know this one was not taken away", "lease", name, "error", err)
			}
			return nil
		}
	}
}

// alone fails if another server has this one's name.
func (s *Server) alone(lease *coordination.Lease) error {
	if lease == nil || lease.Annotations[loops.ServerID] == s.self.ID || lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) > loops.ServerLease {
		return nil
	}
	return fmt.Errorf("the name %q is that of the server at %s: start this one with another --node-name", s.self.Name, lease.Annotations[loops.ServerAddress])
}

// mine is the Lease as it shall be now.
func (s *Server) mine(have *coordination.Lease, name string) *coordination.Lease {
	l := &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name}}
	if have != nil {
		l = have.DeepCopy()
	}
	l.Labels = map[string]string{loops.ServerLabel: "kube-apiserver"}
	l.Annotations = map[string]string{loops.ServerAddress: s.at.String(), loops.ServerID: s.self.ID}
	now := metav1.NowMicro()
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = new(s.self.holder()), new(int32(loops.ServerLease/time.Second)), &now
	return l
}
