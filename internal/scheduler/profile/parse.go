package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
	strictjson "sigs.k8s.io/json"
	jsonyaml "sigs.k8s.io/yaml"
)

const (
	version = "kubescheduler.config.k8s.io/v1"
	kind    = "KubeSchedulerConfiguration"
)

// file is a KubeSchedulerConfiguration, as far as it is served.
type file struct {
	APIVersion               string        `json:"apiVersion"`
	Kind                     string        `json:"kind"`
	PercentageOfNodesToScore *int32        `json:"percentageOfNodesToScore,omitempty"`
	PodInitialBackoffSeconds *int64        `json:"podInitialBackoffSeconds,omitempty"`
	PodMaxBackoffSeconds     *int64        `json:"podMaxBackoffSeconds,omitempty"`
	Profiles                 []profileFile `json:"profiles,omitempty"`
}

type profileFile struct {
	SchedulerName            *string           `json:"schedulerName,omitempty"`
	PercentageOfNodesToScore *int32            `json:"percentageOfNodesToScore,omitempty"`
	Plugins                  map[point]choices `json:"plugins,omitempty"`
	PluginConfig             []pluginConfig    `json:"pluginConfig,omitempty"`
}

type pluginConfig struct {
	Name string          `json:"name"`
	Args json.RawMessage `json:"args,omitempty"`
}

// elsewhere are fields of Kubernetes' own that this scheduler, which is no program of its own, has no use for.
var elsewhere = map[string]string{
	"extenders":                 "extenders are not served: this scheduler asks nobody over HTTP",
	"parallelism":               "one goroutine decides here",
	"leaderElection":            "the server's own election decides who schedules",
	"clientConnection":          "the scheduler is part of the server, and needs no connection",
	"healthzBindAddress":        "the server's own /readyz speaks for the scheduler",
	"metricsBindAddress":        "the scheduler's metrics are among those of the server",
	"enableProfiling":           "the server has no profiling of the scheduler's own",
	"enableContentionProfiling": "the server has no profiling of the scheduler's own",
	"delayCacheUntilActive":     "the scheduler reads the server's cache",
}

// Parse reads a KubeSchedulerConfiguration, as YAML or JSON. Its errors say on which line of which field what is wrong.
func Parse(data []byte) (Config, error) {
	var lines yaml.Node
	if err := yaml.Unmarshal(data, &lines); err != nil {
		return Config{}, oneLine(err)
	}
	text, err := jsonyaml.YAMLToJSONStrict(data)
	if err != nil {
		return Config{}, oneLine(err)
	}
	var f file
	unknown, err := strictjson.UnmarshalStrict(text, &f)
	if err != nil {
		return Config{}, oneLine(err)
	}
	if f.APIVersion != version || f.Kind != kind {
		return Config{}, fmt.Errorf("a %s of %s is wanted; this is a %q of %q", kind, version, f.Kind, f.APIVersion)
	}
	errs := notServed(unknown)
	for i := range f.Profiles {
		at := field.NewPath("profiles").Index(i).Child("plugins")
		for pt := range f.Profiles[i].Plugins {
			if pt != multiPoint && !slices.Contains(allPoints, pt) {
				errs = append(errs, field.Invalid(at.Child(string(pt)), pt, "no extension point has that name"))
			}
		}
	}
	var c Config
	if len(errs) == 0 {
		c, errs = f.config()
	}
	if len(errs) == 0 {
		return c, nil
	}
	all := make([]error, len(errs))
	for i, e := range errs {
		all[i] = e
		if n := lineOf(&lines, e.Field); n > 0 {
			all[i] = fmt.Errorf("line %d: %w", n, e)
		}
	}
	return Config{}, errors.Join(all...)
}

func oneLine(err error) error {
	return errors.New(strings.Join(strings.Fields(err.Error()), " "))
}

var unknownField = regexp.MustCompile(`^(unknown|duplicate) field "(.*)"$`)

