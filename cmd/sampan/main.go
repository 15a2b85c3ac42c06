// Command sampan is a whole Kubernetes in one program: `sampan up` starts a cluster on this machine.
//
// This package turns arguments into a subcommand and its error into an exit code: 0 is success, 1 failure, 2 wrong usage; `sampan kubectl`
// passes on kubectl's own. One file a subcommand; what they do is done by internal packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sampan.dev/internal/instance"
)

// usageError marks an error as the caller's: wrong flags or arguments.
type usageError struct{ error }

// exitError ends the program with a code and no further words.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	root := &cobra.Command{
		Use:           "sampan",
		Short:         "A whole Kubernetes in one small program",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(upCommand(), serverCommand(), agentCommand(), installCommand(), uninstallCommand(), downCommand(), resetCommand(), statusCommand(), kubectlCommand(), imageCommand(), tokenCommand(), snapshotCommand(), migrateCommand(), simulateCommand(), versionCommand(), whyCommand())
	cmd, err := root.ExecuteContextC(context.Background())
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"): // which cobra has no type for
		fmt.Fprintf(os.Stderr, "sampan: %v\nSee `%s --help`.\n", err, cmd.CommandPath())
		return 2
	}
	fmt.Fprintf(os.Stderr, "sampan: %v\n", err)
	return 1
}

// noArgs refuses words that a command has no use for, so that a mistyped flag is not taken in silence.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// dataDirFlag adds --data-dir, by which every command finds its cluster or node.
func dataDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "data-dir", instance.DefaultDir, "where the cluster's data is")
}
