package apiserver

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/net"
)

// Limits that upstream has too, so that headers stay small.
const (
	maxWarnings     = 4096 // bytes of all
	maxWarningRunes = 256  // of each, once all together are too many
)

// warnings are the sentences for the person behind a request, each once. They are told in headers, before the answer's body.
type warnings struct{ texts []string }

func (w *warnings) add(text string) {
	if text != "" && !slices.Contains(w.texts, text) {
		w.texts = append(w.texts, text)
	}
}

// strict adds what a strict decoder found: for JSON an error each, for YAML one error of several lines.
func (w *warnings) strict(errs []error) {
	for _, err := range errs {
		text := err.Error()
		lines := []string{text}
		for _, prefix := range []string{"error converting YAML to JSON: yaml: unmarshal errors:\n", "yaml: unmarshal errors:\n"} {
			if rest, ok := strings.CutPrefix(text, prefix); ok {
				lines = strings.Split(rest, "\n")
				break
			}
		}
		for _, line := range lines {
			w.add(strings.TrimSpace(line))
		}
	}
}

// send writes the warnings as headers.
func (w *warnings) send(h http.Header) {
	size := 0
	for _, text := range w.texts {
		size += len(text)
	}
	sent := 0
	for _, text := range w.texts {
		text = clean(text)
		if size > maxWarnings {
			text = truncate(text, maxWarningRunes)
		}
		if sent += len(text); sent > maxWarnings {
			return
		}
		if header, err := net.NewWarningHeader(299, "-", text); err == nil {
			h.Add("Warning", header)
		}
	}
}

// clean makes a text fit for a header.
func clean(text string) string {
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

func truncate(text string, most int) string {
	for i := range text {
		if most == 0 {
			return text[:i]
		}
		most--
	}
	return text
}

type warningsKey struct{}

func withWarnings(ctx context.Context, w *warnings) context.Context {
	return context.WithValue(ctx, warningsKey{}, w)
}

// warningsOf gives the request's own warnings; what is added to those of another context is lost.
func warningsOf(ctx context.Context) *warnings {
	if w, ok := ctx.Value(warningsKey{}).(*warnings); ok {
		return w
	}
	return &warnings{}
}
