package rootca

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/loop"
)

type town struct {
	ns     *corev1.Namespace
	m      *corev1.ConfigMap
	writes int
}

func (w *town) Namespace(string) *corev1.Namespace         { return w.ns }
func (w *town) ConfigMap(string, string) *corev1.ConfigMap { return w.m }
func (w *town) CreateConfigMap(_ context.Context, m *corev1.ConfigMap) error {
	w.m = m
	w.writes++
	return nil
}

func (w *town) UpdateConfigMap(_ context.Context, _, _ string, change func(*corev1.ConfigMap)) error {
	w.m = w.m.DeepCopy()
	change(w.m)
	w.writes++
	return nil
}

func TestReconcilePublishesAndRepairs(t *testing.T) {
	now := metav1.Now()
	described := map[string]string{described: description}
	for _, c := range []struct {
		name   string
		town   town
		writes int
	}{
		{"a new namespace", town{ns: &corev1.Namespace{}}, 1},
		{"all is well", town{ns: &corev1.Namespace{}, m: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Annotations: described}, Data: map[string]string{Key: "PEM"}}}, 0},
		{"somebody changed it", town{ns: &corev1.Namespace{}, m: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Annotations: described}, Data: map[string]string{Key: "forged"}}}, 1},
		{"somebody added to it", town{ns: &corev1.Namespace{}, m: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Annotations: described}, Data: map[string]string{Key: "PEM", "x": "y"}}}, 1},
		{"the namespace is going", town{ns: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}}, 0},
		{"there is no namespace", town{}, 0},
	} {
		controller := New(&c.town, &c.town, "PEM", nil, nil)
		for range 2 { // the second time there is nothing left to do
			if err := controller.Reconcile(t.Context(), loop.Key{Name: "shop"}); err != nil {
				t.Fatal(err)
			}
		}
		if c.town.writes != c.writes || c.writes > 0 && (len(c.town.m.Data) != 1 || c.town.m.Data[Key] != "PEM") {
			t.Errorf("%s: %d writes, %v", c.name, c.town.writes, c.town.m)
		}
	}
}
