package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/instance"
)

func imageCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Load, pull, list and remove the images of this node",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", instance.DefaultDir, "where the cluster's data is")
	// with opens the runtime of --data-dir for a subcommand.
	with := func(f func(ctx context.Context, out io.Writer, n *node, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			n, err := openNode(dir)
			if err != nil {
				return err
			}
			defer n.conn.Close()
			return f(cmd.Context(), cmd.OutOrStdout(), n, args)
		}
	}
	var name string
	load := &cobra.Command{
		Use:   "load FILE",
		Short: "Load a docker archive or OCI layout, as tar (plain, gzip or zstd) or as a directory; - is standard input",
		Args:  exactly(1, "FILE"),
		RunE: with(func(ctx context.Context, out io.Writer, n *node, args []string) error {
			return n.load(ctx, out, args[0], name)
		}),
	}
	load.Flags().StringVar(&name, "name", "", "the name for an image that has none in the archive")
	cmd.AddCommand(load,
		&cobra.Command{Use: "pull REF", Short: "Pull an image from its registry", Args: exactly(1, "REF"), RunE: with(pull)},
		&cobra.Command{Use: "ls", Short: "List the images", Args: noArgs, RunE: with(listImages)},
		&cobra.Command{Use: "rm REF", Short: "Remove an image", Args: exactly(1, "REF"), RunE: with(removeImage)},
	)
	return cmd
}

func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("want %s, got %d arguments", what, len(args))}
		}
		return nil
	}
}

// node is the runtime of one instance.
type node struct {
	inst   instance.Instance
	conn   *grpc.ClientConn
	images runtimeapi.ImageServiceClient
}

func openNode(dir string) (*node, error) {
	inst, err := instance.At(dir)
	if err != nil {
		return nil, err
	}
	settings, err := inst.LoadOrDefaults()
	if err != nil {
		return nil, err
	}
	if settings.CRI == "" {
		switch _, err := os.Stat(inst.RuntimeSocket()); {
		case errors.Is(err, os.ErrPermission) || os.Geteuid() != 0:
			return nil, fmt.Errorf("images belong to root: use sudo")
		case err != nil:
			return nil, fmt.Errorf("nothing runs on %s: start it with `sampan up --data-dir %s`", inst.Dir, inst.Dir)
		}
	}
	conn, err := dialCRI(endpoint(inst, settings))
	if err != nil {
		return nil, err
	}
	return &node{inst: inst, conn: conn, images: runtimeapi.NewImageServiceClient(conn)}, nil
}

// load sends an archive over the runtime's second socket, since the CRI has no call for it; the runtime's package image says how.
func (n *node) load(ctx context.Context, out io.Writer, file, name string) error {
	var body io.Reader = os.Stdin
	if file != "-" {
		info, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("load image: %w", err)
		}
		if info.IsDir() {
			body = tarOf(file)
		} else {
			f, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("load image: %w", err)
			}
			defer f.Close()
			body = f
		}
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.inst.AdminSocket())
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://runtime/load?name="+url.QueryEscape(name), body)
	if err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("load image %s: %w", file, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("load image %s: %s: %s", file, resp.Status, strings.TrimSpace(string(text)))
	}
	loaded := 0
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, 1<<20)
	show := newProgress(out)
	for in.Scan() {
		var line struct {
			Status, Layer, Image, Error string
			Names                       []string
			Current, Total              int64
		}
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			return fmt.Errorf("load image %s: the runtime's answer: %w", file, err)
		}
		switch line.Status {
		case "unpacking":
			show.line("unpacking %s %s", short(line.Layer), bytesOf(line.Current))
		case "loaded":
			show.clear()
			loaded++
			fmt.Fprintf(out, "Loaded %s\n", cmp.Or(strings.Join(line.Names, ", "), line.Image))
		case "error":
			show.clear()
			return fmt.Errorf("load image %s: %s", file, line.Error)
		}
	}
	show.clear()
	if err := in.Err(); err != nil {
		return fmt.Errorf("load image %s: %w", file, err)
	}
	if loaded == 0 {
		return fmt.Errorf("load image %s: the runtime's answer was cut short", file)
	}
	return nil
}

func pull(ctx context.Context, out io.Writer, n *node, args []string) error {
	fmt.Fprintf(out, "Pulling %s ...\n", args[0])
	// The annotation asks the registry even for a name that was loaded by hand; the runtime's package image explains.
	spec := &runtimeapi.ImageSpec{Image: args[0], UserSpecifiedImage: args[0], Annotations: map[string]string{"sampan.dev/from-registry": "true"}}
	resp, err := n.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec})
	if err != nil {
		return fmt.Errorf("pull image %s: %s", args[0], status.Convert(err).Message())
	}
	fmt.Fprintf(out, "Pulled %s (%s)\n", args[0], resp.ImageRef)
	return nil
}

func listImages(ctx context.Context, out io.Writer, n *node, _ []string) error {
	resp, err := n.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("list images: %s", status.Convert(err).Message())
	}
	type row struct{ name, tag, id, size string }
	var rows []row
	for _, img := range resp.Images {
		names := img.RepoTags
		if len(names) == 0 {
			names = []string{"<none>:<none>"}
		}
		for _, name := range names {
			repo, tag := name, ""
			if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
				repo, tag = name[:i], name[i+1:]
			}
			rows = append(rows, row{repo, tag, short(img.Id), bytesOf(int64(img.Size))})
		}
	}
	slices.SortFunc(rows, func(a, b row) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.tag, b.tag)) })
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tTAG\tIMAGE ID\tSIZE")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.name, r.tag, r.id, r.size)
	}
	return w.Flush()
}

func removeImage(ctx context.Context, out io.Writer, n *node, args []string) error {
	spec := &runtimeapi.ImageSpec{Image: args[0]}
	found, err := n.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return fmt.Errorf("remove image %s: %s", args[0], status.Convert(err).Message())
	}
	if found.Image == nil {
		return fmt.Errorf("remove image %s: there is no such image here; `sampan image ls` lists them", args[0])
	}
	if _, err := n.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: spec}); err != nil {
		return fmt.Errorf("remove image %s: %s", args[0], status.Convert(err).Message())
	}
	fmt.Fprintf(out, "Removed %s\n", args[0])
	return nil
}

// short is a digest as a person reads it: its first 12 hexadecimal digits.
func short(digest string) string {
	_, hex, found := strings.Cut(digest, ":")
	if !found {
		hex = digest
	}
	return hex[:min(12, len(hex))]
}

func bytesOf(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
