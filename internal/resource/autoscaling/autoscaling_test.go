package autoscaling

import (
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatal(err)
	}
	return o
}

func text(errs field.ErrorList) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

const ref = "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, maxReplicas: 5"

func TestDefaults(t *testing.T) {
	h := parse[autoscalingv2.HorizontalPodAutoscaler](t, "spec: {"+ref+", behavior: {scaleDown: {selectPolicy: Disabled}, scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 60}]}}}")
	HorizontalPodAutoscaler().Default(h)
	want := parse[autoscalingv2.HorizontalPodAutoscaler](t, "spec: {"+ref+`, minReplicas: 1,
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}], behavior: {
  scaleUp: {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 1, periodSeconds: 60}]},
  scaleDown: {selectPolicy: Disabled, policies: [{type: Percent, value: 100, periodSeconds: 15}]}}}`)
	if !equality.Semantic.DeepEqual(h, want) {
		t.Error(diff.Diff(want, h))
	}
	if errs := HorizontalPodAutoscaler().Validate(h); len(errs) > 0 {
		t.Error(text(errs))
	}
	plain := parse[autoscalingv2.HorizontalPodAutoscaler](t, "spec: {"+ref+"}")
	if HorizontalPodAutoscaler().Default(plain); plain.Spec.Behavior != nil {
		t.Errorf("%+v", plain.Spec.Behavior)
	}
}

