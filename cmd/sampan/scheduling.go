package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sampan.dev/internal/scheduler/profile"
)

// scheduling is what a person has said of scheduling: the profiles, and the text that they are from. The zero value says nothing.
type scheduling struct {
	profile.Config
	text string
}

// readScheduling reads the file of --scheduler-config. What it has that is not served is refused before anything starts.
func readScheduling(path string) (s scheduling, err error) {
	if path == "" {
		return s, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("--scheduler-config: %w", err)
	}
	s.text = string(data)
	if s.Config, err = profile.Parse(data); err != nil {
		lines := strings.Split(err.Error(), "\n")
		if len(lines) > 1 {
			return s, usageError{errors.New("--scheduler-config " + path + ":\n  - " + strings.Join(lines, "\n  - "))}
		}
		return s, usageError{fmt.Errorf("--scheduler-config %s: %w", path, err)}
	}
	return s, nil
}

// fileValue is a flag that names a file; from wherever it is said, it is kept as a path from the root. An empty text is none.
type fileValue struct{ path *string }

func (v fileValue) Type() string { return "file" }

func (v fileValue) String() string {
	if v.path == nil {
		return ""
	}
	return *v.path
}

func (v fileValue) Set(s string) (err error) {
	if s != "" {
		s, err = filepath.Abs(s)
	}
	*v.path = s
	return err
}
