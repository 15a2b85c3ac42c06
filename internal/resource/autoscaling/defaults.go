package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// usualUtilization is the target where no metric is named: per cent of the requested CPU.
const usualUtilization = 80

func defaultSpec(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
	if s.MinReplicas == nil {
		s.MinReplicas = new(int32(1))
	}
	if len(s.Metrics) == 0 {
		s.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(usualUtilization)}
	}
	if b := s.Behavior; b != nil {
		b.ScaleUp = withDefaults(b.ScaleUp, &autoscalingv2.HPAScalingRules{
			StabilizationWindowSeconds: new(int32(0)),
			Policies: []autoscalingv2.HPAScalingPolicy{
				{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
				{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15},
			},
		})
		// Without a window: the controller has one.
		b.ScaleDown = withDefaults(b.ScaleDown, &autoscalingv2.HPAScalingRules{
			Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}},
		})
	}
}

func cpuUtilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

// withDefaults fills in what rules leave open.
func withDefaults(rules, usual *autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	usual.SelectPolicy = new(autoscalingv2.MaxChangePolicySelect)
	if rules == nil {
		return usual
	}
	if rules.SelectPolicy == nil {
		rules.SelectPolicy = usual.SelectPolicy
	}
	if rules.StabilizationWindowSeconds == nil {
		rules.StabilizationWindowSeconds = usual.StabilizationWindowSeconds
	}
	if rules.Policies == nil {
		rules.Policies = usual.Policies
	}
	return rules
}
