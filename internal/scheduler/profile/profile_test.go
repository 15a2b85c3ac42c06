package profile

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func TestWithoutAFileThereAreKubernetesDefaults(t *testing.T) {
	got, empty := Default(), must(t, head)
	if !reflect.DeepEqual(got, empty) {
		t.Errorf("a file that says nothing gives %+v, none at all %+v", empty, got)
	}
	p := got.Profiles[0]
	if p.Name != "default-scheduler" || !p.Preempts || p.Percentage != 0 || got.FirstBackoff != time.Second || got.MostBackoff != 10*time.Second {
		t.Errorf("%+v", got)
	}
	if filters := strings.Join(p.Filters, " "); filters != "NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions VolumeBinding VolumeZone PodTopologySpread InterPodAffinity" {
		t.Error(filters)
	}
	if fmt.Sprint(p.Weights) != "map[ImageLocality:1 InterPodAffinity:2 NodeAffinity:2 NodeResourcesBalancedAllocation:1 NodeResourcesFit:1 PodTopologySpread:2 TaintToleration:3]" {
		t.Error(p.Weights)
	}
	if fmt.Sprint(p.Fit, p.Balanced, p.Spread, p.InterPod, p.Candidates) != "{[] [] LeastAllocated [{cpu 1} {memory 1}] []} [cpu memory] {true []} {1 false} {10 100}" {
		t.Error(p.Fit, p.Balanced, p.Spread, p.InterPod, p.Candidates)
	}
}

func must(t *testing.T, text string) Config {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestWhatTakesPart(t *testing.T) {
	scores := func(p Profile) (list []string) {
		for _, name := range slices.Sorted(maps.Keys(p.Weights)) {
			list = append(list, fmt.Sprint(name, "=", p.Weights[name]))
		}
		return list
	}
	for _, c := range []struct{ name, plugins, filters, scores string }{
		{
			"a score is disabled, another has another weight", "{score: {disabled: [{name: NodeResourcesBalancedAllocation}], enabled: [{name: NodeResourcesFit, weight: 50}]}}",
			"NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions VolumeBinding VolumeZone PodTopologySpread InterPodAffinity",
			"ImageLocality=1 InterPodAffinity=2 NodeAffinity=2 NodeResourcesFit=50 PodTopologySpread=2 TaintToleration=3",
		},
		{
			"all scores but one are disabled", `{score: {disabled: [{name: "*"}], enabled: [{name: ImageLocality}]}}`,
			"NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions VolumeBinding VolumeZone PodTopologySpread InterPodAffinity",
			"ImageLocality=1",
		},
		{
			"a plugin is disabled wherever it takes part", "{multiPoint: {disabled: [{name: InterPodAffinity}, {name: PodTopologySpread}]}}",
			"NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions VolumeBinding VolumeZone",
			"ImageLocality=1 NodeAffinity=2 NodeResourcesBalancedAllocation=1 NodeResourcesFit=1 TaintToleration=3",
		},
		{
			"only what is named takes part", `{multiPoint: {disabled: [{name: "*"}], enabled: [{name: SchedulingGates}, {name: PrioritySort}, {name: DefaultBinder}, {name: NodeResourcesFit, weight: 7}, {name: NodeName}]}}`,
			"NodeResourcesFit NodeName", "NodeResourcesFit=7",
		},
		{
			"what is named at a point goes first there", "{filter: {enabled: [{name: NodePorts}, {name: NodeName}]}}",
			"NodePorts NodeName NodeUnschedulable TaintToleration NodeAffinity NodeResourcesFit VolumeRestrictions VolumeBinding VolumeZone PodTopologySpread InterPodAffinity",
			"ImageLocality=1 InterPodAffinity=2 NodeAffinity=2 NodeResourcesBalancedAllocation=1 NodeResourcesFit=1 PodTopologySpread=2 TaintToleration=3",
		},
		{
			"a plugin of multiPoint has another weight", "{multiPoint: {enabled: [{name: TaintToleration, weight: 9}]}}",
			"NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions VolumeBinding VolumeZone PodTopologySpread InterPodAffinity",
			"ImageLocality=1 InterPodAffinity=2 NodeAffinity=2 NodeResourcesBalancedAllocation=1 NodeResourcesFit=1 PodTopologySpread=2 TaintToleration=9",
		},
		{
			"what is not served may be disabled", "{multiPoint: {disabled: [{name: DynamicResources}, {name: NodeVolumeLimits}, {name: EBSLimits}]}, filter: {disabled: [{name: NodeName}]}}",
			"NodeUnschedulable TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions VolumeBinding VolumeZone PodTopologySpread InterPodAffinity",
			"ImageLocality=1 InterPodAffinity=2 NodeAffinity=2 NodeResourcesBalancedAllocation=1 NodeResourcesFit=1 PodTopologySpread=2 TaintToleration=3",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := must(t, head+"profiles: [{plugins: "+c.plugins+"}]").Profiles[0]
			if got := strings.Join(p.Filters, " "); got != c.filters {
				t.Errorf("filters\n  %s\nwant\n  %s", got, c.filters)
			}
			if got := strings.Join(scores(p), " "); got != c.scores {
				t.Errorf("scores\n  %s\nwant\n  %s", got, c.scores)
			}
		})
	}
}

