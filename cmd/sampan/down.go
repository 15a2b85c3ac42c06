package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sampan.dev/internal/instance"
	"sampan.dev/internal/runtimeproc"
)

// stopWithPods is the signal that asks sampan to stop its pods and the runtime too. SIGINT and SIGTERM leave them running, so that sampan
// itself can be restarted or replaced under them.
const stopWithPods = unix.SIGUSR2

// stopWithMachine is the signal that says that the machine goes down.
const stopWithMachine = unix.SIGUSR1

func downCommand() *cobra.Command {
	var dir string
	var machine bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop a cluster gracefully, its pods included; its data stays",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := instance.At(dir)
			if err != nil {
				return err
			}
			sig := stopWithPods
			if machine {
				sig = stopWithMachine
			}
			return down(cmd.Context(), cmd.OutOrStdout(), inst, timeout, sig)
		},
	}
	dataDirFlag(cmd, &dir)
	cmd.Flags().BoolVar(&machine, "shutdown", false, "the machine goes down: pods end within 30 seconds, the critical ones last, and are marked as ended for that; the node says so, too")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long pods may take to end; after it they are killed")
	return cmd
}

func down(ctx context.Context, out io.Writer, inst instance.Instance, timeout time.Duration, sig unix.Signal) error {
	pid := inst.Running()
	if pid == 0 && !inst.Exists() {
		return fmt.Errorf("there is no cluster in %s", inst.Dir)
	}
	start := time.Now()
	if pid != 0 {
		fmt.Fprintf(out, "Stopping pods and sampan (pid %d) ...\n", pid)
		if err := unix.Kill(pid, sig); err != nil {
			return fmt.Errorf("stop sampan (pid %d): %w", pid, err)
		}
		soon, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := runtimeproc.Wait(soon, pid); err != nil {
			fmt.Fprintf(out, "Not stopped after %v: killing it\n", timeout)
			if err := runtimeproc.Stop(ctx, pid); err != nil {
				return err
			}
		}
	}
	// What a sampan that was killed has left behind: containers, and the runtime.
	left, err := stopLeftovers(ctx, inst, 30*time.Second)
	if err != nil {
		return err
	}
	switch {
	case pid == 0 && left == 0:
		fmt.Fprintf(out, "Nothing runs on %s.\n", inst.Dir)
	default:
		fmt.Fprintf(out, "Stopped in %.1f s. The data is in %s: `sampan up` goes on with it, `sampan reset` removes it.\n", time.Since(start).Seconds(), inst.Dir)
	}
	return nil
}
