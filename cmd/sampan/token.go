package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/auth"
	"sampan.dev/internal/client"
	"sampan.dev/internal/instance"
	"sampan.dev/internal/keyring"
	"sampan.dev/internal/resource/kinds"
)

func tokenCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Create, list and delete the tokens by which machines join",
		Long: "Create, list and delete the tokens by which machines join the cluster. A token is a Secret in kube-system, as Kubernetes' bootstrap tokens are; what is\n" +
			"printed names the cluster's authority as well, so that a machine that joins knows whom it talks to.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", instance.DefaultDir, "where the cluster's data is")
	// on connects with the cluster first.
	on := func(do func(ctx context.Context, c *client.Client, out io.Writer, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			inst, err := instance.At(dir)
			if err != nil {
				return err
			}
			cfg, err := client.FromKubeconfig(filepath.Join(inst.Dir, "kubeconfig"), "")
			if err != nil {
				return fmt.Errorf("there is no cluster in %s: start one with `sampan up --data-dir %s` (%w)", inst.Dir, inst.Dir, err)
			}
			cfg.Table = kinds.Table()
			c, err := client.New(cfg)
			if err != nil {
				return err
			}
			defer c.Close()
			return do(cmd.Context(), c, cmd.OutOrStdout(), args)
		}
	}
	var ttl time.Duration
	var description string
	var server bool
	create := &cobra.Command{
		Use:   "create",
		Short: "Create a token, and print it as the last line",
		Args:  noArgs,
	}
	create.RunE = func(cmd *cobra.Command, args []string) error {
		if server {
			return serverToken(dir, cmd.OutOrStdout())
		}
		return on(func(ctx context.Context, c *client.Client, out io.Writer, _ []string) error {
			if ttl < 0 || ttl > 0 && ttl < time.Minute {
				return usageError{fmt.Errorf("--ttl: %v is neither a minute or longer, nor 0 for a token that does not end", ttl)}
			}
			return createToken(ctx, c, out, ttl, description)
		})(cmd, args)
	}
	create.Flags().BoolVar(&server, "server", false, "print instead the token by which another server shares this one's datastore ('sampan server --datastore ... --token ...')")
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the token is good for; 0: until it is deleted")
	create.Flags().StringVar(&description, "description", "", "what the token is for, for those who list them")
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the tokens, without what is secret of them", Args: noArgs, RunE: on(listTokens)}
	remove := &cobra.Command{
		Use: "delete ID ...", Aliases: []string{"rm"}, Short: "Delete tokens, by the six characters before the point, or whole", Args: cobra.MinimumNArgs(1),
		RunE: on(deleteTokens),
	}
	cmd.AddCommand(create, list, remove)
	return cmd
}

// serverToken prints the token that the servers of one datastore have in common.
func serverToken(dir string, out io.Writer) error {
	inst, err := instance.At(dir)
	if err != nil {
		return err
	}
	token, err := keyring.Token(inst.PKI())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is of no server that shares a datastore: such a one is started with `sampan server --datastore https://...`", inst.Dir)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Whoever has this token, and reaches the datastore, is a server of the cluster. It does not end. Keep it with your snapshots: they hold the cluster's keys sealed with it.\n%s\n", token)
	return nil
}

func createToken(ctx context.Context, c *client.Client, out io.Writer, ttl time.Duration, description string) error {
	pin, err := pinOf(ctx, c)
	if err != nil {
		return err
	}
	id, secret := randomText(6), randomText(16)
	o := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: auth.BootstrapNamespace, Name: auth.BootstrapPrefix + id}, Type: auth.BootstrapType,
		Data: map[string][]byte{
			auth.BootstrapID: []byte(id), auth.BootstrapSecret: []byte(secret), auth.BootstrapForAPI: []byte("true"),
			auth.BootstrapGroups: []byte(auth.Bootstrappers + ":sampan:nodes"),
		},
	}
	if description != "" {
		o.Data[auth.BootstrapDescription] = []byte(description)
	}
	ends := "It does not end."
	if ttl > 0 {
		end := time.Now().Add(ttl).UTC().Truncate(time.Second)
		o.Data[auth.BootstrapExpiration] = []byte(end.Format(time.RFC3339))
		ends = fmt.Sprintf("It ends in %s, at %s.", duration.HumanDuration(ttl), end.Format(time.RFC3339))
	}
	if _, err := client.Create(ctx, c, o); err != nil {
		return fmt.Errorf("create a join token: %w", err)
	}
	fmt.Fprintf(out, "Whoever has this token can add machines to the cluster. %s\n%s.%s@%s\n", ends, id, secret, pin)
	return nil
}

