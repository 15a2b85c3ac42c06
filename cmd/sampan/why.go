package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sampan.dev/internal/client"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/why/ask"
)

// whyCommand explains objects of the cluster that --data-dir, or else KUBECONFIG, names.
func whyCommand() *cobra.Command {
	var dir string
	var cmd *cobra.Command
	cmd = ask.Command(func() (client.Config, error) { return whyConfig(dir, cmd.Flags().Changed("data-dir")) })
	dataDirFlag(cmd, &dir)
	read, explain := cmd.Args, cmd.RunE
	cmd.Args = func(cmd *cobra.Command, args []string) error { return told(read(cmd, args)) }
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return told(explain(cmd, args)) }
	return cmd
}

// told turns an answer's error into one of this program: wrong usage, or one that has been told in kubectl's words.
func told(err error) error {
	var wrong ask.Wrong
	var refused ask.Refused
	switch {
	case errors.As(err, &wrong):
		return usageError{wrong}
	case errors.As(err, &refused):
		fmt.Fprintln(os.Stderr, refused)
		return exitError(1)
	}
	return err
}

// whyConfig says which cluster is asked, and as whom.
func whyConfig(dir string, given bool) (client.Config, error) {
	inst, err := instance.At(dir)
	if err != nil {
		return client.Config{}, err
	}
	path := inst.Kubeconfig()
	if other := os.Getenv("KUBECONFIG"); other != "" && !given {
		path = other
	}
	cfg, err := client.FromKubeconfig(path, "")
	if errors.Is(err, os.ErrNotExist) {
		return cfg, fmt.Errorf("there is no cluster in %s: start one with `sampan up --data-dir %s`", inst.Dir, inst.Dir)
	}
	return cfg, err
}