func TestWhatIsSaidOfAProfile(t *testing.T) {
	c := must(t, head+`
percentageOfNodesToScore: 40
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
profiles:
- schedulerName: default-scheduler
- schedulerName: packer
  percentageOfNodesToScore: 100
  plugins:
    postFilter: {disabled: [{name: DefaultPreemption}]}
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResources: [example.com/foo]
      ignoredResourceGroups: [example.org]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: example.com/gpu}]
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}
  - {name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: 1}]}}
  - {name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}}
  - {name: InterPodAffinity, args: {hardPodAffinityWeight: 5, ignorePreferredTermsOfExistingPods: true}}
  - {name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: Exists}]}]}}}}
  - {name: DefaultPreemption, args: {minCandidateNodesPercentage: 20}}
`)
	if c.FirstBackoff != 2*time.Second || c.MostBackoff != 20*time.Second {
		t.Error(c.FirstBackoff, c.MostBackoff)
	}
	if p := c.Of(""); p.Name != "default-scheduler" || p.Percentage != 40 || !p.Preempts || p.Fit.Strategy != LeastAllocated {
		t.Errorf("%+v", p)
	}
	if c.Of("nobody") != nil {
		t.Error("nobody has a profile")
	}
	p := c.Of("packer")
	if got := fmt.Sprint(p.Preempts, p.Percentage, p.Fit, p.Balanced, p.InterPod, p.Candidates, p.Spread.System, len(p.Spread.Constraints)); got != "false 100 {[example.com/foo] [example.org] RequestedToCapacityRatio [{cpu 3} {example.com/gpu 1}] [{0 0} {100 10}]} [cpu] {5 true} {20 100} false 1" {
		t.Error(got)
	}
	if p.Added.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchExpressions[0].Key != "pool" {
		t.Error(p.Added)
	}
}

