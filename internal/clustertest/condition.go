package clustertest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// condition is what a script asks of an object: terms that must all hold, as in `phase == Running and Ready == True`.
//
// A term is `there`, `gone`, or PATH OPERATOR VALUE. A path of one word is looked up where people expect it: among the
// status's conditions (their status), in the status (`ready` finds readyReplicas), in the spec, in the metadata. A path
// that begins with the type of a condition goes on into it: `PodScheduled.message`. Operators: == != < <= > >=, and ~
// for a regular expression.
type condition struct {
	text  string
	terms []term
}

type term struct {
	path, operator, value string
}

func parseCondition(text string) (condition, error) {
	c := condition{text: text}
	for part := range strings.SplitSeq(text, " and ") {
		words := strings.Fields(part)
		switch {
		case len(words) == 1 && (words[0] == "there" || words[0] == "gone"):
			c.terms = append(c.terms, term{operator: words[0]})
		case len(words) >= 3 && strings.Contains(" == != < <= > >= ~ ", " "+words[1]+" "):
			value := strings.TrimSpace(part[strings.Index(part, " "+words[1]+" ")+len(words[1])+2:])
			if words[1] == "~" {
				if _, err := regexp.Compile(value); err != nil {
					return c, fmt.Errorf("condition %q: %w", text, err)
				}
			}
			c.terms = append(c.terms, term{path: words[0], operator: words[1], value: strings.Trim(value, `"`)})
		default:
			return c, fmt.Errorf("condition %q: a term is `there`, `gone`, or PATH OPERATOR VALUE, not %q", text, part)
		}
	}
	return c, nil
}

// holds reports whether the object (as JSON; nil if there is none) is as asked, and if it is not, what is the matter.
func (c condition) holds(object []byte) (bool, string) {
	var fields map[string]any
	if object != nil {
		if err := json.Unmarshal(object, &fields); err != nil {
			return false, err.Error()
		}
	}
	for _, t := range c.terms {
		if ok, why := t.holds(fields); !ok {
			return false, why
		}
	}
	return true, ""
}

func (t term) holds(object map[string]any) (bool, string) {
	switch t.operator {
	case "there":
		return object != nil, "it is gone"
	case "gone":
		return object == nil, "it is there"
	}
	if object == nil {
		return false, "it is gone"
	}
	got := lookup(object, t.path)
	if compare(got, t.operator, t.value) {
		return true, ""
	}
	return false, fmt.Sprintf("%s is %q", t.path, got)
}

func compare(got, operator, want string) bool {
	if operator == "~" {
		return regexp.MustCompile(want).MatchString(got)
	}
	a, errA := strconv.ParseFloat(got, 64)
	b, errB := strconv.ParseFloat(want, 64)
	if got == "" && errB == nil {
		a, errA = 0, nil // numbers that are zero are left out
	}
	if errA != nil || errB != nil {
		switch operator {
		case "==":
			return got == want
		case "!=":
			return got != want
		}
		return false
	}
	switch operator {
	case "==":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	}
	return a >= b
}

// lookup finds a path's value as text; empty if there is none.
func lookup(object map[string]any, path string) string {
	first, rest, deeper := strings.Cut(path, ".")
	if c := conditionOf(object, first); c != nil {
		if !deeper {
			return text(c["status"])
		}
		return text(walk(c, rest))
	}
	if deeper || object[first] != nil {
		return text(walk(object, path))
	}
	for _, at := range []string{"status." + first, "status." + first + "Replicas", "spec." + first, "metadata." + first} {
		if v := walk(object, at); v != nil {
			return text(v)
		}
	}
	return ""
}

func conditionOf(object map[string]any, kind string) map[string]any {
	list, _ := walk(object, "status.conditions").([]any)
	for _, c := range list {
		if c, ok := c.(map[string]any); ok && c["type"] == kind {
			return c
		}
	}
	return nil
}

// walk follows a path of names and list indexes. A name with dots in it is put in brackets: metadata.labels.[a.b/c].
func walk(v any, path string) any {
	for path != "" {
		var name string
		if strings.HasPrefix(path, "[") {
			name, path, _ = strings.Cut(path[1:], "]")
			path = strings.TrimPrefix(path, ".")
		} else {
			name, path, _ = strings.Cut(path, ".")
		}
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
