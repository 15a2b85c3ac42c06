package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"sampan.dev/internal/apiserver"
	"sampan.dev/internal/client"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/store/snapshot"
)

func snapshotCommand() *cobra.Command {
	var dir, where string
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the cluster's state, and bring it back",
		Long: "Save the cluster's state, and bring it back, while the cluster runs; on its own store and on a datastore alike. A snapshot has all objects, Secrets in the open among\n" +
			"them, and not the files that pods have written. The cluster's own keys are in DIR/pki: keep a copy of these, too. Where several servers share a datastore any of them\n" +
			"can be asked; the snapshot is of all.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", instance.DefaultDir, "where the cluster's data is")
	cmd.PersistentFlags().StringVar(&where, "dir", "", "where the snapshots are (default: DIR/snapshots)")
	place := func() (instance.Instance, string, error) {
		inst, err := instance.At(dir)
		if where != "" {
			return inst, where, err
		}
		return inst, filepath.Join(inst.Dir, "snapshots"), err
	}
	var keep int
	save := &cobra.Command{
		Use: "save", Short: "Save a snapshot, and print its file's name as the last line", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, at, err := place()
			if err != nil {
				return err
			}
			if keep < 0 {
				return usageError{fmt.Errorf("--keep: %d is not how many snapshots to keep", keep)}
			}
			return saveSnapshot(cmd.Context(), inst, at, keep, cmd.OutOrStdout())
		},
	}
	save.Flags().IntVar(&keep, "keep", 0, "how many snapshots to keep, the newest ones; 0: all")
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the snapshots, the oldest first", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, at, err := place()
			if err != nil {
				return err
			}
			return listSnapshots(at, cmd.OutOrStdout())
		},
	}
	restore := &cobra.Command{
		Use: "restore FILE", Short: "Bring the cluster back to a snapshot, while it runs",
		Long: "Bring the cluster back to a snapshot, while it runs: objects that have gone come back, changed ones are what they were, and those made since go. Pods follow.\n" +
			"What it is now is saved first. Watches go on, and are told of it as of any other change. Leases, and the keys that servers share, stay as they are.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			inst, at, err := place()
			if err != nil {
				return err
			}
			return restoreSnapshot(cmd.Context(), inst, at, args[0], cmd.OutOrStdout())
		},
	}
	cmd.AddCommand(save, list, restore)
	return cmd
}

// adminOf speaks to the server of a data directory as its administrator.
func adminOf(inst instance.Instance) (*client.Client, error) {
	cfg, err := client.FromKubeconfig(inst.Kubeconfig(), "")
	if err != nil {
		return nil, fmt.Errorf("there is no cluster in %s: start one with `sampan up --data-dir %s` (%w)", inst.Dir, inst.Dir, err)
	}
	cfg.Table = kinds.Table()
	return client.New(cfg)
}

func saveSnapshot(ctx context.Context, inst instance.Instance, at string, keep int, out io.Writer) error {
	c, err := adminOf(inst)
	if err != nil {
		return err
	}
	defer c.Close()
	info, err := save(ctx, c, at)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d keys at revision %d, %s\n%s\n", info.Count, info.Revision, inBytes(info.Size), filepath.Join(at, info.Name))
	if keep == 0 {
		return nil
	}
	all, err := snapshot.List(at)
	if err != nil {
		return err
	}
	for _, old := range all[:max(len(all)-keep, 0)] {
		if err := os.Remove(filepath.Join(at, old.Name)); err != nil {
			return fmt.Errorf("remove an old snapshot: %w", err)
		}
	}
	return nil
}

func save(ctx context.Context, c *client.Client, at string) (snapshot.Info, error) {
	body, err := c.Stream(ctx, http.MethodGet, apiserver.SnapshotPath, nil)
	if err != nil {
		return snapshot.Info{}, fmt.Errorf("save a snapshot: %w", err)
	}
	defer body.Close()
	return snapshot.Receive(body, at)
}

func listSnapshots(at string, out io.Writer) error {
	all, err := snapshot.List(at)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintf(out, "There are no snapshots in %s.\n", at)
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tREVISION\tKEYS\tSIZE\tAGE")
	for _, i := range all {
		if i.Err != nil {
			fmt.Fprintf(w, "%s\t-\t-\t%s\t%v\n", i.Name, inBytes(i.Size), i.Err)
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", i.Name, i.Revision, i.Count, inBytes(i.Size), duration.HumanDuration(time.Since(i.Time)))
	}
	return w.Flush()
}

func restoreSnapshot(ctx context.Context, inst instance.Instance, at, name string, out io.Writer) error {
	path := name
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) && !strings.ContainsRune(name, filepath.Separator) {
		path = filepath.Join(at, name)
	}
	info, err := snapshot.Verify(path)
	if err != nil {
		return err
	}
	c, err := adminOf(inst)
	if err != nil {
		return err
	}
	defer c.Close()
	before, err := save(ctx, c, at)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "What the cluster is now is saved in %s.\nBringing it back to %s, as it was %s ago ...\n", filepath.Join(at, before.Name), path, duration.HumanDuration(time.Since(info.Time)))
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	answer, err := c.Stream(ctx, http.MethodPost, apiserver.SnapshotPath, f)
	if err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	defer answer.Close()
	var done snapshot.Changes
	if err := json.NewDecoder(answer).Decode(&done); err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	fmt.Fprintf(out, "Done: %d keys written, %d deleted, %d were the same.\n", done.Written, done.Deleted, done.Same)
	return nil
}

// inBytes is a size as people read it.
func inBytes(n int64) string {
	const unit = 1 << 10
	switch {
	case n < unit:
		return fmt.Sprintf("%d B", n)
	case n < unit*unit:
		return fmt.Sprintf("%.1f kB", float64(n)/unit)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/unit/unit)
}