func TestWhatIsRefused(t *testing.T) {
	args := func(name, args string) string {
		return "profiles: [{pluginConfig: [{name: " + name + ", args: " + args + "}]}]"
	}
	for name, c := range map[string]struct{ text, want string }{
		"another version":       {"apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration", `a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1 is wanted; this is a "KubeSchedulerConfiguration" of "kubescheduler.config.k8s.io/v1beta3"`},
		"no YAML":               {"a: [", "yaml: line 1: did not find expected node content"},
		"extenders":             {head + "extenders: [{urlPrefix: http://x}]", "line 3: extenders: Forbidden: not served here: extenders are not served: this scheduler asks nobody over HTTP"},
		"a field with a typo":   {head + "profiles:\n- schedulerName: a\n  plugin: {}", "line 5: profiles[0].plugin: Forbidden: there is no such field"},
		"a field twice":         {head + "profiles: []\nprofiles: []", `yaml: unmarshal errors: line 4: key "profiles" already set in map`},
		"two of one name":       {head + "profiles:\n- schedulerName: a\n- schedulerName: a", `line 5: profiles[1].schedulerName: Duplicate value: "profiles[0].schedulerName"`},
		"two, one without name": {head + "profiles:\n- schedulerName: a\n- plugins: {}", "line 5: profiles[1].schedulerName: Required value"},
		"an unknown point":      {head + "profiles: [{plugins: {filters: {}}}]", `line 3: profiles[0].plugins.filters: Invalid value: "filters": no extension point has that name`},
		"an unknown plugin":     {head + "profiles: [{plugins: {score: {enabled: [{name: Mine}]}}}]", `line 3: profiles[0].plugins.score.enabled[0]: Invalid value: "Mine": the plugin "Mine" does not exist here; there are ` + fmt.Sprint(known())},
		"an unknown one, off":   {head + "profiles: [{plugins: {score: {disabled: [{name: Mine}]}}}]", `line 3: profiles[0].plugins.score.disabled[0]: Invalid value: "Mine": the plugin "Mine" does not exist here; there are ` + fmt.Sprint(known())},
		"a plugin of old":       {head + "profiles: [{plugins: {filter: {enabled: [{name: EBSLimits}]}}}]", `line 3: profiles[0].plugins.filter.enabled[0]: Invalid value: "EBSLimits": was invalid in version "kubescheduler.config.k8s.io/v1" (KubeSchedulerConfiguration is version "kubescheduler.config.k8s.io/v1")`},
		"what is not served":    {head + "profiles: [{plugins: {multiPoint: {enabled: [{name: DynamicResources}]}}}]", `line 3: profiles[0].plugins.multiPoint.enabled[0]: Invalid value: "DynamicResources": DynamicResources is not served here: it may only be disabled`},
		"at the wrong point":    {head + "profiles: [{plugins: {score: {enabled: [{name: NodePorts}]}}}]", `line 3: profiles[0].plugins.score.enabled[0]: Invalid value: "NodePorts": plugin "NodePorts" does not extend score`},
		"a plugin twice":        {head + "profiles: [{plugins: {score: {enabled: [{name: ImageLocality}, {name: ImageLocality}]}}}]", `line 3: profiles[0].plugins.score.enabled[1]: Invalid value: "ImageLocality": plugin "ImageLocality" already registered`},
		"no order of pods":      {head + `profiles: [{plugins: {queueSort: {disabled: [{name: "*"}]}}}]`, `line 3: profiles[0].plugins.queueSort: Invalid value: null: only one queue sort plugin required for profile with scheduler name "default-scheduler", but got 0`},
		"nobody who binds":      {head + `profiles: [{plugins: {bind: {disabled: [{name: DefaultBinder}]}}}]`, `line 3: profiles[0].plugins.bind: Invalid value: null: at least one bind plugin is needed for profile with scheduler name "default-scheduler"`},
		"gates that hold not":   {head + `profiles: [{plugins: {preEnqueue: {disabled: [{name: SchedulingGates}]}}}]`, `line 3: profiles[0].plugins.preEnqueue: Invalid value: ["DefaultPreemption"]: SchedulingGates cannot be disabled here: pods with scheduling gates are never bound`},
		"half a plugin":         {head + `profiles: [{plugins: {preFilter: {disabled: [{name: NodePorts}]}}}]`, "NodePorts is one piece at preFilter and filter here: disable it at both, or at neither"},
		"weights beyond all":    {head + `profiles: [{plugins: {score: {enabled: [{name: ImageLocality, weight: 2147483647}]}}}]`, "total score of Score plugins could overflow"},
		"a share above all":     {head + "percentageOfNodesToScore: 101", "line 3: percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"},
		"no backoff":            {head + "podInitialBackoffSeconds: 0", "line 3: podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"},
		"a backoff that falls":  {head + "podMaxBackoffSeconds: 0", "line 3: podMaxBackoffSeconds: Invalid value: 0: must be greater than or equal to PodInitialBackoffSeconds"},
		"args of another":       {head + args("NodeResourcesFit", "{kind: NodeAffinityArgs}"), `line 3: profiles[0].pluginConfig[0].args: Invalid value: "NodeAffinityArgs": has to match plugin args: NodeResourcesFitArgs of kubescheduler.config.k8s.io/v1`},
		"args with a typo":      {head + args("NodeResourcesFit", "{strategy: {}}"), "line 3: profiles[0].pluginConfig[0].args.strategy: Forbidden: there is no such field"},
		"args of none":          {head + args("NodePorts", "{}"), `line 3: profiles[0].pluginConfig[0].name: Invalid value: "NodePorts": NodePorts takes no args here`},
		"args twice":            {head + "profiles: [{pluginConfig: [{name: NodeAffinity}, {name: NodeAffinity}]}]", `line 3: profiles[0].pluginConfig[1]: Duplicate value: "NodeAffinity"`},
		"another strategy":      {head + args("NodeResourcesFit", "{scoringStrategy: {type: Random}}"), `line 3: profiles[0].pluginConfig[0].args.scoringStrategy.type: Unsupported value: "Random": supported values: "LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"`},
		"a ratio without shape": {head + args("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio}}"), `line 3: profiles[0].pluginConfig[0].args.scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is RequestedToCapacityRatio`},
		"a shape that falls":    {head + args("NodeResourcesFit", "{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 9, score: 1}, {utilization: 8, score: 11}]}}}"), "values must be sorted in increasing order"},
		"a group with a slash":  {head + args("NodeResourcesFit", "{ignoredResourceGroups: [a.b/c]}"), "resource group name can't contain '/'"},
		"a resource too heavy":  {head + args("NodeResourcesFit", "{scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 101}]}}"), "resource weight of cpu not in valid range (0, 100]"},
		"a balance of weights":  {head + args("NodeResourcesBalancedAllocation", "{resources: [{name: cpu, weight: 2}]}"), `args.resources[0].weight: Invalid value: 2: must be 1`},
		"lists by the system":   {head + args("PodTopologySpread", "{defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule}]}"), `args.defaultingType: Invalid value: "System": when .defaultConstraints are not empty`},
		"a default selector":    {head + args("PodTopologySpread", "{defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}"), "constraint must not define a selector, as they deduced for each pod"},
		"too hard an affinity":  {head + args("InterPodAffinity", "{hardPodAffinityWeight: 101}"), "args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]"},
		"affinity to nonsense":  {head + args("NodeAffinity", "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Like}]}]}}}"), "args.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution: Invalid value"},
		"no candidates":         {head + args("DefaultPreemption", "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}"), "cannot be zero at the same time as minCandidateNodesAbsolute"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.HasPrefix(c.want, "line") && err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(head + "profiles: [{plugins: {score: {disabled: [{name: '*'}]}}, pluginConfig: [{name: NodeAffinity, args: {}}]}]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text))
		if err == nil && (len(c.Profiles) == 0 || c.Profiles[0].Name == "" || c.FirstBackoff <= 0) {
			t.Errorf("%q gives %+v", text, c)
		}
	})
}
