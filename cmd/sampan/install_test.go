package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlagsBecomeSettings(t *testing.T) {
	data, err := configOf(agentCommand(), []string{"--server=https://192.0.2.1:6443", "--server=192.0.2.2", "--node-labels=a=b,c=d", "--node-port=10251"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"server: https://192.0.2.1:6443,192.0.2.2\n", "node-labels: a=b,c=d\n", `node-port: "10251"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in\n%s", want, data)
		}
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := agentCommand()
	if err := cmd.ParseFlags([]string{"--node-port=10252"}); err != nil {
		t.Fatal(err)
	}
	if err := readConfig(cmd, path); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"server": "[https://192.0.2.1:6443,192.0.2.2]", "node-labels": "[a=b,c=d]", "node-port": "10252"} {
		if got := cmd.Flags().Lookup(name).Value.String(); got != want {
			t.Errorf("--%s is %s, want %s", name, got, want)
		}
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		"nodename: x":                `there is no setting "nodename"`,
		"detach: true":               `there is no setting "detach"`,
		"node-port: {a: 1}":          "node-port: a text, a number or a list is wanted",
		"node-port: many":            "node-port",
		"eviction-hard: disk<1Gi":    "unsupported eviction signal disk",
		"server: [":                  "yaml",
		"node-port: 1\nnode-port: 2": "already set",
	} {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readConfig(agentCommand(), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for word, want := range map[string]string{"--colour=red": "unknown flag", "here": "unexpected argument", "--detach": "nothing for a service"} {
		if _, err := configOf(serverCommand(), []string{word}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", word, err)
		}
	}
}

func TestInstallAndUninstallLeaveNothing(t *testing.T) {
	if _, err := exec.LookPath("systemctl"); err != nil || os.Geteuid() != 0 {
		t.Skip("it takes systemctl, and root")
	}
	root, ctx := t.TempDir(), context.Background()
	var out bytes.Buffer
	for range 2 { // again is an update
		if err := install(ctx, &out, place{root}, "agent", []string{"--server=192.0.2.1", "--token=x"}, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(root, "etc/systemd/system/multi-user.target.wants/sampan.service")); err != nil {
		t.Errorf("it does not start with the machine: %v", err)
	}
	if info, err := os.Stat(place{root}.config()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the token: %v %v", info, err)
	}
	unit, err := os.ReadFile(place{root}.unit())
	if err != nil || !strings.Contains(string(unit), "ExecStart=/usr/local/bin/sampan agent --config=/etc/sampan/config.yaml") {
		t.Errorf("the unit is %s: %v", unit, err)
	}
	if err := uninstall(ctx, &out, place{root}); err != nil {
		t.Fatal(err)
	}
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("left behind: %s", path)
		}
		return nil
	})
	if err := uninstall(ctx, &out, place{root}); err == nil || !strings.Contains(err.Error(), "is not installed") {
		t.Errorf("a second time: %v", err)
	}
}
