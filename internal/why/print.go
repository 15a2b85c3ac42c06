package why

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the answer for a person: each cause below what it explains, and then what to do.
func (a *Answer) Print(out io.Writer) {
	a.print(out, "")
	for _, what := range a.Unread {
		fmt.Fprintf(out, "This could not be read, and may be missing above: %s\n", what)
	}
}

func (c *Cause) print(out io.Writer, indent string) {
	fmt.Fprintf(out, "%s%s\n", indent, c.Text)
	deeper := indent + "  "
	for _, line := range c.Said {
		fmt.Fprintf(out, "%s| %s\n", deeper, line)
	}
	for _, below := range c.Causes {
		below.print(out, deeper)
	}
	printTable(out, deeper, c.Table)
	for _, more := range c.More {
		fmt.Fprintf(out, "%s%s\n", deeper, more)
	}
	for _, advice := range c.Advice {
		fmt.Fprintf(out, "%s%s\n", indent, advice)
	}
}

func printTable(out io.Writer, indent string, rows []Row) {
	if len(rows) == 0 {
		return
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprint(w, "NODE\tFILTER\tWHY\n")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Node, r.Filter, r.Why)
	}
	_ = w.Flush() // to memory
	for line := range strings.Lines(text.String()) {
		fmt.Fprint(out, indent, line)
	}
}
