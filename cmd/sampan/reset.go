package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"sampan.dev/internal/instance"
	"sampan.dev/internal/kubeconfig"
	"sampan.dev/internal/nft"
	"sampan.dev/internal/podnet"
	"sampan.dev/internal/runtimeproc"
	"sampan.dev/internal/sweep"
)

func resetCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Stop a cluster and remove every trace of it from this machine, its data included",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := instance.At(dir)
			if err != nil {
				return err
			}
			return reset(cmd.Context(), cmd.OutOrStdout(), inst)
		},
	}
	dataDirFlag(cmd, &dir)
	return cmd
}

// reset goes on after an error, so that one thing that cannot be removed does not keep the others; it is safe to repeat.
func reset(ctx context.Context, out io.Writer, inst instance.Instance) error {
	if os.Geteuid() != 0 {
		return errors.New("reset removes links, mounts and control groups, so it must be started as root: use sudo")
	}
	settings, err := inst.LoadOrDefaults()
	if err != nil {
		fmt.Fprintf(out, "Going on with the defaults: %v\n", err)
		settings = instance.Defaults()
	}
	var errs []error
	step := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	start := time.Now()
	if pid := inst.Running(); pid != 0 {
		fmt.Fprintf(out, "Stopping sampan (pid %d) ...\n", pid)
		step(runtimeproc.Stop(ctx, pid))
	}
	if pid, err := runtimeproc.PeerPID(inst.RuntimeSocket()); err == nil {
		step(runtimeproc.Stop(ctx, pid))
	}
	n, err := sweep.Kill(ctx, sweep.Root, inst.CgroupParent(), 2*time.Second)
	step(err)
	if n > 0 {
		fmt.Fprintf(out, "Ended %d processes of pods\n", n)
	}
	step(sweep.Unmount(inst.Dir, inst.RunDir()))
	step(sweep.RemoveGroups(sweep.Root, inst.CgroupParent()))
	for _, table := range []string{serviceNetwork(inst, settings).Table, policyNetwork(inst, settings).Table} {
		step(nft.New().Remove(ctx, table))
	}
	step(podnet.Down(ctx, network(inst, settings)))
	if settings.Kubeconfig != "" {
		step(kubeconfig.Remove(settings.Kubeconfig, inst.Dir, kubeconfig.Owner{}))
	}
	step(inst.Remove())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("not all could be removed; `sampan reset --data-dir %s` may be repeated: %w", inst.Dir, err)
	}
	fmt.Fprintf(out, "Removed everything of %s in %.1f s.\n", inst.Dir, time.Since(start).Seconds())
	_ = os.Remove(filepath.Dir(inst.RunDir())) // goes if this was the machine's last instance
	return nil
}

// network is the pod network of an instance.
func network(inst instance.Instance, s instance.Settings) podnet.Config {
	return podnet.Config{
		ID: inst.ID, Pods: s.PodRange, Node: s.NodeRange(), Service: s.ServiceCIDR, DNS: s.DNS(),
		IPv6: podnet.Ranges{Pods: s.PodRange6, Node: s.NodeRange6(), Service: s.ServiceCIDR6},
	}
}
