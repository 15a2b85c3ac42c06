// Package pressure says when a node is short of memory, disk or process ids, and which of its pods is to go.
//
// It watches and writes nothing: what was measured comes in as values, and what is to be done goes out as values. The agent measures and applies.
// Always: the same measurements give the same answer; a pod that the cluster cannot do without is never named; a pressure that has begun lasts for its whole
// hold after it was measured last, so that a node at the brink does not flap.
package pressure

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something of a node that can run short.
type Signal string

// The signals that are measured.
const (
	MemoryAvailable  Signal = "memory.available"
	NodeFsAvailable  Signal = "nodefs.available"
	NodeFsInodes     Signal = "nodefs.inodesFree"
	ImageFsAvailable Signal = "imagefs.available"
	ImageFsInodes    Signal = "imagefs.inodesFree"
	PIDAvailable     Signal = "pid.available"
)

// Names of what is counted beside Kubernetes' own resources, as they stand in messages.
const (
	inodes corev1.ResourceName = "inodes"
	pids   corev1.ResourceName = "pids"
)

// meanings say of each signal which resource is short, and which condition the node then has. The first is the most urgent: who is out of memory is killed, who is
// out of disk gets an error. Those without a condition are signals that people may write and that are ignored here, as upstream does without such a file system.
var meanings = []struct {
	signal    Signal
	resource  corev1.ResourceName
	condition corev1.NodeConditionType
}{
	{MemoryAvailable, corev1.ResourceMemory, corev1.NodeMemoryPressure},
	{NodeFsAvailable, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	{NodeFsInodes, inodes, corev1.NodeDiskPressure},
	{ImageFsAvailable, corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure},
	{ImageFsInodes, inodes, corev1.NodeDiskPressure},
	{PIDAvailable, pids, corev1.NodePIDPressure},
	{"allocatableMemory.available", corev1.ResourceMemory, ""},
	{"containerfs.available", corev1.ResourceEphemeralStorage, ""},
	{"containerfs.inodesFree", inodes, ""},
}

func rank(s Signal) int {
	for i, m := range meanings {
		if m.signal == s {
			return i
		}
	}
	return -1
}

// Resource is what runs short with the signal.
func (s Signal) Resource() corev1.ResourceName { return meanings[rank(s)].resource }

// Condition is what the node has when the signal is below its threshold.
func (s Signal) Condition() corev1.NodeConditionType { return meanings[rank(s)].condition }

// Threshold is the amount below which a node is short of something: a quantity, or a share of all there is.
type Threshold struct {
	Signal   Signal
	Quantity resource.Quantity
	Share    float32 // of the capacity; 0: the quantity counts
}

// Of is the threshold of something of that size, written as messages have it.
func (t Threshold) Of(capacity int64) resource.Quantity {
	if t.Share == 0 {
		return t.Quantity
	}
	return *resource.NewQuantity(int64(float64(capacity)*float64(t.Share)), resource.BinarySI)
}

// Default is what a node that was told nothing else evicts at, as upstream's.
const Default = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%"

// Parse reads thresholds as the kubelet's --eviction-hard takes them: SIGNAL<AMOUNT, several by commas. None: the node is never short of anything.
func Parse(text string) ([]Threshold, error) {
	values := map[Signal]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if pair == "" {
			continue
		}
		signal, value, ok := strings.Cut(pair, "<")
		if !ok {
			return nil, errors.New("malformed pair, expect string<string")
		}
		values[Signal(strings.TrimSpace(signal))] = strings.TrimSpace(value)
	}
	all := []Threshold{}
	for signal, value := range values {
		t, err := parse(signal, value)
		if err != nil {
			return nil, err
		}
		if t.Share != 0 || !t.Quantity.IsZero() {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b Threshold) int { return rank(a.Signal) - rank(b.Signal) })
	return all, nil
}

// parse reads one. The zero amount is of one that is switched off.
func parse(signal Signal, value string) (Threshold, error) {
	t := Threshold{Signal: signal}
	if rank(signal) < 0 {
		return t, fmt.Errorf("unsupported eviction signal %v", signal)
	}
	if text, percent := strings.CutSuffix(value, "%"); percent {
		if value == "0%" || value == "100%" {
			return t, nil
		}
		share, err := strconv.ParseFloat(text, 32)
		switch {
		case err != nil:
			return t, err
		case share < 0:
			return t, fmt.Errorf("eviction percentage threshold %v must be >= 0%%: %s", signal, value)
		case share > 100:
			return t, fmt.Errorf("eviction percentage threshold %v must be <= 100%%: %s", signal, value)
		}
		t.Share = float32(share) / 100
		return t, nil
	}
	quantity, err := resource.ParseQuantity(value)
	if err != nil {
		return t, err
	}
	if quantity.Sign() <= 0 {
		return t, fmt.Errorf("eviction threshold %v must be positive: %s", signal, &quantity)
	}
	t.Quantity = quantity
	return t, nil
}
