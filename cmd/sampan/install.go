package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/instance"
)

// place is where an installation's files are, below a root that is / but for tests.
type place struct{ root string }

func (p place) program() string     { return filepath.Join(p.root, "/usr/local/bin/sampan") }
func (p place) unit() string        { return filepath.Join(p.root, "/etc/systemd/system/sampan.service") }
func (p place) config() string      { return filepath.Join(p.root, "/etc/sampan/config.yaml") }
func (p place) systemctl() []string { return []string{"systemctl", "--root=" + p.root} }

func installCommand() *cobra.Command {
	var root string
	var now bool
	cmd := &cobra.Command{
		Use:   "install server|agent [-- FLAGS]",
		Short: "Install sampan on this machine as a systemd service",
		Long: "Install sampan on this machine as a systemd service: the program in /usr/local/bin, the flags after -- in /etc/sampan/config.yaml, and a unit that starts with the machine,\n" +
			"goes on after a crash, and ends pods gracefully when the machine goes down. `sampan uninstall` removes all of that.\n\n" +
			"  sampan install server -- --node-name=one\n" +
			"  sampan install agent -- --server=https://192.0.2.1:6443 --token=...",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] != "server" && args[0] != "agent" {
				return usageError{errors.New("what shall this machine be? `sampan install server` or `sampan install agent`, and its flags after --")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return install(cmd.Context(), cmd.OutOrStdout(), place{root}, args[0], args[1:], now)
		},
	}
	cmd.Flags().StringVar(&root, "root", "/", "install below this directory, for an image of a machine")
	cmd.Flags().BoolVar(&now, "now", true, "start it at once, too")
	return cmd
}

func uninstallCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the installed service and remove every trace of sampan from this machine, its data included",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return uninstall(cmd.Context(), cmd.OutOrStdout(), place{root})
		},
	}
	cmd.Flags().StringVar(&root, "root", "/", "where it was installed")
	return cmd
}

// install writes program, settings and unit, in this order: a unit that is there can be started.
func install(ctx context.Context, out io.Writer, at place, what string, flags []string, now bool) error {
	of := serverCommand()
	if what == "agent" {
		of = agentCommand()
	}
	config, err := configOf(of, flags)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("install writes to /usr/local/bin and /etc, so it must be started as root: use sudo")
	}
	if real := at.root == "/"; real {
		if _, err := os.Stat("/run/systemd/system"); err != nil {
			return fmt.Errorf("this machine is not run by systemd: start `sampan %s` by what runs it", what)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	for _, f := range []struct {
		path string
		data []byte
		mode fs.FileMode
	}{{at.program(), program, 0o755}, {at.config(), config, 0o600}, {at.unit(), []byte(unitOf(what)), 0o644}} {
		if err := writeWhole(f.path, f.data, f.mode); err != nil {
			return fmt.Errorf("install: %w", err)
		}
		fmt.Fprintf(out, "Wrote %s\n", f.path)
	}
	words := append(at.systemctl(), "enable", "sampan.service")
	if at.root == "/" {
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
		words = []string{"systemctl", "enable", "sampan.service"}
		if now {
			words = append(words, "--now")
		}
	}
	if err := runProgram(ctx, words...); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if at.root == "/" && now {
		fmt.Fprintf(out, "The service runs: `systemctl status sampan`, `journalctl -u sampan`. Its settings are in %s.\n", at.config())
	} else {
		fmt.Fprintf(out, "It starts with the machine. Its settings are in %s.\n", at.config())
	}
	return nil
}

// configOf writes flags as the file that --config takes, after they have been understood.
func configOf(cmd *cobra.Command, flags []string) ([]byte, error) {
	if err := cmd.ParseFlags(flags); err != nil {
		return nil, usageError{err}
	}
	if rest := cmd.Flags().Args(); len(rest) > 0 {
		return nil, usageError{fmt.Errorf("unexpected argument %q", rest[0])}
	}
	settings := map[string]any{}
	for _, word := range flags {
		name, value, given := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if slices.Contains([]string{"config", "detach", "help"}, name) {
			return nil, usageError{fmt.Errorf("--%s is nothing for a service", name)}
		}
		flag := cmd.Flags().Lookup(name)
		if flag == nil || !given && flag.Value.Type() != "bool" {
			if flag != nil || strings.HasPrefix(word, "-") {
				return nil, usageError{fmt.Errorf("write flags as --NAME=VALUE: %q", word)}
			}
			return nil, usageError{fmt.Errorf("unexpected argument %q", word)}
		}
		if !given {
			value = "true"
		}
		if before, twice := settings[name]; twice {
			value = fmt.Sprint(before) + "," + value
		}
		settings[name] = value
	}
	data, err := yaml.Marshal(settings)
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	return append([]byte("# The flags of the service, by their names. See `sampan server --help` and `sampan agent --help`.\n"), data...), nil
}

// unitOf is the systemd unit. Pods run on when the service restarts; when the machine itself goes down they are ended first.
func unitOf(what string) string {
	return `[Unit]
Description=sampan ` + what + ` (Kubernetes)
Documentation=man:systemd.service(5)
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart=/usr/local/bin/sampan ` + what + ` --config=/etc/sampan/config.yaml
ExecStop=/bin/sh -c 'if [ "$(systemctl is-system-running)" = stopping ]; then exec /usr/local/bin/sampan down --shutdown --timeout=60s; fi; kill -TERM $MAINPID'
KillMode=process
Delegate=yes
Restart=always
RestartSec=1
TimeoutStopSec=90
LimitNOFILE=1048576
LimitNPROC=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
`
}

func uninstall(ctx context.Context, out io.Writer, at place) error {
	if os.Geteuid() != 0 {
		return errors.New("uninstall removes files of the machine, so it must be started as root: use sudo")
	}
	if _, err := os.Stat(at.unit()); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sampan is not installed as a service here (there is no %s); `sampan reset` removes a cluster", at.unit())
	}
	var errs []error
	if at.root == "/" {
		errs = append(errs, systemctl(ctx, "disable", "--now", "sampan.service"))
		dir := instance.DefaultDir
		if data, err := os.ReadFile(at.config()); err == nil {
			var config map[string]any
			if yaml.Unmarshal(data, &config) == nil && config["data-dir"] != nil {
				dir = fmt.Sprint(config["data-dir"])
			}
		}
		if inst, err := instance.At(dir); err == nil && inst.Exists() {
			errs = append(errs, reset(ctx, out, inst))
		}
	} else {
		errs = append(errs, runProgram(ctx, append(at.systemctl(), "disable", "sampan.service")...))
	}
	for _, path := range []string{at.unit(), at.config(), at.program()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(out, "Removed %s\n", path)
	}
	_ = os.Remove(filepath.Dir(at.config())) // goes if nothing of anybody else's is in it
	if at.root == "/" {
		errs = append(errs, systemctl(ctx, "daemon-reload"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("uninstall: %w", err)
	}
	return nil
}

func systemctl(ctx context.Context, words ...string) error {
	return runProgram(ctx, append([]string{"systemctl"}, words...)...)
}

func runProgram(ctx context.Context, words ...string) error {
	out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// writeWhole leaves the old file or the new one; a program that runs keeps its own.
func writeWhole(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
