// Package script plays the scripts of this directory, each on an in-process cluster of its own, with the real kubectl.
//
// They say what a person at a terminal sees. internal/clustertest explains their commands; beside those there is
//
//	why ARGS…    sampan why, as administrator; its output is matched with stdout and stderr
package script

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sampan.dev/internal/client"
	"sampan.dev/internal/clustertest"
	"sampan.dev/internal/why/ask"
)

func TestScripts(t *testing.T) {
	kubectl := sync.OnceValues(func() (string, error) { return clustertest.Kubectl("../../cmd/kubectl") })
	manifests, err := filepath.Abs("../manifests")
	if err != nil {
		t.Fatal(err)
	}
	params := clustertest.Params(".", kubectl)
	setup := params.Setup
	params.Setup = func(env *testscript.Env) error {
		env.Setenv("MANIFESTS", manifests) // those that people begin with
		return setup(env)
	}
	params.Cmds["why"] = cmdWhy
	testscript.Run(t, params)
}

// cmdWhy is `sampan why ARGS…` on the script's cluster.
func cmdWhy(ts *testscript.TestScript, neg bool, args []string) {
	cmd := ask.Command(func() (client.Config, error) { return client.FromKubeconfig(ts.Getenv("KUBECONFIG"), "") })
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	cmd.SetOut(ts.Stdout())
	cmd.SetErr(ts.Stderr())
	err := cmd.ExecuteContext(context.Background())
	if err != nil {
		fmt.Fprintln(ts.Stderr(), err)
	}
	if (err != nil) != neg {
		ts.Fatalf("why %s: %v", strings.Join(args, " "), err)
	}
}
