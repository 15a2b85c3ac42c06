// Package script plays the scripts of this directory, each on an in-process cluster of its own, with the real kubectl.
//
// They say what a person at a terminal sees. internal/clustertest explains their commands.
package script

import (
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sampan.dev/internal/clustertest"
)

func TestScripts(t *testing.T) {
	kubectl := sync.OnceValues(func() (string, error) { return clustertest.Kubectl("../../cmd/kubectl") })
	testscript.Run(t, clustertest.Params(".", kubectl))
}