// pinOf names the cluster's authority, as it tells whoever wants to join: the SHA-256 of its public key (RFC 7469, 2.4).
func pinOf(ctx context.Context, c *client.Client) (string, error) {
	info, err := clusterInfo(ctx, c)
	if err != nil {
		return "", fmt.Errorf("read what machines that join are told: %w", err)
	}
	var file struct {
		Clusters []struct {
			Cluster struct {
				CA []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if err := yaml.Unmarshal([]byte(info.Data["kubeconfig"]), &file); err != nil || len(file.Clusters) == 0 {
		return "", fmt.Errorf("read what machines that join are told: the ConfigMap %s/%s has no cluster", info.Namespace, info.Name)
	}
	block, _ := pem.Decode(file.Clusters[0].Cluster.CA)
	if block == nil {
		return "", errors.New("read what machines that join are told: it names no certificate authority")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("read the cluster's authority: %w", err)
	}
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// clusterInfo is what machines that join are told. A server that has only just started makes it within the next moment.
func clusterInfo(ctx context.Context, c *client.Client) (*corev1.ConfigMap, error) {
	const name, patience = "cluster-info", 10 * time.Second
	info, err := client.Get[*corev1.ConfigMap](ctx, c, metav1.NamespacePublic, name)
	if !apierrors.IsNotFound(err) {
		return info, err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found := errors.New("found")
	seen := client.Watch(waiting, c, client.Selection{Namespace: metav1.NamespacePublic, Fields: "metadata.name=" + name}, func(e client.Event[*corev1.ConfigMap]) error {
		if e.Object == nil || e.Type == watch.Deleted {
			return nil
		}
		info = e.Object
		return found
	}, nil)
	if errors.Is(seen, found) {
		return info, nil
	}
	return nil, errors.Join(err, ctx.Err())
}

// randomText is so many small letters and digits, each as likely as the others.
func randomText(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	var b strings.Builder
	for range n {
		i, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			panic(err) // the kernel has no random numbers
		}
		b.WriteByte(letters[i.Int64()])
	}
	return b.String()
}

func listTokens(ctx context.Context, c *client.Client, out io.Writer, _ []string) error {
	secrets, _, err := client.List[*corev1.Secret](ctx, c, client.Selection{Namespace: auth.BootstrapNamespace, Fields: "type=" + string(auth.BootstrapType)})
	if err != nil {
		return fmt.Errorf("list join tokens: %w", err)
	}
	slices.SortFunc(secrets, func(a, b *corev1.Secret) int { return strings.Compare(a.Name, b.Name) })
	if len(secrets) == 0 {
		fmt.Fprintln(out, "There are no join tokens.")
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tENDS IN\tDESCRIPTION")
	for _, s := range secrets {
		ends := "<never>"
		if text := string(s.Data[auth.BootstrapExpiration]); text != "" {
			end, err := time.Parse(time.RFC3339, text)
			switch left := time.Until(end); {
			case err != nil, left <= 0:
				ends = "<ended>"
			default:
				ends = duration.HumanDuration(left)
			}
		}
		description := string(s.Data[auth.BootstrapDescription])
		if description == "" {
			description = "<none>"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", strings.TrimPrefix(s.Name, auth.BootstrapPrefix), ends, description)
	}
	return table.Flush()
}

var tokenID = regexp.MustCompile(`^([a-z0-9]{6})(\.[a-z0-9]{16}(@sha256:[0-9a-f]{64})?)?$`)

func deleteTokens(ctx context.Context, c *client.Client, out io.Writer, args []string) error {
	for _, arg := range args {
		m := tokenID.FindStringSubmatch(arg)
		if m == nil {
			return usageError{fmt.Errorf("%q is no token, nor the id of one: `sampan token list` shows them", arg)}
		}
		err := client.Delete[*corev1.Secret](ctx, c, auth.BootstrapNamespace, auth.BootstrapPrefix+m[1], metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no join token %s", m[1])
		}
		if err != nil {
			return fmt.Errorf("delete join token %s: %w", m[1], err)
		}
		fmt.Fprintf(out, "Join token %s is deleted.\n", m[1])
	}
	return nil
}
