package clustertest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/auth"
)

// patience is how long `until` waits: long enough for the slowest machine. No test says how fast something must be.
const patience = time.Minute

// played is the cluster of one script.
type played struct {
	source
	cluster *Cluster // nil: it is not in this process
	ctx     context.Context
	guards  guards
}

type playedKey struct{}

// Params are the parameters to run the scripts of dir with, each on a cluster of its own. Beside testscript's own
// commands a script has
//
//	kubectl ARGS…                   the real kubectl, as administrator; its output is matched with stdout and stderr
//	bearer FILE ARGS…               the same with the token in FILE, and no certificate
//	apply FILE                      kubectl apply -f FILE
//	node NAME [cpu=N] [memory=N] [pods=N] [label:KEY=VALUE] [taint:KEY=VALUE:EFFECT] [cordoned]
//	                                adds a simulated node, or changes one
//	silence NAME                    cuts a simulated node off; `node NAME` lets it come back
//	until [-n NS] [-l LABELS] KIND[/NAME] 'CONDITION'     waits until the condition holds (see condition)
//	always [-n NS] [-l LABELS] KIND[/NAME] 'CONDITION'    holds now, and in every state up to the script's end
//	appears FILE PATTERN            waits until a file that is being written matches the regular expression
func Params(dir string, kubectl func() (string, error)) testscript.Params {
	return params(dir, func(env *testscript.Env) error {
		path, err := kubectl()
		if err != nil {
			return err
		}
		return setup(env, path)
	})
}

func params(dir string, setup func(env *testscript.Env) error) testscript.Params {
	return testscript.Params{
		Dir:   dir,
		Setup: setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"kubectl": cmdKubectl,
			"bearer":  cmdBearer,
			"apply": func(ts *testscript.TestScript, neg bool, args []string) {
				cmdKubectl(ts, neg, append([]string{"apply", "-f"}, args...))
			},
			"node":    cmdNode,
			"silence": cmdSilence,
			"until":   cmdUntil,
			"always":  cmdAlways,
			"appears": cmdAppears,
		},
		RequireUniqueNames: true,
	}
}

// setup starts a cluster for one script, and stops it at the script's end.
func setup(env *testscript.Env, kubectl string) error {
	t := env.T()
	log := slog.New(slog.NewTextHandler(logTo{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	c, err := New(filepath.Join(env.WorkDir, ".cluster"), log)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &played{source: c, cluster: c, ctx: auth.WithUser(ctx, auth.System("kubernetes-admin"))}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	env.Defer(func() {
		stop()
		p.guards.running.Wait()
		if err := <-done; err != nil {
			t.Log("the cluster failed:", err)
			t.FailNow()
		}
	})
	env.Values[playedKey{}] = p
	env.Setenv("KUBECTL", kubectl)
	env.Setenv("KUBECONFIG", c.Kubeconfig)
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("SERVER", c.Server)
	account, rest, err := parseTarget(c.Table, []string{"serviceaccounts/default"})
	if err != nil || len(rest) > 0 {
		return err
	}
	return p.until(account, condition{terms: []term{{operator: "there"}}})
}

// logTo is a script's log as a writer.
type logTo struct{ t testscript.T }

func (l logTo) Write(line []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(line)))
	return len(line), nil
}

var _ io.Writer = logTo{}

func cluster(ts *testscript.TestScript) *played { return ts.Value(playedKey{}).(*played) }

// checked fails the script if something that must always hold has been broken meanwhile.
func checked(ts *testscript.TestScript) *played {
	p := cluster(ts)
	ts.Check(p.guards.check())
	return p
}

func cmdKubectl(ts *testscript.TestScript, neg bool, args []string) {
	checked(ts)
	err := ts.Exec(ts.Getenv("KUBECTL"), args...)
	switch {
	case err != nil && !neg:
		ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	case err == nil && neg:
		ts.Fatalf("kubectl %s: it should have failed", strings.Join(args, " "))
	}
	checked(ts)
}

func cmdBearer(ts *testscript.TestScript, neg bool, args []string) {
	p := checked(ts)
	if p.cluster == nil || len(args) < 2 {
		ts.Fatalf("usage: bearer FILE ARGS…, on a cluster in this process")
	}
	cmdKubectl(ts, neg, append([]string{
		"--kubeconfig=" + os.DevNull, "--server=" + p.cluster.Server, "--certificate-authority=" + filepath.Join(p.cluster.Dir, "pki", "ca.crt"),
		"--token=" + strings.TrimSpace(ts.ReadFile(args[0])),
	}, args[1:]...))
}

func cmdNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: node NAME [cpu=N] [memory=N] [label:KEY=VALUE] [taint:KEY=VALUE:EFFECT] [cordoned]")
	}
	node, err := parseNode(args)
	ts.Check(err)
	p := checked(ts)
	if p.cluster == nil {
		ts.Fatalf("node: this cluster's nodes are real")
	}
	ts.Check(p.cluster.AddNode(p.ctx, node))
}

