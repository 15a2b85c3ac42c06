package autoscale

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"sigs.k8s.io/yaml"
)

func specOf(t testing.TB, text string) *autoscalingv2.HorizontalPodAutoscalerSpec {
	t.Helper()
	s := &autoscalingv2.HorizontalPodAutoscalerSpec{}
	if err := yaml.UnmarshalStrict([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// ago makes points of pairs: how many, and how long ago in seconds.
func ago(pairs ...int) (points []point) {
	for i := 0; i < len(pairs); i += 2 {
		points = append(points, point{int32(pairs[i]), now.Add(-time.Duration(pairs[i+1]) * time.Second)})
	}
	return points
}

func TestBounds(t *testing.T) {
	const usual, within = "{minReplicas: 2, maxReplicas: 20}", "False DesiredWithinRange"
	behavior := func(up, down string) string {
		return "{minReplicas: 2, maxReplicas: 20, behavior: {scaleUp: " + up + ", scaleDown: " + down + "}}"
	}
	const (
		freely = "{stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Percent, value: 1000, periodSeconds: 15}]}"
		never  = "{stabilizationWindowSeconds: 0, selectPolicy: Disabled, policies: [{type: Percent, value: 100, periodSeconds: 15}]}"
	)
	for name, c := range map[string]struct {
		spec           string
		memory         Memory
		current, asked int32
		want           string // replicas, able, capped and why
	}{
		"as many as there are":                  {usual, Memory{}, 5, 5, "5 ReadyForNewScale " + within},
		"more":                                  {usual, Memory{}, 5, 8, "8 ReadyForNewScale " + within},
		"more than twice as many":               {usual, Memory{}, 5, 12, "10 ReadyForNewScale True ScaleUpLimit"},
		"of few, up to four":                    {usual, Memory{}, 1, 9, "4 ReadyForNewScale True ScaleUpLimit"},
		"more than the most":                    {usual, Memory{}, 15, 40, "20 ReadyForNewScale True TooManyReplicas"},
		"fewer":                                 {usual, Memory{}, 15, 3, "3 ReadyForNewScale " + within},
		"fewer than the least":                  {usual, Memory{}, 15, 1, "2 ReadyForNewScale True TooFewReplicas"},
		"fewer, but lately more were asked for": {usual, Memory{recommended: ago(12, 299, 6, 10)}, 15, 3, "12 ScaleDownStabilized " + within},

		"what was asked for long ago is forgotten":   {usual, Memory{recommended: ago(12, 301, 6, 10)}, 15, 3, "6 ScaleDownStabilized " + within},
		"exactly five minutes ago counts":            {usual, Memory{recommended: ago(12, 300)}, 15, 3, "12 ScaleDownStabilized " + within},
		"behavior: up at once":                       {behavior(freely, freely), Memory{}, 5, 18, "18 ReadyForNewScale " + within},
		"behavior: up only to what was asked for":    {behavior("{stabilizationWindowSeconds: 60, policies: [{type: Pods, value: 100, periodSeconds: 15}]}", freely), Memory{recommended: ago(7, 50, 12, 20)}, 5, 18, "7 ScaleUpStabilized " + within},
		"behavior: up, when that was long ago":       {behavior("{stabilizationWindowSeconds: 60, policies: [{type: Pods, value: 100, periodSeconds: 15}]}", freely), Memory{recommended: ago(7, 60, 12, 20)}, 5, 18, "12 ScaleUpStabilized " + within},
		"behavior: down after five minutes as usual": {behavior(freely, "{policies: [{type: Percent, value: 100, periodSeconds: 15}]}"), Memory{recommended: ago(12, 200)}, 15, 3, "12 ScaleDownStabilized " + within},
		"behavior: down at once":                     {behavior(freely, freely), Memory{recommended: ago(12, 200)}, 15, 3, "3 ReadyForNewScale " + within},
		"behavior: never down":                       {behavior(freely, never), Memory{}, 15, 3, "15 ReadyForNewScale True ScaleDownLimit"},
		"behavior: never up":                         {behavior(never, freely), Memory{}, 5, 9, "5 ReadyForNewScale True ScaleUpLimit"},
		"behavior: so many pods a minute":            {behavior("{stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 3, periodSeconds: 60}]}", freely), Memory{up: ago(1, 30, 5, 70)}, 5, 18, "7 ReadyForNewScale True ScaleUpLimit"},
		"behavior: those of this minute are used up": {behavior("{stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 3, periodSeconds: 60}]}", freely), Memory{up: ago(3, 30)}, 5, 18, "5 ReadyForNewScale True ScaleUpLimit"},
		"behavior: per cent, rounded up":             {behavior("{stabilizationWindowSeconds: 0, policies: [{type: Percent, value: 10, periodSeconds: 60}]}", freely), Memory{}, 5, 18, "6 ReadyForNewScale True ScaleUpLimit"},
		"behavior: the policy that allows most":      {behavior("{stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Percent, value: 10, periodSeconds: 60}, {type: Pods, value: 4, periodSeconds: 60}]}", freely), Memory{}, 5, 18, "9 ReadyForNewScale True ScaleUpLimit"},
		"behavior: the policy that allows least":     {behavior("{stabilizationWindowSeconds: 0, selectPolicy: Min, policies: [{type: Percent, value: 10, periodSeconds: 60}, {type: Pods, value: 4, periodSeconds: 60}]}", freely), Memory{}, 5, 18, "6 ReadyForNewScale True ScaleUpLimit"},
		"behavior: down, most":                       {behavior(freely, "{stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Percent, value: 50, periodSeconds: 60}, {type: Pods, value: 4, periodSeconds: 60}]}"), Memory{}, 15, 2, "7 ReadyForNewScale True ScaleDownLimit"},
		"behavior: down, least":                      {behavior(freely, "{stabilizationWindowSeconds: 0, selectPolicy: Min, policies: [{type: Percent, value: 50, periodSeconds: 60}, {type: Pods, value: 4, periodSeconds: 60}]}"), Memory{}, 15, 2, "11 ReadyForNewScale True ScaleDownLimit"},
		"behavior: down, what went in the period":    {behavior(freely, "{stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 4, periodSeconds: 60}]}"), Memory{down: ago(3, 10)}, 15, 2, "14 ReadyForNewScale True ScaleDownLimit"},
		"behavior: down, what came in the period":    {behavior(freely, "{stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 4, periodSeconds: 60}]}"), Memory{up: ago(3, 10)}, 15, 2, "8 ReadyForNewScale True ScaleDownLimit"},
		"behavior: more than the most":               {behavior(freely, freely), Memory{}, 15, 90, "20 ReadyForNewScale True TooManyReplicas"},
		"behavior: fewer than the least":             {behavior(freely, freely), Memory{}, 15, 0, "2 ReadyForNewScale True TooFewReplicas"},
	} {
		t.Run(name, func(t *testing.T) {
			b, m := bound(specOf(t, c.spec), c.memory, c.current, c.asked, now)
			if got := fmt.Sprint(b.replicas, " ", b.able.reason, " ", map[bool]string{true: "True", false: "False"}[b.capped], " ", b.limited.reason); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if last := m.recommended[len(m.recommended)-1]; last.n != c.asked || !last.at.Equal(now) {
				t.Errorf("remembered %+v", m.recommended)
			}
		})
	}
}

// Whatever the metrics ask for, a target that is in its bounds stays in them; and what is remembered does not grow for ever.
func TestWhateverIsAskedForTheBoundsHold(t *testing.T) {
	specs := []string{
		"{minReplicas: 2, maxReplicas: 20}",
		"{minReplicas: 1, maxReplicas: 50, behavior: {scaleUp: {stabilizationWindowSeconds: 30, selectPolicy: Min, policies: [{type: Pods, value: 4, periodSeconds: 60}, {type: Percent, value: 50, periodSeconds: 30}]}, scaleDown: {policies: [{type: Percent, value: 10, periodSeconds: 90}]}}}",
		"{minReplicas: 3, maxReplicas: 3, behavior: {scaleUp: {stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 4, periodSeconds: 15}]}, scaleDown: {selectPolicy: Disabled, policies: [{type: Pods, value: 1, periodSeconds: 15}]}}}",
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := specOf(t, specs[seed%uint64(len(specs))])
		least, current, m, at := leastOf(s), leastOf(s), Memory{}, now
		for step := range 300 {
			var b bounded
			asked := int32(r.IntN(80))
			b, m = bound(s, m, current, asked, at)
			if b.replicas < least || b.replicas > s.MaxReplicas {
				t.Fatalf("seed %d, step %d: %d replicas", seed, step, b.replicas)
			}
			// Without a behavior, what was asked for lately counts even if less is asked for now.
			if s.Behavior != nil && (b.replicas > current && b.replicas > max(asked, least)) || (b.replicas < current && b.replicas < asked) {
				t.Fatalf("seed %d, step %d: from %d to %d, asked for %d", seed, step, current, b.replicas, asked)
			}
			if b.replicas != current {
				m = m.scaled(s.Behavior, current, b.replicas, at)
			}
			current, at = b.replicas, at.Add(time.Duration(1+r.IntN(20))*time.Second)
			if len(m.recommended)+len(m.up)+len(m.down) > 800 {
				t.Fatalf("seed %d, step %d: %d points", seed, step, len(m.recommended)+len(m.up)+len(m.down))
			}
		}
		// What is asked for all the time is what it comes to.
		steady := least + r.Int32N(s.MaxReplicas-least+1)
		for range 600 {
			var b bounded
			if b, m = bound(s, m, current, steady, at); b.replicas != current {
				m = m.scaled(s.Behavior, current, b.replicas, at)
			}
			current, at = b.replicas, at.Add(Period)
		}
		if current != steady {
			t.Fatalf("seed %d: asked for %d, it came to %d", seed, steady, current)
		}
	}
}
