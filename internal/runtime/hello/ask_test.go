package hello

import (
	"bytes"
	"strings"
	"testing"
)

func TestAsk(t *testing.T) {
	r := start(t)
	for name, c := range map[string]struct {
		args      []string
		code      int
		out, errs string
	}{
		"once":              {[]string{r.url + "/healthz"}, 0, "ok\n", ""},
		"three times":       {[]string{r.url + "/healthz", "3"}, 0, "ok\nok\nok\n", ""},
		"as text":           {[]string{r.url + "/"}, 0, "Hello from sampan!\nhost: pod-1\n", ""},
		"what is not there": {[]string{r.url + "/none"}, 1, "", "404 Not Found"},
		"nobody":            {[]string{"http://127.0.0.1:1/"}, 1, "", "connection refused"},
		"nothing":           {nil, 2, "", "usage: ask URL [TIMES]"},
		"no number":         {[]string{r.url, "often"}, 2, "", "usage"},
		"zero times":        {[]string{r.url, "0"}, 2, "", "usage"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := Ask(t.Context(), c.args, &out, &errs); code != c.code || !strings.HasPrefix(out.String(), c.out) || !strings.Contains(errs.String(), c.errs) {
				t.Errorf("code %d, %q, %q", code, out.String(), errs.String())
			}
		})
	}
}