func TestAutoscalersThatAreWrong(t *testing.T) {
	const cpu = "metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]"
	const known = `"ContainerResource", "External", "Object", "Pods", "Resource"`
	for name, c := range map[string]struct{ spec, want string }{
		"nothing is wrong":      {"{" + ref + "}", ""},
		"no maximum":            {"{scaleTargetRef: {apiVersion: apps/v1, kind: D, name: w}}", "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`\nspec.maxReplicas: Required value"},
		"a negative maximum":    {"{scaleTargetRef: {apiVersion: apps/v1, kind: D, name: w}, minReplicas: -2, maxReplicas: -1}", "spec.minReplicas: Invalid value: -2: must be greater than or equal to 1\nspec.maxReplicas: Invalid value: -1: must be greater than or equal to 1"},
		"the minimum is higher": {"{" + ref + ", minReplicas: 6}", "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"},
		"none at all": {
			"{" + ref + ", minReplicas: 0}",
			"spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas\nspec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
		},
		"no target": {"{maxReplicas: 1}", "spec.scaleTargetRef.kind: Required value\nspec.scaleTargetRef.name: Required value\nspec.scaleTargetRef.apiVersion: Invalid value: \"\": apiVersion must specify API group"},
		"a target that is no name": {
			"{maxReplicas: 1, scaleTargetRef: {apiVersion: a/b/c, kind: D/x, name: ..}}",
			"spec.scaleTargetRef.kind: Invalid value: \"D/x\": may not contain '/'\nspec.scaleTargetRef.name: Invalid value: \"..\": may not be '..'\nspec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
		},
		"a ReplicationController has no group": {"{maxReplicas: 1, scaleTargetRef: {apiVersion: v1, kind: ReplicationController, name: rc}}", ""},
		"a metric of no type": {
			"{" + ref + ", metrics: [{}]}",
			"spec.metrics[0].type: Required value: must specify a metric source type\nspec.metrics[0].type: Unsupported value: \"\": supported values: " + known + "\nspec.metrics[0].type: Unsupported value: \"\": supported values: " + known,
		},
		"a source of another type": {
			"{" + ref + ", metrics: [{type: Pods, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}",
			"spec.metrics[0].pods: Required value: must populate information for the given metric source",
		},
		"two sources": {
			"{" + ref + ", metrics: [{type: Resource, pods: {metric: {name: m}, target: {type: AverageValue, averageValue: 1}}, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}",
			"spec.metrics[0].pods: Forbidden: must populate the given metric source only",
		},
		"a resource without target": {
			"{" + ref + ", metrics: [{type: Resource, resource: {target: {type: Utilization}}}]}",
			"spec.metrics[0].resource.name: Required value: must specify a resource name\nspec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
		},
		"a resource with two targets": {
			"{" + ref + ", metrics: [{type: Resource, resource: {name: cpu, target: {type: Many, averageUtilization: 0, averageValue: 0}}}]}",
			"spec.metrics[0].resource.target.type: Invalid value: \"Many\": must be either Utilization, Value, or AverageValue\nspec.metrics[0].resource.target.averageValue: Invalid value: \"0\": must be positive\n" +
				"spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0\nspec.metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization",
		},
		"a container without name": {
			"{" + ref + ", metrics: [{type: ContainerResource, containerResource: {name: cpu, container: '', target: {type: Utilization, averageUtilization: 80}}}]}",
			"spec.metrics[0].containerResource.container: Required value: must specify a container",
		},
		"pods without an average": {
			"{" + ref + ", metrics: [{type: Pods, pods: {metric: {name: ''}, target: {type: Value, value: 1}}}]}",
			"spec.metrics[0].pods.metric.name: Required value: must specify a metric name\nspec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
		},
		"an object": {
			"{" + ref + ", metrics: [{type: Object, object: {describedObject: {kind: Service, name: s, apiVersion: a/b/c}, metric: {name: m/n}, target: {type: ''}}}]}",
			"spec.metrics[0].object.describedObject.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c\nspec.metrics[0].object.metric.name: Invalid value: \"m/n\": may not contain '/'\n" +
				"spec.metrics[0].object.target.type: Required value: must specify a metric target type\nspec.metrics[0].object.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue\n" +
				"spec.metrics[0].object.target.averageValue: Required value: must set either a target value or averageValue",
		},
		"something outside, twice": {
			"{" + ref + ", metrics: [{type: External, external: {metric: {name: m}, target: {type: Value, value: 1, averageValue: 1}}}]}",
			"spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
		},
		"behaviors": {
			"{" + ref + ", " + cpu + ", behavior: {scaleUp: {stabilizationWindowSeconds: -1, selectPolicy: Most, policies: []}, scaleDown: {stabilizationWindowSeconds: 3601, tolerance: -1, policies: [{type: Few, value: 0, periodSeconds: 0}, {type: Pods, value: 1, periodSeconds: 1801}]}}}",
			"spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero\n" +
				"spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\"\nspec.behavior.scaleUp.policies: Required value: must specify at least one Policy\n" +
				"spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600\n" +
				"spec.behavior.scaleDown.policies[0].type: Unsupported value: \"Few\": supported values: \"Percent\", \"Pods\"\nspec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero\n" +
				"spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 0: must be greater than zero\nspec.behavior.scaleDown.policies[1].periodSeconds: Invalid value: 1801: must be less than or equal to 1800\n" +
				"spec.behavior.scaleDown.tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := parse[autoscalingv2.HorizontalPodAutoscaler](t, "spec: "+c.spec)
			HorizontalPodAutoscaler().Default(h)
			if got := text(HorizontalPodAutoscaler().Validate(h)); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

func TestAnUpdateKeepsWhatWasWrongBefore(t *testing.T) {
	k := HorizontalPodAutoscaler()
	update := func(new, old string) string {
		n, o := parse[autoscalingv2.HorizontalPodAutoscaler](t, new), parse[autoscalingv2.HorizontalPodAutoscaler](t, old)
		n.ResourceVersion = "7"
		k.Default(n)
		return text(append(k.Validate(n), k.ValidateUpdate(n, o)...))
	}
	const bare, outside = "spec: {scaleTargetRef: {kind: Deployment, name: a}, maxReplicas: 2}", "metrics: [{type: External, external: {metric: {name: m}, target: {type: Value, value: 1}}}]"
	if got := update(strings.Replace(bare, "name: a", "name: b", 1), bare); got != "" {
		t.Errorf("same kind: %s", got)
	}
	if got := update(strings.Replace(bare, "Deployment", "StatefulSet", 1), bare); got != `spec.scaleTargetRef.apiVersion: Invalid value: "": apiVersion must specify API group` {
		t.Errorf("another kind: %s", got)
	}
	if got := update("spec: {"+ref+", minReplicas: 0, "+outside+"}", "spec: {"+ref+", minReplicas: 0, "+outside+"}"); got != "" {
		t.Errorf("zero as before: %s", got)
	}
	if got := update("spec: {"+ref+", minReplicas: 0, "+outside+"}", "spec: {"+ref+", minReplicas: 1, "+outside+"}"); got != "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1" {
		t.Errorf("zero anew: %s", got)
	}
}

const whole = "{metadata: {name: h, annotations: {mine: kept}}, spec: {" + ref + `, minReplicas: 2, metrics: [
  {type: Pods, pods: {metric: {name: p, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: 1k}}},
  {type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: o}, target: {type: Value, value: 10}}},
  {type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: o}, target: {type: AverageValue, averageValue: 5}}},
  {type: External, external: {metric: {name: e}, target: {type: AverageValue, averageValue: 300m}}},
  {type: ContainerResource, containerResource: {name: memory, container: c, target: {type: AverageValue, averageValue: 1Gi}}},
  {type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 60}}},
  {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}],
 behavior: {scaleUp: {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 4, periodSeconds: 15}]},
  scaleDown: {stabilizationWindowSeconds: 60, selectPolicy: Min, policies: [{type: Percent, value: 10, periodSeconds: 60}], tolerance: 50m}}},
 status: {observedGeneration: 3, lastScaleTime: "2026-01-02T03:04:05Z", currentReplicas: 3, desiredReplicas: 4,
  conditions: [{type: AbleToScale, status: "True", reason: R, message: M, lastTransitionTime: "2026-01-02T03:04:05Z"}],
  currentMetrics: [
  {type: Pods, pods: {metric: {name: p}, current: {averageValue: 2k}}}, {type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: o}, current: {value: 7}}},
  {type: Object, object: {describedObject: {kind: Service, name: s}, metric: {name: o}, current: {averageValue: 7}}},
  {type: External, external: {metric: {name: e}, current: {averageValue: 1}}}, {type: ContainerResource, containerResource: {name: memory, container: c, current: {averageValue: 2Gi}}},
  {type: ""}, {type: Resource, resource: {name: cpu, current: {averageUtilization: 70, averageValue: 700m}}}]}}`

func TestAllGoesThroughTheFirstVersionAndBack(t *testing.T) {
	v := HorizontalPodAutoscaler().Also[0]
	h := parse[autoscalingv2.HorizontalPodAutoscaler](t, whole)
	before := h.DeepCopy()
	one := v.FromStored(h).(*autoscalingv1.HorizontalPodAutoscaler)
	if p := one.Spec.TargetCPUUtilizationPercentage; p == nil || *p != 50 || *one.Status.CurrentCPUUtilizationPercentage != 70 || one.Kind != "HorizontalPodAutoscaler" || one.APIVersion != "autoscaling/v1" {
		t.Errorf("%+v", one)
	}
	if got, want := one.Annotations[behaviorNote], `{"ScaleUp":{"StabilizationWindowSeconds":0,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":null},`+
		`"ScaleDown":{"StabilizationWindowSeconds":60,"SelectPolicy":"Min","Policies":[{"Type":"Percent","Value":10,"PeriodSeconds":60}],"Tolerance":"50m"}}`; got != want {
		t.Errorf("behavior %s", got)
	}
	if got, want := one.Annotations[conditionsNote], `[{"type":"AbleToScale","status":"True","lastTransitionTime":"2026-01-02T03:04:05Z","reason":"R","message":"M"}]`; got != want {
		t.Errorf("conditions %s", got)
	}
	if got := one.Annotations[metricsNote]; !strings.HasPrefix(got, `[{"type":"Pods","pods":{"metricName":"p","targetAverageValue":"1k","selector":{"matchLabels":{"a":"b"}}}},`) || strings.Contains(got, `"cpu"`) {
		t.Errorf("metrics %s", got)
	}
	kept := one.DeepCopy()
	back := v.ToStored(one).(*autoscalingv2.HorizontalPodAutoscaler)
	back.TypeMeta = metav1.TypeMeta{}
	if !equality.Semantic.DeepEqual(back, before) || !equality.Semantic.DeepEqual(h, before) || !equality.Semantic.DeepEqual(one, kept) {
		t.Error(diff.Diff(before, back))
	}
}

func TestTheFirstVersionAlone(t *testing.T) {
	v := HorizontalPodAutoscaler().Also[0]
	stored := v.ToStored(parse[autoscalingv1.HorizontalPodAutoscaler](t, "{metadata: {annotations: {"+metricsNote+": '{', "+behaviorNote+": '[]'}}, spec: {"+ref+"}}")).(*autoscalingv2.HorizontalPodAutoscaler)
	if m := stored.Spec.Metrics; len(m) != 1 || *m[0].Resource.Target.AverageUtilization != 80 || stored.Spec.Behavior != nil || len(stored.Annotations) != 0 {
		t.Errorf("%+v", stored)
	}
	if one := v.FromStored(stored).(*autoscalingv1.HorizontalPodAutoscaler); *one.Spec.TargetCPUUtilizationPercentage != 80 || len(one.Annotations) != 0 {
		t.Errorf("%+v", one)
	}
}

func TestCopiesInAnnotationsAreNotStored(t *testing.T) {
	k := HorizontalPodAutoscaler()
	h := parse[autoscalingv2.HorizontalPodAutoscaler](t, "{metadata: {annotations: {mine: kept, "+conditionsNote+": '[]'}}, spec: {"+ref+"}, status: {currentReplicas: 3}}")
	k.PrepareCreate(h)
	if len(h.Annotations) != 1 || h.Generation != 1 || h.Status.CurrentReplicas != 0 {
		t.Errorf("%+v", h)
	}
	next := h.DeepCopy()
	next.Annotations[metricsNote], next.Spec.MaxReplicas, next.Status.CurrentReplicas = "[]", 9, 9
	if k.PrepareUpdate(next, h); len(next.Annotations) != 1 || next.Generation != 2 || next.Status.CurrentReplicas != 0 {
		t.Errorf("%+v", next)
	}
}

func TestRows(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, c := range map[string]struct{ object, want string }{
		"nothing is known yet": {"spec: {" + ref + ", metrics: [{type: Resource, resource: {name: cpu, target: {averageUtilization: 80}}}]}", "[ Deployment/web cpu: <unknown>/80% <unset> 5 0 <unknown>]"},
		"a part of many":       {whole, "[h Deployment/web 2k/1k, 7/10 + 5 more... 2 5 3 <unknown>]"},
		"amounts": {
			"{spec: {" + ref + ", minReplicas: 1, metrics: [{type: ContainerResource, containerResource: {name: memory, container: c, target: {averageValue: 1Gi}}}, {type: External, external: {metric: {name: e}, target: {averageValue: 2}}}]}," +
				"status: {currentMetrics: [{type: ContainerResource, containerResource: {name: memory, container: c, current: {averageValue: 2Gi}}}]}}",
			"[ Deployment/web memory: 2Gi/1Gi, <unknown>/2 (avg) 1 5 0 <unknown>]",
		},
		"no metrics": {"spec: {" + ref + "}", "[ Deployment/web <none> <unset> 5 0 <unknown>]"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fmt.Sprint(HorizontalPodAutoscaler().Row(parse[autoscalingv2.HorizontalPodAutoscaler](t, c.object), now)); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}
