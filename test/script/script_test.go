// Package script plays the scripts of this directory, each on an in-process cluster of its own, with the real kubectl.
//
// They say what a person at a terminal sees. internal/clustertest explains their commands.
package script

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sampan.dev/internal/clustertest"
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
	testscript.Run(t, params)
}