func notServed(strict []error) (errs field.ErrorList) {
	for _, err := range strict {
		m := unknownField.FindStringSubmatch(err.Error())
		if m == nil {
			errs = append(errs, field.Forbidden(nil, err.Error()))
			continue
		}
		why := "there is no such field"
		if m[1] == "duplicate" {
			why = "it is there twice"
		}
		if reason, is := elsewhere[m[2]]; is {
			why = "not served here: " + reason
		}
		errs = append(errs, field.Forbidden(field.NewPath(m[2]), why))
	}
	return errs
}

// config checks the file, and fills in what it leaves out.
func (f *file) config() (c Config, errs field.ErrorList) {
	first, most := int64(1), int64(10)
	if f.PodInitialBackoffSeconds != nil {
		first = *f.PodInitialBackoffSeconds
	}
	if f.PodMaxBackoffSeconds != nil {
		most = *f.PodMaxBackoffSeconds
	}
	c.FirstBackoff, c.MostBackoff = time.Duration(first)*time.Second, time.Duration(most)*time.Second
	if len(f.Profiles) == 0 {
		f.Profiles = []profileFile{{}}
	}
	if len(f.Profiles) == 1 && f.Profiles[0].SchedulerName == nil {
		f.Profiles[0].SchedulerName = new(DefaultName)
	}
	names := map[string]*field.Path{}
	for i := range f.Profiles {
		at := field.NewPath("profiles").Index(i)
		p, wrong := f.Profiles[i].profile(at)
		errs = append(errs, wrong...)
		if other := names[p.Name]; other != nil && p.Name != "" {
			errs = append(errs, field.Duplicate(at.Child("schedulerName"), other.String()))
		}
		names[p.Name] = at.Child("schedulerName")
		if f.Profiles[i].PercentageOfNodesToScore == nil && f.PercentageOfNodesToScore != nil {
			p.Percentage = int(*f.PercentageOfNodesToScore)
		}
		c.Profiles = append(c.Profiles, p)
	}
	errs = append(errs, percentage(field.NewPath("percentageOfNodesToScore"), f.PercentageOfNodesToScore)...)
	if first <= 0 {
		errs = append(errs, field.Invalid(field.NewPath("podInitialBackoffSeconds"), first, "must be greater than 0"))
	}
	if most < first {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), most, "must be greater than or equal to PodInitialBackoffSeconds"))
	}
	return c, errs
}

func percentage(at *field.Path, p *int32) field.ErrorList {
	if p != nil && (*p < 0 || *p > 100) {
		return field.ErrorList{field.Invalid(at, *p, "not in valid range [0-100]")}
	}
	return nil
}

func (f *profileFile) profile(at *field.Path) (p Profile, errs field.ErrorList) {
	if f.SchedulerName != nil {
		p.Name = *f.SchedulerName
	}
	if p.Name == "" {
		errs = append(errs, field.Required(at.Child("schedulerName"), ""))
	}
	errs = append(errs, percentage(at.Child("percentageOfNodesToScore"), f.PercentageOfNodesToScore)...)
	if f.PercentageOfNodesToScore != nil {
		p.Percentage = int(*f.PercentageOfNodesToScore)
	}
	s, wrong := combine(f.Plugins, at.Child("plugins"))
	errs = append(errs, wrong...)
	if len(wrong) == 0 {
		errs = append(errs, s.whole(p.Name, at.Child("plugins"))...)
		p.Filters, p.Weights, p.Preempts = s.at[filter], s.weights, s.has(postFilter, "DefaultPreemption")
	}
	return p, append(errs, p.take(f.PluginConfig, at.Child("pluginConfig"))...)
}

var step = regexp.MustCompile(`[^.\[\]]+`)

// lineOf finds the line of a field such as profiles[0].schedulerName, or of the nearest one above it that is there; 0: none.
func lineOf(n *yaml.Node, path string) (line int) {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	for _, name := range step.FindAllString(path, -1) {
		var next *yaml.Node
		switch i, err := strconv.Atoi(name); {
		case n.Kind == yaml.MappingNode:
			for k := 0; k+1 < len(n.Content); k += 2 {
				if n.Content[k].Value == name {
					line, next = n.Content[k].Line, n.Content[k+1]
				}
			}
		case n.Kind == yaml.SequenceNode && err == nil && i < len(n.Content):
			next = n.Content[i]
			line = next.Line
		}
		if next == nil {
			return line
		}
		n = next
	}
	return line
}
