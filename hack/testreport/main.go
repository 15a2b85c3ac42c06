// Command testreport reads `go test -json` and prints what a person wants to know: what failed and why, the slowest tests, the counts.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type result struct {
	name    string
	seconds float64
}

func main() {
	var (
		output                = map[string][]string{} // by package and test
		slowest, packages     []result
		passed, failed, skips int
		broken                bool
	)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			fmt.Println(in.Text()) // what go prints itself, such as a failed build
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output":
			output[key] = append(output[key], e.Output)
		case "build-output":
			fmt.Print(e.Output)
		case "build-fail":
			broken = true
		case "pass", "fail", "skip":
			if e.Test == "" {
				packages = append(packages, result{e.Package, e.Elapsed})
				if e.Action == "fail" {
					broken = true
					fmt.Printf("FAIL %s\n%s", e.Package, strings.Join(output[key], ""))
				}
				continue
			}
			switch e.Action {
			case "pass":
				passed++
			case "skip":
				skips++
				fmt.Printf("SKIP %s: %s", key, strings.Join(output[key], ""))
			case "fail":
				failed++
				fmt.Printf("FAIL %s\n%s\n", key, strings.Join(output[key], ""))
			}
			if !strings.Contains(e.Test, "/") {
				slowest = append(slowest, result{key, e.Elapsed})
			}
			delete(output, key)
		}
	}
	list("slowest packages", packages, 8)
	list("slowest tests", slowest, 12)
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", passed, failed, skips)
	if failed > 0 || broken || passed == 0 {
		os.Exit(1)
	}
}

func list(title string, all []result, n int) {
	slices.SortFunc(all, func(a, b result) int { return int(1000*b.seconds) - int(1000*a.seconds) })
	fmt.Printf("\n%s\n", title)
	for _, r := range all[:min(n, len(all))] {
		fmt.Printf("  %6.1f s  %s\n", r.seconds, r.name)
	}
}
