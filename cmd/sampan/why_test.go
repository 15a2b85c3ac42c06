package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// captured runs the program and gives its exit code and what it wrote.
func captured(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	dir := t.TempDir()
	stdout, stderr := os.Stdout, os.Stderr
	defer func() { os.Stdout, os.Stderr = stdout, stderr }()
	files := [2]*os.File{}
	for i, name := range []string{"out", "err"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	os.Stdout, os.Stderr = files[0], files[1]
	code = run(args)
	for i, into := range []*string{&out, &errs} {
		data, err := os.ReadFile(files[i].Name())
		if err != nil {
			t.Fatal(err)
		}
		*into = string(data)
	}
	return code, out, errs
}

func TestWhySaysWhatIsWrongWithTheQuestion(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("KUBECONFIG", "")
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"nothing is asked", []string{"why"}, 2, "what is to be explained? KIND/NAME, such as pod/web-1\nSee `sampan why --help`."},
		{"a name without a kind", []string{"why", "web"}, 2, `"web" is not KIND/NAME, such as pod/web-1`},
		{"a format that there is not", []string{"why", "pod/web", "-o", "yaml", "--data-dir", empty}, 2, `--output: "yaml" is not a format`},
		{"no cluster", []string{"why", "pod/web", "--data-dir", empty}, 1, "there is no cluster in " + empty + ": start one with `sampan up --data-dir " + empty + "`"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errs := captured(t, c.args...)
			if code != c.code || out != "" || !strings.Contains(errs, c.says) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d and %q", code, out, errs, c.code, c.says)
			}
		})
	}
}
