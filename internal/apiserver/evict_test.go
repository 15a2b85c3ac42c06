package apiserver_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestEvictionOverTheWire(t *testing.T) {
	c := start(t)
	ctx, pods := context.Background(), c.clients().CoreV1().Pods("default")
	p := pod("p")
	p.Labels, p.Spec.NodeName = map[string]string{"app": "web"}, "n1"
	made, err := pods.Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Status.Phase = corev1.PodRunning
	made.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if _, err := pods.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	const budgets, evict = "/apis/policy/v1/namespaces/default/poddisruptionbudgets", podsPath + "/p/eviction"
	const eviction = `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p","namespace":"default"}`
	response, body := c.ask("POST", budgets, `{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"b"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"web"}}}}`)
	if response.StatusCode != 201 {
		t.Fatalf("%d %s", response.StatusCode, body)
	}
	for name, step := range map[string]struct {
		body, status string
		code         int
		after        string
		want         []string
	}{
		"nobody has looked at the budget yet": {eviction + "}", `{}`, 429, "10", []string{`"reason":"TooManyRequests"`, `"message":"Cannot evict pod as it would violate the pod's disruption budget."`, `{"reason":"DisruptionBudget","message":"The disruption budget b is still being processed by the server."}`}},
		"the budget is used up":               {eviction + "}", `{"observedGeneration":1,"desiredHealthy":1,"currentHealthy":1,"disruptionsAllowed":0,"expectedPods":1}`, 429, "", []string{`{"reason":"DisruptionBudget","message":"The disruption budget b needs 1 healthy pods and has 1 currently"}`}},
		"dry runs that differ":                {eviction + `,"deleteOptions":{"dryRun":["All","All"]}}`, `{}`, 500, "", []string{"Non-matching dry-run options in request and content: [All] and [All All]"}},
		"a name that differs":                 {strings.Replace(eviction, `"p"`, `"q"`, 1) + "}", `{}`, 400, "", []string{"name in URL does not match name in Eviction object"}},
	} {
		t.Run(name, func(t *testing.T) {
			if response, body := c.ask("PATCH", budgets+"/b/status", `{"status":`+strings.Replace(step.status, "{}", `{"observedGeneration":0,"disruptionsAllowed":0,"currentHealthy":0,"desiredHealthy":0,"expectedPods":0}`, 1)+`}`, "Content-Type", "application/merge-patch+json"); response.StatusCode != 200 {
				t.Fatalf("%d %s", response.StatusCode, body)
			}
			path := evict
			if step.code == 500 {
				path += "?dryRun=All"
			}
			response, body := c.ask("POST", path, step.body)
			if response.StatusCode != step.code || response.Header.Get("Retry-After") != step.after {
				t.Errorf("%d after %q: %s", response.StatusCode, response.Header.Get("Retry-After"), body)
			}
			for _, want := range step.want {
				if !strings.Contains(body, want) {
					t.Errorf("%s\nwant %s", body, want)
				}
			}
		})
	}
	if p, err := pods.Get(ctx, "p", metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil {
		t.Errorf("%+v: %v", p, err)
	}
}
