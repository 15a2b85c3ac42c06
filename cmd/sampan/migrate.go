package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	coordination "k8s.io/api/coordination/v1"

	"sampan.dev/internal/instance"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/server/loops"
	"sampan.dev/internal/store"
	"sampan.dev/internal/store/etcd"
	"sampan.dev/internal/store/local"
	"sampan.dev/internal/store/snapshot"
)

func migrateCommand() *cobra.Command {
	var dir string
	var given instance.Datastore
	var embedded bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move a stopped cluster from its own store to a datastore, or back",
		Long: "Move a stopped cluster from its own store to an etcd that servers share, which must be empty, or with --embedded from there to a store of its own. What was copied is\n" +
			"compared, and stays where it was, too; the next `sampan server` uses the new store. Pods run on, agents come back by themselves,\n" +
			"and whoever watches is told to list again.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inst, err := instance.At(dir)
			if err != nil {
				return err
			}
			settings, err := inst.Load()
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("there is no cluster in %s", inst.Dir)
			}
			if err != nil {
				return err
			}
			was := settings
			if !embedded {
				if err := takeDatastore(cmd.Flags(), &settings, given); err != nil {
					return err
				}
			}
			switch {
			case len(settings.Servers) > 0:
				return fmt.Errorf("%s is of a node without a server: there is nothing to move", inst.Dir)
			case embedded && cmd.Flags().Changed("datastore"):
				return usageError{errors.New("--embedded: a cluster moves to a datastore or to its own store, not to both")}
			case embedded && !was.Shared():
				return fmt.Errorf("the cluster in %s has a store of its own already", inst.Dir)
			case !embedded && was.Shared():
				return fmt.Errorf("the cluster in %s is on the datastore %s already; --embedded moves it back", inst.Dir, strings.Join(was.Datastore.Endpoints, ", "))
			case !embedded && !settings.Shared():
				return usageError{errors.New("whereto? Give the addresses of an empty etcd with --datastore, or --embedded to move from there to a store of its own")}
			}
			if pid := inst.Running(); pid != 0 {
				return fmt.Errorf("the server of %s runs (pid %d): stop it first, with Ctrl-C or `kill %d`; its pods may run on", inst.Dir, pid, pid)
			}
			lock, err := inst.Lock()
			if err != nil {
				return err
			}
			defer lock.Release()
			if embedded {
				return moveBack(cmd.Context(), inst, was, cmd.OutOrStdout())
			}
			return moveOut(cmd.Context(), inst, settings, cmd.OutOrStdout())
		},
	}
	dataDirFlag(cmd, &dir)
	datastoreFlags(cmd.Flags(), &given)
	cmd.Flags().BoolVar(&embedded, "embedded", false, "move from the datastore to a store of its own; all servers must be stopped")
	return cmd
}

// moveOut copies the server's own store into an empty etcd.
func moveOut(ctx context.Context, inst instance.Instance, to instance.Settings, out io.Writer) (err error) {
	from, err := local.Open(inst.Store(), local.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	etcd, err := dialDatastore(ctx, to.Datastore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, etcd.Close()) }()
	head, err := snapshot.Copy(ctx, from, etcd)
	if errors.Is(err, snapshot.ErrNotEmpty) {
		return fmt.Errorf("%s is not empty, and holds another cluster, or a part of this one from a move that broke off: %w", strings.Join(to.Datastore.Endpoints, ", "), err)
	}
	if err != nil {
		return err
	}
	if err := inst.Save(to); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d keys are in %s now, and compared. Start `sampan server` again; other servers join it with `sampan token create --server`.\nThe old store stays in %s.\n",
		head.Count, strings.Join(to.Datastore.Endpoints, ", "), inst.Store())
	return nil
}

// moveBack copies an etcd into a store of the server's own. One that was there is put aside.
func moveBack(ctx context.Context, inst instance.Instance, s instance.Settings, out io.Writer) (err error) {
	from, err := dialDatastore(ctx, s.Datastore)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := unused(ctx, from); err != nil {
		return err
	}
	fresh := inst.Store() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return err
	}
	to, err := local.Open(fresh, local.Options{})
	if err != nil {
		return err
	}
	head, err := snapshot.Copy(ctx, from, to)
	if err = errors.Join(err, to.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	if _, err := os.Stat(inst.Store()); err == nil {
		aside := inst.Store() + ".before-" + time.Now().UTC().Format("20060102T150405Z")
		if err := os.Rename(inst.Store(), aside); err != nil {
			return err
		}
		fmt.Fprintf(out, "The store that was here before is in %s.\n", filepath.Base(aside))
	}
	if err := os.Rename(fresh, inst.Store()); err != nil {
		return err
	}
	endpoints := s.Datastore.Endpoints
	s.Datastore = instance.Datastore{}
	if err := inst.Save(s); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d keys are in %s now, and compared. Start `sampan server` again.\n%s is as it was: do not start another server on it.\n", head.Count, inst.Store(), strings.Join(endpoints, ", "))
	return nil
}

func dialDatastore(ctx context.Context, d instance.Datastore) (*etcd.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, datastorePatience)
	defer cancel()
	return etcd.Open(ctx, etcd.Config{Endpoints: d.Endpoints, CA: d.CA, Cert: d.Cert, Key: d.Key, CompactEvery: -1})
}

// unused fails if a server runs on the datastore.
func unused(ctx context.Context, st store.Store) error {
	table := kinds.Table()
	kind, _ := table.ByKind(coordination.SchemeGroupVersion.WithKind("Lease"))
	records, _, err := st.List(ctx, kind.Key("kube-system", loops.ServerPrefix))
	if err != nil {
		return err
	}
	for _, r := range records {
		var o resource.Object
		if o, err = table.Decode(r.Value); err != nil {
			return err
		}
		l := o.(*coordination.Lease)
		if l.Spec.RenewTime != nil && time.Since(l.Spec.RenewTime.Time) < loops.ServerLease {
			return fmt.Errorf("the server at %s runs on the datastore: stop all servers first", l.Annotations[loops.ServerAddress])
		}
	}
	return nil
}
