package clustertest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Kubectl returns the path of the real kubectl: that of $SAMPAN_KUBECTL, or one built from module (the directory of its
// Go module) and kept in the user's cache until the module changes.
func Kubectl(module string) (string, error) {
	if path := os.Getenv("SAMPAN_KUBECTL"); path != "" {
		return path, nil
	}
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version())
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		content, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("build kubectl: %w", err)
		}
		_, _ = sum.Write(content)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "sampan-test")
	path := filepath.Join(dir, fmt.Sprintf("kubectl-%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("build kubectl: %w", err)
	}
	fresh, err := os.MkdirTemp(dir, "build") // whoever is first puts his in place, whole
	if err != nil {
		return "", fmt.Errorf("build kubectl: %w", err)
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	built := filepath.Join(fresh, "kubectl")
	const version = "k8s.io/component-base/version"
	flags := "-s -w -X " + version + ".gitVersion=v1.37.2 -X " + version + ".gitMajor=1 -X " + version + ".gitMinor=37"
	cmd := exec.Command("go", "build", "-C", module, "-trimpath", "-ldflags", flags, "-o", built, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kubectl: %w\n%s", err, out)
	}
	if err := os.Rename(built, path); err != nil {
		return "", fmt.Errorf("build kubectl: %w", err)
	}
	return path, nil
}
