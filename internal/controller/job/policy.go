package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// judgement is what the pod failure policy says about a failed pod.
type judgement struct {
	counts  bool                            // towards the limits of failures
	action  *batchv1.PodFailurePolicyAction // of the rule that matched; nil if none did
	failure string                          // why the whole job fails, if it does
}

// judge finds the first rule that matches. Without one, and without a policy, a failure counts.
func judge(policy *batchv1.PodFailurePolicy, p *corev1.Pod) judgement {
	if policy == nil {
		return judgement{counts: true}
	}
	for i := range policy.Rules {
		rule := &policy.Rules[i]
		var why string
		if rule.OnExitCodes != nil {
			c := exitOf(p, rule.OnExitCodes)
			if c == nil {
				continue
			}
			why = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
				c.Name, p.Namespace, p.Name, c.State.Terminated.ExitCode, rule.Action, i)
		} else {
			c := conditionOf(p, rule.OnPodConditions)
			if c == nil {
				continue
			}
			why = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", p.Namespace, p.Name, c.Type, rule.Action, i)
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return judgement{action: &rule.Action}
		case batchv1.PodFailurePolicyActionFailJob:
			return judgement{counts: true, action: &rule.Action, failure: why}
		case batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionCount:
			return judgement{counts: true, action: &rule.Action}
		}
	}
	return judgement{counts: true}
}

// exitOf finds a container that ended with a code as the rule has it; containers come before init containers.
func exitOf(p *corev1.Pod, r *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			t := list[i].State.Terminated
			if t == nil || t.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != list[i].Name {
				continue
			}
			listed := slices.Contains(r.Values, t.ExitCode)
			if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && listed || r.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn && !listed {
				return &list[i]
			}
		}
	}
	return nil
}

func conditionOf(p *corev1.Pod, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		for _, pattern := range patterns {
			if c.Type == pattern.Type && c.Status == pattern.Status {
				return c
			}
		}
	}
	return nil
}

// satisfied says which rule of the success policy the indexes that have succeeded satisfy; "" if none.
func satisfied(policy *batchv1.SuccessPolicy, completions int, done indexes) string {
	if policy == nil || len(done) == 0 {
		return ""
	}
	for i, rule := range policy.Rules {
		met := false
		if rule.SucceededIndexes != nil {
			wanted := parseIndexes(*rule.SucceededIndexes, completions)
			n := wanted.common(done)
			met = len(wanted) > 0 && (n == wanted.total() || rule.SucceededCount != nil && n >= int(*rule.SucceededCount))
		} else {
			met = rule.SucceededCount != nil && done.total() >= int(*rule.SucceededCount)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i)
		}
	}
	return ""
}
