package clustertest

import "testing"

func TestConditions(t *testing.T) {
	object := []byte(`{
		"metadata": {"name": "web", "labels": {"a.b/c": "x"}, "generation": 3},
		"spec": {"replicas": 3, "containers": [{"image": "nginx"}]},
		"status": {"phase": "Running", "availableReplicas": 2, "conditions": [
			{"type": "Ready", "status": "True"},
			{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient cpu."}
		]}}`)
	for _, c := range []struct {
		condition string
		object    []byte
		holds     bool
	}{
		{"there", object, true},
		{"gone", object, false},
		{"gone", nil, true},
		{"there", nil, false},
		{"phase == Running", object, true},
		{"phase == Running", nil, false},
		{"phase != Running", object, false},
		{"status.phase ~ ^Run", object, true},
		{"available == 2", object, true},
		{"available >= 2 and phase == Running", object, true},
		{"available >= 2 and phase == Pending", object, false},
		{"available > 2", object, false},
		{"unavailable == 0", object, true},
		{"updated == 1", object, false},
		{"replicas == 3", object, true},
		{"generation < 4", object, true},
		{"name == web", object, true},
		{"Ready == True", object, true},
		{"PodScheduled.reason == Unschedulable", object, true},
		{"PodScheduled.message == 0/3 nodes are available: 3 Insufficient cpu.", object, true},
		{"metadata.labels.[a.b/c] == x", object, true},
		{"spec.containers.0.image == nginx", object, true},
		{"spec.containers.1.image == nginx", object, false},
		{`metadata.deletionTimestamp == ""`, object, true},
		{"count == 2", []byte(`{"count": 2}`), true},
	} {
		cond, err := parseCondition(c.condition)
		if err != nil {
			t.Error(err)
			continue
		}
		if holds, why := cond.holds(c.object); holds != c.holds {
			t.Errorf("%s: %t (%s), of %s", c.condition, holds, why, c.object)
		}
	}
	for _, bad := range []string{"", "phase", "phase =", "phase is Running", "phase ~ ("} {
		if _, err := parseCondition(bad); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}
