package why

import (
	"cmp"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

const revisionAnnotation = "deployment.kubernetes.io/revision"

func replicasOf(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

// deployment explains a rollout that stands still.
func (l *look) deployment(d *appsv1.Deployment) state {
	want, have := replicasOf(d.Spec.Replicas), d.Status
	if d.Status.ObservedGeneration >= d.Generation && int(have.UpdatedReplicas) == want && int(have.AvailableReplicas) == want && int(have.Replicas) == want && !d.Spec.Paused {
		if want == 0 {
			return well("asks for no pods, and has none")
		}
		return well("is complete: %d of %d pods are updated and available", want, want)
	}
	s := ill("is not complete: of %d pods %d are updated and %d available", want, have.UpdatedReplicas, have.AvailableReplicas)
	if d.Status.ObservedGeneration < d.Generation {
		s.because("its latest change has not been looked at yet (generation %d, seen %d)", d.Generation, d.Status.ObservedGeneration)
	}
	if d.Spec.Paused {
		s.because("it is paused: changes of its template are not rolled out")
		s.advise("To let it go on: %s", kubectl(d.Namespace, "rollout resume deployment/"+d.Name))
		if int(have.AvailableReplicas) == want {
			s.Text = "is paused: " + count(want, "pod") + " available"
			return s
		}
	}
	message := ""
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded":
			s.because("no progress within %d s (progressDeadlineSeconds): %s", progressDeadline(d), c.Message)
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse:
			s.because("%s: %s", c.Reason, c.Message)
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			message = c.Message
		}
	}
	var sets []*appsv1.ReplicaSet
	for _, rs := range all[*appsv1.ReplicaSet](l, "replicasets", d.Namespace) {
		if ownedBy(rs, d) {
			sets = append(sets, rs)
		}
	}
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(b), revisionOf(a)) })
	if len(sets) == 0 {
		s.because("it has no ReplicaSet yet")
		return s
	}
	newest := sets[0]
	if message != "" || len(l.owned(newest)) < replicasOf(newest.Spec.Replicas) {
		l.refused(&s.Cause, newest, message)
	}
	l.group(&s.Cause, l.owned(newest), replicasOf(newest.Spec.Replicas))
	for _, old := range sets[1:] {
		pods := l.owned(old)
		if len(pods) == 0 {
			continue
		}
		c := s.because("%s of the revision before (replicaset/%s) %s still there", count(len(pods), "pod"), old.Name, isAre(len(pods)))
		if l.group(c, pods, len(pods)) == 0 {
			c.because("they stay until enough of the new ones are available")
		}
	}
	if len(s.Causes) == 0 {
		s.because("it is under way: nothing stands in its way")
	} else if len(sets) > 1 && replicasOf(newest.Spec.Replicas) > 0 && len(newest.Annotations) > 0 {
		s.advise("To go back to what was before: %s", kubectl(d.Namespace, "rollout undo deployment/"+d.Name))
	}
	return s
}

func progressDeadline(d *appsv1.Deployment) int32 {
	if d.Spec.ProgressDeadlineSeconds == nil {
		return 600
	}
	return *d.Spec.ProgressDeadlineSeconds
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

func revisionOf(rs *appsv1.ReplicaSet) int {
	n, _ := strconv.Atoi(rs.Annotations[revisionAnnotation]) // without one: the oldest
	return n
}

func (l *look) replicaSet(rs *appsv1.ReplicaSet) state {
	want := replicasOf(rs.Spec.Replicas)
	if int(rs.Status.AvailableReplicas) == want && int(rs.Status.Replicas) == want {
		if want == 0 {
			return well("asks for no pods, and has none")
		}
		return well("has its %s, and all are available", count(want, "pod"))
	}
	s := ill("is not complete: of %d pods %d are there and %d available", want, rs.Status.Replicas, rs.Status.AvailableReplicas)
	message := ""
	for _, c := range rs.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			message = c.Message
		}
	}
	pods := l.owned(rs)
	if message != "" || len(pods) < want {
		l.refused(&s.Cause, rs, message)
	}
	l.group(&s.Cause, pods, want)
	return orUnderWay(s)
}

func orUnderWay(s state) state {
	if len(s.Causes) == 0 {
		s.because("it is under way: nothing stands in its way")
	}
	return s
}

