package apiserver_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "nginx", Image: "nginx:latest"}}},
	}
}

func TestTypedClientsUseEveryVerb(t *testing.T) {
	for _, format := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		t.Run(format, func(t *testing.T) {
			c := start(t)
			config := c.admin()
			config.ContentType, config.AcceptContentTypes = format, format
			pods := c.typed(config).CoreV1().Pods("default")
			ctx := context.Background()

			made, err := pods.Create(ctx, pod("a"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if made.UID == "" || made.ResourceVersion == "" || made.Status.Phase != corev1.PodPending || made.Namespace != "default" {
				t.Errorf("created: %+v", made)
			}
			if _, err := pods.Create(ctx, pod("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) || err.Error() != `pods "a" already exists` {
				t.Errorf("created twice: %v", err)
			}
			got, err := pods.Get(ctx, "a", metav1.GetOptions{})
			if err != nil || got.UID != made.UID || got.Spec.Containers[0].Image != "nginx:latest" {
				t.Errorf("got %+v: %v", got, err)
			}
			if _, err := pods.Get(ctx, "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) || err.Error() != `pods "b" not found` {
				t.Errorf("got what is not there: %v", err)
			}
			got.Labels["tier"] = "front"
			updated, err := pods.Update(ctx, got, metav1.UpdateOptions{})
			if err != nil || updated.Labels["tier"] != "front" || updated.ResourceVersion == made.ResourceVersion {
				t.Fatalf("updated %+v: %v", updated, err)
			}
			if _, err := pods.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("updated an old version: %v", err)
			}
			updated.Status.Phase = corev1.PodRunning
			updated.Labels["tier"] = "back"
			if updated, err = pods.UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil || updated.Status.Phase != corev1.PodRunning {
				t.Fatalf("updated status %+v: %v", updated, err)
			}
			if updated.Labels["tier"] != "front" && updated.Labels["tier"] != "back" {
				t.Errorf("labels: %v", updated.Labels)
			}
			for kind, patch := range map[types.PatchType]string{
				types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels/patched","value":"json"}]`,
				types.MergePatchType:          `{"metadata":{"labels":{"patched":"merge"}}}`,
				types.StrategicMergePatchType: `{"metadata":{"labels":{"patched":"strategic"}},"spec":{"containers":[{"name":"nginx","image":"nginx:1"}]}}`,
			} {
				patched, err := pods.Patch(ctx, "a", kind, []byte(patch), metav1.PatchOptions{})
				if err != nil || patched.Labels["patched"] == "" || patched.Labels["app"] != "web" {
					t.Errorf("%s: %+v: %v", kind, patched, err)
				}
			}
			for i := range 3 {
				if _, err := pods.Create(ctx, pod(fmt.Sprintf("b%d", i)), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
			if err != nil || len(list.Items) != 4 || list.ResourceVersion == "" {
				t.Fatalf("list %+v: %v", list, err)
			}
			if list.Items[0].Kind != "" || list.Items[0].Spec.Containers[0].Image != "nginx:1" {
				t.Errorf("first of the list: %+v", list.Items[0])
			}
			if list, err = pods.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=b1"}); err != nil || len(list.Items) != 1 {
				t.Errorf("list by name %+v: %v", list, err)
			}
			zero := int64(0)
			if err := pods.Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
				t.Fatal(err)
			}
			if err := pods.Delete(ctx, "a", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("deleted twice: %v", err)
			}
			if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{LabelSelector: "app=web"}); err != nil {
				t.Fatal(err)
			}
			if list, err = pods.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
				t.Errorf("left %+v: %v", list, err)
			}
		})
	}
}
