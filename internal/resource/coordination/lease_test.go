package coordination

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLeasesThatAreWrong(t *testing.T) {
	zero, negative := int32(0), int32(-1)
	l := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: &zero, LeaseTransitions: &negative}}
	got := Lease().Validate(l)
	if len(got) != 2 ||
		got[0].Error() != "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0" ||
		got[1].Error() != "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0" {
		t.Errorf("told %v", got)
	}
	if errs := Lease().Validate(&coordinationv1.Lease{}); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestTheRowOfALeaseNamesItsHolder(t *testing.T) {
	now, holder := time.Unix(1000, 0), "n1"
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "x", CreationTimestamp: metav1.Unix(990, 0)}}
	if row := Lease().Row(l, now); row[0] != "x" || row[1] != "" || row[2] != "10s" {
		t.Errorf("is %v", row)
	}
	l.Spec.HolderIdentity = &holder
	if row := Lease().Row(l, now); row[1] != "n1" {
		t.Errorf("is %v", row)
	}
}

func TestFieldsOfCoordinatedElectionAreDropped(t *testing.T) {
	strategy, next := coordinationv1.OldestEmulationVersion, "n2"
	l := &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{Strategy: &strategy, PreferredHolder: &next}}
	Lease().PrepareCreate(l)
	if l.Spec.Strategy != nil || l.Spec.PreferredHolder != nil {
		t.Errorf("is %+v", l.Spec)
	}
}
