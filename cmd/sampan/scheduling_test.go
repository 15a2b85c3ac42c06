package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheSchedulersFile(t *testing.T) {
	const head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"
	for name, c := range map[string]struct{ text, want string }{
		"a good one":     {head + "profiles:\n- schedulerName: default-scheduler\n- schedulerName: packer\n", ""},
		"one mistake":    {head + "extenders: []\n", "--scheduler-config FILE: line 3: extenders: Forbidden: not served here: extenders are not served: this scheduler asks nobody over HTTP"},
		"two mistakes":   {head + "percentageOfNodesToScore: 200\npodInitialBackoffSeconds: -1\n", "--scheduler-config FILE:\n  - line 3: percentageOfNodesToScore: Invalid value: 200: not in valid range [0-100]\n  - line 4: podInitialBackoffSeconds: Invalid value: -1: must be greater than 0"},
		"something else": {"a: b", `--scheduler-config FILE: a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1 is wanted; this is a "" of ""`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "scheduler.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := readScheduling(path)
			got := ""
			if err != nil {
				got = strings.ReplaceAll(err.Error(), path, "FILE")
			} else if s.Of("packer") == nil || s.text != c.text {
				t.Errorf("it reads %+v", s)
			}
			var usage usageError
			if got != c.want || err != nil && !errors.As(err, &usage) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if _, err := readScheduling(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if s, err := readScheduling(""); err != nil || len(s.Profiles) > 0 {
		t.Error(s, err)
	}
}
