package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"sampan.dev/internal/bundle"
	"sampan.dev/internal/instance"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--data-dir DIR] ...",
		Short: "kubectl itself, speaking to this cluster",
		Long: "kubectl itself, packed in. It speaks to the cluster of --data-dir, unless --kubeconfig or --context say otherwise;\n" +
			"without --data-dir, and where the default one holds no cluster that you may read, your own kubeconfig is used.",
		DisableFlagParsing: true, // they are kubectl's, but for one
		RunE:               func(_ *cobra.Command, args []string) error { return runKubectl(args) },
	}
}

func runKubectl(args []string) error {
	dir, given, args, err := takeDataDir(args)
	if err != nil {
		return usageError{err}
	}
	inst, err := instance.At(dir)
	if err != nil {
		return err
	}
	cache, err := programDir(inst)
	if err != nil {
		return err
	}
	path, err := bundle.Unpack(bundle.Kubectl, cache)
	if err != nil {
		return err
	}
	env := os.Environ()
	if !chooses(args) {
		_, err := os.Stat(inst.Kubeconfig())
		readable := err == nil && syscall.Access(inst.Kubeconfig(), 4) == nil
		switch {
		case readable && (given || os.Getenv("KUBECONFIG") == ""):
			// Of two values of one name a program may take the first.
			env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "KUBECONFIG=") })
			env = append(env, "KUBECONFIG="+inst.Kubeconfig())
		case given && errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("there is no cluster in %s: start one with `sampan up --data-dir %s`", inst.Dir, inst.Dir)
		case given:
			return fmt.Errorf("%s cannot be read by you: use sudo, or the context that was merged into your own kubeconfig", inst.Kubeconfig())
		}
	}
	// kubectl takes this process's place, so that signals, the terminal and the exit code are its own.
	if err := syscall.Exec(path, append([]string{"kubectl"}, args...), env); err != nil {
		return fmt.Errorf("run kubectl: %w", err)
	}
	return nil
}

// takeDataDir takes --data-dir out of the arguments that stand before a lone "--".
func takeDataDir(args []string) (dir string, given bool, rest []string, err error) {
	dir = instance.DefaultDir
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return dir, given, append(rest, args[i:]...), nil
		}
		if v, ok := strings.CutPrefix(args[i], "--data-dir="); ok {
			dir, given = v, true
			continue
		}
		if args[i] == "--data-dir" {
			if i+1 == len(args) {
				return "", false, nil, errors.New("flag needs an argument: --data-dir")
			}
			i++
			dir, given = args[i], true
			continue
		}
		rest = append(rest, args[i])
	}
	return dir, given, rest, nil
}

// chooses says whether kubectl's own flags name the cluster.
func chooses(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return false
		}
		name, _, _ := strings.Cut(a, "=")
		if name == "--kubeconfig" || name == "--context" || name == "--server" || name == "-s" {
			return true
		}
	}
	return false
}

// programDir is where packed programs are unpacked to: the data directory if it may be written, else the user's cache.
func programDir(inst instance.Instance) (string, error) {
	if inst.Exists() && syscall.Access(inst.Dir, 2) == nil {
		return inst.Bin(), nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a place to unpack kubectl to: %w", err)
	}
	return filepath.Join(cache, "sampan"), nil
}
