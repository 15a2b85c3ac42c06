package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"sampan.dev/internal/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of sampan and of the Kubernetes it speaks",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "sampan %s\nKubernetes %s\n%s %s/%s\n", version.Sampan, version.Git(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