func (l *look) statefulSet(o *appsv1.StatefulSet) state {
	want := replicasOf(o.Spec.Replicas)
	current := o.Status.UpdateRevision == o.Status.CurrentRevision || o.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType || partition(o) > 0
	if o.Status.ObservedGeneration >= o.Generation && int(o.Status.AvailableReplicas) == want && int(o.Status.Replicas) == want && current {
		if want == 0 {
			return well("asks for no pods, and has none")
		}
		return well("has its %s, and all are available", count(want, "pod"))
	}
	s := ill("is not complete: of %d pods %d are there, %d ready and %d updated", want, o.Status.Replicas, o.Status.ReadyReplicas, o.Status.UpdatedReplicas)
	pods := l.owned(o)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(ordinal(a), ordinal(b)) })
	if len(pods) < want {
		l.refused(&s.Cause, o, "")
	}
	l.group(&s.Cause, pods, want)
	if len(s.Causes) > 0 && len(pods) < want && o.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
		s.because("%s not made before those have started: its pods come one after the other (podManagementPolicy %s)", countAre(want-len(pods), "pod"), appsv1.OrderedReadyPodManagement)
	}
	return orUnderWay(s)
}

func countAre(n int, noun string) string { return count(n, noun) + " " + isAre(n) }

func partition(o *appsv1.StatefulSet) int32 {
	if r := o.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return *r.Partition
	}
	return 0
}

func ordinal(p *corev1.Pod) int {
	n, _ := strconv.Atoi(p.Labels[appsv1.PodIndexLabel])
	return n
}

// ofDaemons are what every DaemonSet's pods tolerate.
var ofDaemons = func() (list []corev1.Toleration) {
	for _, key := range []string{
		corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeDiskPressure, corev1.TaintNodeMemoryPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeUnschedulable,
	} {
		list = append(list, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
	return list
}()

func (l *look) daemonSet(o *appsv1.DaemonSet) state {
	want := int(o.Status.DesiredNumberScheduled)
	seen := o.Status.ObservedGeneration >= o.Generation
	switch {
	case seen && want == 0:
		s := ill("runs nowhere: no node is meant")
		nodes := all[*corev1.Node](l, "nodes", "")
		template := &corev1.Pod{ObjectMeta: *o.Spec.Template.ObjectMeta.DeepCopy(), Spec: *o.Spec.Template.Spec.DeepCopy()}
		template.Namespace, template.Name = o.Namespace, o.Name
		template.Spec.Tolerations = append(template.Spec.Tolerations, ofDaemons...)
		l.elsewhere(&s, template, len(nodes))
		return s
	case seen && int(o.Status.NumberAvailable) == want && int(o.Status.UpdatedNumberScheduled) == want && o.Status.NumberMisscheduled == 0:
		return well("runs on %s, and is available there", count(want, "node"))
	}
	s := ill("is not complete: of %d nodes %d have its pod updated and %d available", want, o.Status.UpdatedNumberScheduled, o.Status.NumberAvailable)
	if !seen {
		s.because("its latest change has not been looked at yet (generation %d, seen %d)", o.Generation, o.Status.ObservedGeneration)
	}
	pods := l.owned(o)
	if len(pods) < want {
		l.refused(&s.Cause, o, "")
	}
	l.group(&s.Cause, pods, want)
	if n := o.Status.NumberMisscheduled; n > 0 {
		s.because("%s where it should not be any more", countAre(int(n), "pod"))
	}
	if o.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType && int(o.Status.UpdatedNumberScheduled) < want {
		s.because("its pods are replaced only when somebody deletes them (updateStrategy OnDelete)")
	}
	return orUnderWay(s)
}

func (l *look) job(j *batchv1.Job) state {
	want := replicasOf(j.Spec.Completions)
	pods := l.owned(j)
	for _, c := range j.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			return well("has completed: %d of %d pods succeeded", j.Status.Succeeded, want)
		case batchv1.JobFailed, batchv1.JobFailureTarget:
			s := ill("has failed: %s", c.Reason)
			s.because("%s", c.Message)
			l.group(&s.Cause, pods, len(pods))
			s.advise("It does not run again: to try anew, delete it and create it again (%s)", kubectl(j.Namespace, "delete job "+j.Name))
			return s
		}
	}
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		s := ill("is suspended: it has no pods while spec.suspend is true")
		s.advise("To let it run: %s", kubectl(j.Namespace, "patch job "+j.Name+` --type=merge -p '{"spec":{"suspend":false}}'`))
		return s
	}
	s := ill("is under way: %d of %d pods have succeeded, %d run and %d failed", j.Status.Succeeded, want, j.Status.Active, j.Status.Failed)
	if len(pods) == 0 && l.refused(&s.Cause, j, "") {
		s.Text = "has no pods"
	}
	if l.group(&s.Cause, pods, len(pods)) == 0 && len(s.Causes) == 0 {
		return well("is under way: %d of %d pods have succeeded, and %d run", j.Status.Succeeded, want, j.Status.Active)
	}
	if j.Status.Failed > 0 {
		most := int32(6)
		if j.Spec.BackoffLimit != nil {
			most = *j.Spec.BackoffLimit
		}
		s.because("after %s it is given up (backoffLimit)", count(int(most)+1, "failure"))
	}
	return s
}
