package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// readConfig takes flags from a YAML file: its keys are their names, its values what would be typed; a list stands for one with commas. What was typed comes first.
func readConfig(cmd *cobra.Command, path string) error {
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var file map[string]any
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return usageError{fmt.Errorf("--config %s: %w", path, err)}
	}
	keys := make([]string, 0, len(file))
	for key := range file {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		flag := cmd.Flags().Lookup(key)
		if flag == nil || flag.Hidden || slices.Contains([]string{"config", "help", "detach"}, key) {
			return usageError{fmt.Errorf("--config %s: there is no setting %q; they are those of `%s --help`", path, key, cmd.CommandPath())}
		}
		if flag.Changed {
			continue
		}
		var text string
		switch v := file[key].(type) {
		case []any:
			var parts []string
			for _, one := range v {
				parts = append(parts, fmt.Sprint(one))
			}
			text = strings.Join(parts, ",")
		case map[string]any, nil:
			return usageError{fmt.Errorf("--config %s: %s: a text, a number or a list is wanted", path, key)}
		default:
			text = fmt.Sprint(v)
		}
		if err := cmd.Flags().Set(key, text); err != nil {
			return usageError{fmt.Errorf("--config %s: %s: %w", path, key, err)}
		}
	}
	return nil
}
