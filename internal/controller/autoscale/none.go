package autoscale

import (
	"context"
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// None are the metrics of a cluster that serves none of the metrics APIs.
type None struct{}

// Resource says that metrics.k8s.io is not served.
func (None) Resource(context.Context, corev1.ResourceName, string, labels.Selector, string) (map[string]PodMetric, error) {
	return nil, errors.New("unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)")
}

var errNoCustom = errors.New("unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered")

// Pods says that custom.metrics.k8s.io is not served.
func (None) Pods(context.Context, string, string, labels.Selector, labels.Selector) (map[string]PodMetric, error) {
	return nil, errNoCustom
}

// Object says that custom.metrics.k8s.io is not served.
func (None) Object(context.Context, string, string, autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, error) {
	return 0, errNoCustom
}

// External says that external.metrics.k8s.io is not served.
func (None) External(_ context.Context, metric, _ string, _ labels.Selector) ([]int64, error) {
	return nil, fmt.Errorf("unable to fetch metrics from external metrics API: the server could not find the requested resource (get %s.external.metrics.k8s.io)", metric)
}
