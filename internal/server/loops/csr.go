package loops

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/csr"
	"sampan.dev/internal/resource"
)

// certificateRequests is the controller of requests for certificates; none where nobody can sign.
func certificateRequests(w *world) []part {
	if w.Signer == nil {
		return nil
	}
	s := requests{w, w.kindOf(certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"))}
	c := csr.New(s, s, w.Signer, w.Queues, w.Log)
	return []part{{account: "certificate-controller", run: c.Run, on: map[*resource.Kind]func(change){
		s.kind:  func(ch change) { c.Mark(ch.key) },
		w.nodes: func(ch change) { c.NodeChanged(ch.key.Name) },
	}}}
}

// requests shows requests for certificates to their controller.
type requests struct {
	*world
	kind *resource.Kind
}

func (r requests) Request(name string) *certificatesv1.CertificateSigningRequest {
	return get[*certificatesv1.CertificateSigningRequest](r.world, r.kind, "", name)
}

func (r requests) Requests() (all []*certificatesv1.CertificateSigningRequest) {
	for o := range r.Cache.Snapshot().List(r.kind, cache.Selection{}) {
		all = append(all, cache.Typed[*certificatesv1.CertificateSigningRequest](o))
	}
	return all
}

func (r requests) Node(name string) *corev1.Node {
	return get[*corev1.Node](r.world, r.nodes, "", name)
}

func (r requests) Key(node string) string {
	if m := get[*corev1.ConfigMap](r.world, r.configs, csr.Namespace, csr.Name); m != nil {
		return m.Data[node]
	}
	return ""
}

func (r requests) SetKey(ctx context.Context, node, key string) error {
	err := r.update(ctx, r.configs, "", csr.Namespace, csr.Name, "", func(o resource.Object) {
		m := o.(*corev1.ConfigMap)
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[node] = key
	})
	if apierrors.IsNotFound(err) {
		err = r.create(ctx, r.configs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: csr.Namespace, Name: csr.Name}, Data: map[string]string{node: key}})
	}
	return err
}

func (r requests) change(ctx context.Context, sub, name string, change func(*certificatesv1.CertificateSigningRequest)) error {
	return r.update(ctx, r.kind, sub, "", name, "", func(o resource.Object) { change(o.(*certificatesv1.CertificateSigningRequest)) })
}

func (r requests) Approval(ctx context.Context, name string, change func(*certificatesv1.CertificateSigningRequest)) error {
	return r.change(ctx, "approval", name, change)
}

func (r requests) Status(ctx context.Context, name string, change func(*certificatesv1.CertificateSigningRequest)) error {
	return r.change(ctx, "status", name, change)
}

func (r requests) Delete(ctx context.Context, o *certificatesv1.CertificateSigningRequest) error {
	return r.delete(ctx, r.kind, "", o.Name, csr.DeleteOptions(o))
}
