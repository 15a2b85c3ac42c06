// Package ask is `sampan why`: it finds the object that a person names, has it explained from what the API says, and prints the answer.
//
// It reads over the API alone and writes nothing. Always: what the server refuses is told in the server's words, as kubectl does.
package ask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sampan.dev/internal/client"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/kinds"
	"sampan.dev/internal/why"
)

// Refused is an error in the words that kubectl has for it. Nothing is to be put before them.
type Refused struct {
	words string
	cause error // the server's; nil: it was not asked
}

func (r Refused) Error() string { return r.words }

// Wrong is an error of the caller's: arguments that mean nothing.
type Wrong struct{ error }

// Unwrap gives the server's error.
func (r Refused) Unwrap() error { return r.cause }

// Question is what a person asks.
type Question struct {
	Kind, Name string
	Namespace  string // empty: the one of the kubeconfig, or default
	Format     string // "json", or empty for a person
}

// Command is the subcommand; config says which cluster is asked.
func Command(config func() (client.Config, error)) *cobra.Command {
	var q Question
	cmd := &cobra.Command{
		Use:   "why KIND/NAME",
		Short: "Say why an object is as it is: what holds it up, down to the fact itself, and what to do",
		Long: "Say why a pod is pending, crashes or is not ready, why a workload stands still, why a Service leads nowhere, why a namespace does not go, and why\n" +
			"a node takes no pods: a chain of causes from the object down to the fact itself, and then what to do. The exit code is 0 if the object was\n" +
			"found, whether or not something is wrong with it.",
		Example: "  sampan why pod/web-1\n  sampan why deploy web -n shop\n  sampan why node/n2 -o json",
		Args: func(_ *cobra.Command, args []string) error {
			var err error
			if q.Kind, q.Name, err = target(args); err != nil {
				return Wrong{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Format != "" && q.Format != "json" {
				return Wrong{fmt.Errorf("--output: %q is not a format: json, or none for a person", q.Format)}
			}
			cfg, err := config()
			if err != nil {
				return err
			}
			return Ask(cmd.Context(), cfg, q, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&q.Namespace, "namespace", "n", "", "where the object is")
	cmd.Flags().StringVarP(&q.Format, "output", "o", "", "json")
	return cmd
}

// target reads "KIND/NAME" or "KIND NAME".
func target(args []string) (kind, name string, err error) {
	switch len(args) {
	case 0:
		return "", "", errors.New("what is to be explained? KIND/NAME, such as pod/web-1")
	case 1:
		if kind, name, _ = strings.Cut(args[0], "/"); kind == "" || name == "" || strings.Contains(name, "/") {
			return "", "", fmt.Errorf("%q is not KIND/NAME, such as pod/web-1", args[0])
		}
		return kind, name, nil
	case 2:
		if strings.Contains(args[0]+args[1], "/") {
			return "", "", fmt.Errorf("%q: one object at a time, as KIND/NAME or KIND NAME", strings.Join(args, " "))
		}
		return args[0], args[1], nil
	}
	return "", "", fmt.Errorf("unexpected argument %q", args[2])
}

// Ask explains one object.
func Ask(ctx context.Context, cfg client.Config, q Question, out io.Writer) error {
	cfg.Table = kinds.Table()
	c, err := client.New(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	kind := kindOf(cfg.Table, q.Kind)
	if kind == nil {
		return Refused{words: fmt.Sprintf("error: the server doesn't have a resource type %q", q.Kind)}
	}
	read := readers[kind.Plural]
	if read == nil || !read.explained {
		return fmt.Errorf("%s cannot be explained; %s can", kind.Plural, explained())
	}
	namespace := ""
	if kind.Namespaced {
		if namespace = q.Namespace; namespace == "" {
			namespace = cfg.Namespace
		}
		if namespace == "" {
			namespace = "default"
		}
	}
	object, err := read.get(ctx, c, namespace, q.Name)
	if err != nil {
		return inKubectlsWords(err)
	}
	answer, err := why.Explain(newWorld(ctx, cfg, c), object)
	if err != nil {
		return err
	}
	if q.Format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(answer)
	}
	answer.Print(out)
	return nil
}

// inKubectlsWords writes what the server said as kubectl does.
func inKubectlsWords(err error) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return err
	}
	s := status.Status()
	from := "Error from server"
	if s.Reason != "" {
		from += " (" + string(s.Reason) + ")"
	}
	return Refused{words: from + ": " + s.Message, cause: err}
}

// kindOf finds a kind by what people call it.
func kindOf(table *resource.Table, word string) *resource.Kind {
	word = strings.ToLower(word)
	plain, _, _ := strings.Cut(word, ".") // "deployments.apps"
	for _, k := range table.All() {
		names := append([]string{k.Plural, k.Singular, strings.ToLower(k.Kind)}, k.ShortNames...)
		if slices.Contains(names, word) || slices.Contains(names, plain) && k.Group != "" && strings.HasSuffix(word, "."+k.Group) {
			return k
		}
	}
	return nil
}
