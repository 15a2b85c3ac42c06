package serviceaccount

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

type town struct {
	ns      *corev1.Namespace
	account *corev1.ServiceAccount
	created []string
	fail    error
}

func (w *town) Namespace(string) *corev1.Namespace                   { return w.ns }
func (w *town) ServiceAccount(string, string) *corev1.ServiceAccount { return w.account }
func (w *town) CreateServiceAccount(_ context.Context, a *corev1.ServiceAccount) error {
	w.created = append(w.created, a.Namespace+"/"+a.Name)
	return w.fail
}

func TestReconcile(t *testing.T) {
	now := metav1.Now()
	active, ending := &corev1.Namespace{}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}
	for _, c := range []struct {
		name    string
		town    town
		created bool
		fails   bool
	}{
		{"a namespace without gets one", town{ns: active}, true, false},
		{"one that is there stays", town{ns: active, account: &corev1.ServiceAccount{}}, false, false},
		{"a namespace that is going gets none", town{ns: ending}, false, false},
		{"a namespace that is gone gets none", town{}, false, false},
		{"another was faster", town{ns: active, fail: apierrors.NewAlreadyExists(corev1.Resource("serviceaccounts"), Name)}, true, false},
		{"a failure is tried again", town{ns: active, fail: errors.New("disk full")}, true, true},
	} {
		err := New(&c.town, &c.town, nil, nil).Reconcile(t.Context(), loop.Key{Name: "shop"})
		if (len(c.town.created) == 1) != c.created || (err != nil) != c.fails {
			t.Errorf("%s: created %q, error %v", c.name, c.town.created, err)
		}
	}
}
