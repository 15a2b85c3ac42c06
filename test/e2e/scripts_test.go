package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sampan.dev/internal/clustertest"
	"sampan.dev/test/images"
)

// TestScripts plays each script of the directory scripts on a cluster of its own, with real containers. internal/clustertest explains their commands.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("scripts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	dir, err := filepath.Abs(manifests)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			c := newCluster(t, 0)
			for _, image := range []string{images.Nginx, images.Nginx110, images.Nginx111, images.Busybox} {
				c.load(images.Archive(t, image))
			}
			kubeconfig := filepath.Join(c.dir, "kubeconfig")
			p := clustertest.Remote(file, filepath.Join(bin(t), "kubectl"), kubeconfig)
			var asking *asker
			p.Cmds["ask"], p.Cmds["asked"] = cmdAsk(kubeconfig, &asking), cmdAsked(&asking)
			setup := p.Setup
			p.Setup = func(env *testscript.Env) error {
				env.Setenv("MANIFESTS", dir)
				env.Setenv("EXAMPLES", filepath.Join(dir, "../../examples"))
				return setup(env)
			}
			testscript.Run(t, p)
		})
	}
}
