package simulate

import (
	"fmt"
	"hash/fnv"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// Span is a time that is drawn between two others.
type Span struct {
	Min metav1.Duration `json:"min"`
	Max metav1.Duration `json:"max"` // that of Min, if it is less
}

// Behaviour is how pods behave. What a profile leaves out is as in the defaults.
type Behaviour struct {
	Start *Span    `json:"start,omitempty"` // from the pod's start to its first container's: the time to pull images and make a sandbox
	Init  *Span    `json:"init,omitempty"`  // that each init container runs
	Ready *Span    `json:"ready,omitempty"` // from a container's start until it is ready
	Run   *Span    `json:"run,omitempty"`   // that containers run which are to end: those of Jobs, and of pods that are not always restarted
	Fail  *float64 `json:"fail,omitempty"`  // the share of a container's starts that end with an error, from 0 to 1
	Crash *Span    `json:"crash,omitempty"` // that a container runs before it ends so, where it was not to end
	Stop  *Span    `json:"stop,omitempty"`  // that a pod takes to end when it is deleted; no longer than its grace
}

// Profile is how some pods behave.
type Profile struct {
	Name     string                `json:"name,omitempty"`
	Selector *metav1.LabelSelector `json:"selector,omitempty"` // of the pods' labels; all, if there is none
	Image    string                `json:"image,omitempty"`    // a pattern that some container's image has to match; * is any text
	Behaviour

	selector labels.Selector
}

// Profiles are all of them: for a pod the first counts that fits.
type Profiles struct {
	Defaults Behaviour `json:"defaults"`
	Profiles []Profile `json:"profiles,omitempty"`

	rest *Profile
}

func span(low, high time.Duration) *Span {
	return &Span{metav1.Duration{Duration: low}, metav1.Duration{Duration: high}}
}

// DefaultProfiles are those of a cluster without a file of them.
func DefaultProfiles() *Profiles {
	p, err := ParseProfiles(nil)
	if err != nil {
		panic(err) // the program's own
	}
	return p
}

// ParseProfiles reads a file of profiles. A selector may also be written as a plain map of labels.
func ParseProfiles(data []byte) (*Profiles, error) {
	p := &Profiles{}
	if err := yaml.UnmarshalStrict(data, p); err != nil {
		return nil, fmt.Errorf("read profiles: %w", err)
	}
	p.Defaults.fill(Behaviour{
		Start: span(300*time.Millisecond, 1500*time.Millisecond), Init: span(500*time.Millisecond, time.Second), Ready: span(0, 0), Run: span(5*time.Second, 15*time.Second),
		Fail: new(float64), Crash: span(time.Second, 10*time.Second), Stop: span(0, time.Second),
	})
	p.rest = &Profile{Name: "default", Behaviour: p.Defaults, selector: labels.Everything()}
	if err := p.Defaults.check(); err != nil {
		return nil, fmt.Errorf("read profiles: defaults: %w", err)
	}
	for i := range p.Profiles {
		one := &p.Profiles[i]
		if one.Name == "" {
			one.Name = fmt.Sprintf("number %d", i+1)
		}
		one.fill(p.Defaults)
		err := one.check()
		if err == nil && one.Selector != nil {
			one.selector, err = metav1.LabelSelectorAsSelector(one.Selector)
		} else {
			one.selector = labels.Everything()
		}
		if err != nil {
			return nil, fmt.Errorf("read profiles: profile %s: %w", one.Name, err)
		}
	}
	return p, nil
}

// UnmarshalJSON reads a selector in Kubernetes' form, or as a map of labels.
func (p *Profile) UnmarshalJSON(data []byte) error {
	type plain Profile
	if err := yaml.UnmarshalStrict(data, (*plain)(p)); err == nil {
		return nil
	}
	simple := struct {
		Selector map[string]string `json:"selector,omitempty"`
		Name     string            `json:"name,omitempty"`
		Image    string            `json:"image,omitempty"`
		Behaviour
	}{}
	if err := yaml.UnmarshalStrict(data, &simple); err != nil {
		return err
	}
	*p = Profile{Name: simple.Name, Image: simple.Image, Behaviour: simple.Behaviour, Selector: &metav1.LabelSelector{MatchLabels: simple.Selector}}
	return nil
}

func (b *Behaviour) fill(from Behaviour) {
	for _, s := range []struct{ to, from **Span }{
		{&b.Start, &from.Start}, {&b.Init, &from.Init}, {&b.Ready, &from.Ready}, {&b.Run, &from.Run}, {&b.Crash, &from.Crash}, {&b.Stop, &from.Stop},
	} {
		if *s.to == nil {
			*s.to = *s.from
		}
	}
	if b.Fail == nil {
		b.Fail = from.Fail
	}
}

func (b *Behaviour) check() error {
	for _, s := range []struct {
		name string
		*Span
	}{{"start", b.Start}, {"init", b.Init}, {"ready", b.Ready}, {"run", b.Run}, {"crash", b.Crash}, {"stop", b.Stop}} {
		if s.Min.Duration < 0 || s.Max.Duration < 0 {
			return fmt.Errorf("%s: a time is not less than nothing", s.name)
		}
		if s.Max.Duration != 0 && s.Max.Duration < s.Min.Duration {
			return fmt.Errorf("%s: max %v is less than min %v", s.name, s.Max.Duration, s.Min.Duration)
		}
	}
	if !(*b.Fail >= 0 && *b.Fail <= 1) {
		return fmt.Errorf("fail: %v is no share from 0 to 1", *b.Fail)
	}
	return nil
}

// For is the profile of a pod.
func (p *Profiles) For(pod *corev1.Pod) *Profile {
	for i := range p.Profiles {
		if one := &p.Profiles[i]; one.selector.Matches(labels.Set(pod.Labels)) && one.matchesImage(pod) {
			return one
		}
	}
	return p.rest
}

func (p *Profile) matchesImage(pod *corev1.Pod) bool {
	if p.Image == "" {
		return true
	}
	for i := range pod.Spec.Containers {
		if matches(p.Image, pod.Spec.Containers[i].Image) {
			return true
		}
	}
	return false
}

// matches says whether a text is of a pattern in which * stands for any text, and all else for itself.
func matches(pattern, text string) bool {
	star, back, i, j := -1, 0, 0, 0
	for j < len(text) {
		switch {
		case i < len(pattern) && pattern[i] == '*':
			star, back = i, j
			i++
		case i < len(pattern) && pattern[i] == text[j]:
			i++
			j++
		case star >= 0: // the star takes one more
			back++
			i, j = star+1, back
		default:
			return false
		}
	}
	for i < len(pattern) && pattern[i] == '*' {
		i++
	}
	return i == len(pattern)
}

// lot is a number from 0 to 1 that the same words always draw.
func lot(seed uint64, words ...string) float64 {
	h := fnv.New64a()
	for _, w := range words {
		_, _ = h.Write([]byte(w))
		_, _ = h.Write([]byte{0})
	}
	x := h.Sum64() ^ seed*0x9e3779b97f4a7c15
	x ^= x >> 30 // FNV's high bits are weak: splitmix64's last steps mix them
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11) / (1 << 53)
}

// draw is a time of the span.
func (s *Span) draw(at float64) time.Duration {
	width := max(0, s.Max.Duration-s.Min.Duration)
	return s.Min.Duration + time.Duration(math.Round(at*float64(width)))
}