func parseNode(args []string) (*corev1.Node, error) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: args[0], Labels: map[string]string{
		corev1.LabelHostname: args[0], corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
	}}}
	list := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		corev1.ResourceEphemeralStorage: resource.MustParse("50Gi"),
	}
	for _, arg := range args[1:] {
		if arg == "cordoned" {
			node.Spec.Unschedulable = true
			continue
		}
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, fmt.Errorf("node %s: what is %q?", args[0], arg)
		}
		if label, ok := strings.CutPrefix(key, "label:"); ok {
			node.Labels[label] = value
			continue
		}
		if taint, ok := strings.CutPrefix(key, "taint:"); ok {
			value, effect, _ := strings.Cut(value, ":")
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: taint, Value: value, Effect: corev1.TaintEffect(effect)})
			continue
		}
		quantity, err := resource.ParseQuantity(value)
		if err != nil {
			return nil, fmt.Errorf("node %s: %s: %w", args[0], arg, err)
		}
		list[corev1.ResourceName(key)] = quantity
	}
	node.Status.Capacity, node.Status.Allocatable = list, list
	return node, nil
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	p := checked(ts)
	t, cond := asked(ts, p, neg, args)
	ts.Check(p.until(t, cond))
	checked(ts)
}

func (p *played) until(t target, cond condition) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	why := "it was never looked at"
	var last []byte
	err := p.follow(ctx, t, func(state []byte) bool {
		var ok bool
		ok, why = cond.holds(state)
		last = state
		return !ok
	})
	if err != nil {
		return fmt.Errorf("waited in vain for '%s': %s: %w, in the state\n%s", cond.text, why, err, last)
	}
	return nil
}

func cmdAlways(ts *testscript.TestScript, neg bool, args []string) {
	p := checked(ts)
	t, cond := asked(ts, p, neg, args)
	ts.Check(p.guards.add(p.ctx, p, strings.Join(args[:len(args)-1], " "), t, cond))
	ts.Defer(func() { ts.Check(p.guards.check()) })
}

// cmdAppears looks at a file again and again: another program writes it, and tells nobody.
func cmdAppears(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: appears FILE PATTERN")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	var content []byte
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		content, err = os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && pattern.Match(content) {
			return
		}
		checked(ts)
	}
	ts.Fatalf("waited in vain for %s in %s:\n%s", args[1], args[0], content)
}

func asked(ts *testscript.TestScript, p *played, neg bool, args []string) (target, condition) {
	t, rest, err := parseTarget(p.table(), args)
	ts.Check(err)
	if neg || len(rest) != 1 {
		ts.Fatalf("usage: until|always [-n NAMESPACE] [-l LABELS] KIND[/NAME] 'CONDITION'")
	}
	cond, err := parseCondition(rest[0])
	ts.Check(err)
	return t, cond
}
