package apiserver

import (
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sampan.dev/internal/registry/tokens"
	"sampan.dev/internal/resource"
	"sampan.dev/internal/token"
)

// discovery tells which kinds there are. Its documents are made when asked for: clients keep them, so that nobody needs to here.
type discovery struct {
	groups  []group
	address netip.AddrPort
}

// group is an API group with its versions, each with its resources by name.
type group struct {
	name     string
	versions []groupVersion
}

type groupVersion struct {
	version   string
	resources []metav1.APIResource // "pods/log" after "pods"
}

func newDiscovery(table *resource.Table, address netip.AddrPort, measured bool) *discovery {
	d := &discovery{address: address}
	for _, k := range table.All() {
		d.add(k.GroupVersionKind, resourcesOf(k, k.GroupVersionKind, k.Plural))
		for i := range k.Also {
			d.add(k.Also[i].GroupVersionKind, resourcesOf(k, k.Also[i].GroupVersionKind, k.Also[i].Plural))
		}
	}
	for _, v := range reviews {
		d.add(v.gvk, []metav1.APIResource{{
			Name: v.plural, SingularName: v.singular, Namespaced: v.namespaced, Kind: v.gvk.Kind, Verbs: []string{"create"},
		}})
	}
	if measured {
		d.add(metricsGroup.WithKind(""), metricsResources)
	}
	for i := range d.groups {
		for j := range d.groups[i].versions {
			slices.SortFunc(d.groups[i].versions[j].resources, func(a, b metav1.APIResource) int { return cmp.Compare(a.Name, b.Name) })
		}
	}
	return d
}

func (d *discovery) add(gvk schema.GroupVersionKind, resources []metav1.APIResource) {
	i := slices.IndexFunc(d.groups, func(g group) bool { return g.name == gvk.Group })
	if i < 0 {
		i = len(d.groups)
		d.groups = append(d.groups, group{name: gvk.Group})
	}
	g := &d.groups[i]
	j := slices.IndexFunc(g.versions, func(v groupVersion) bool { return v.version == gvk.Version })
	if j < 0 {
		j = len(g.versions)
		g.versions = append(g.versions, groupVersion{version: gvk.Version})
	}
	g.versions[j].resources = append(g.versions[j].resources, resources...)
}

// connects are the subresources that are not objects of their parent's kind.
var connects = map[string]struct {
	kind  schema.GroupVersionKind // group and version only where they are not the parent's
	verbs []string
}{
	"log":         {schema.GroupVersionKind{Kind: "Pod"}, []string{"get"}},
	"exec":        {schema.GroupVersionKind{Kind: "PodExecOptions"}, []string{"create", "get"}},
	"attach":      {schema.GroupVersionKind{Kind: "PodAttachOptions"}, []string{"create", "get"}},
	"portforward": {schema.GroupVersionKind{Kind: "PodPortForwardOptions"}, []string{"create", "get"}},
	"binding":     {schema.GroupVersionKind{Kind: "Binding"}, []string{"create"}},
	"token":       {tokens.Kind, []string{"create"}},
	"proxy":       {schema.GroupVersionKind{Kind: "ProxyOptions"}, []string{"create", "delete", "get", "patch", "update"}}, // of the parent's kind
	"eviction":    {schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, []string{"create"}},
}

func resourcesOf(k *resource.Kind, gvk schema.GroupVersionKind, plural string) []metav1.APIResource {
	main := metav1.APIResource{
		Name: plural, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: gvk.Kind, Verbs: k.ServedVerbs(),
		ShortNames: k.ShortNames, Categories: k.Categories, StorageVersionHash: storageVersionHash(k.GroupVersionKind),
	}
	all := []metav1.APIResource{main}
	sub := func(name, kind string, verbs ...string) {
		all = append(all, metav1.APIResource{Name: plural + "/" + name, Namespaced: k.Namespaced, Kind: kind, Verbs: verbs})
	}
	if gvk != k.GroupVersionKind {
		return all // subresources are served in the stored version
	}
	if k.Status != nil {
		sub("status", gvk.Kind, "get", "patch", "update")
	}
	if k.Finalize != nil {
		sub("finalize", gvk.Kind, "update")
	}
	if k.Approval != nil {
		sub("approval", gvk.Kind, "get", "patch", "update")
	}
	if k.Scale != nil {
		sub("scale", resource.ScaleKind.Kind, "get", "patch", "update")
		last := &all[len(all)-1]
		last.Group, last.Version = resource.ScaleKind.Group, resource.ScaleKind.Version
	}
	for _, name := range k.Connects {
		c, ok := connects[name]
		if !ok {
			continue
		}
		kind := c.kind.Kind
		if name == "proxy" {
			kind = gvk.Kind + kind
		}
		sub(name, kind, c.verbs...)
		last := &all[len(all)-1]
		last.Group, last.Version = c.kind.Group, c.kind.Version
	}
	return all
}

func storageVersionHash(gvk schema.GroupVersionKind) string {
	sum := sha256.Sum256([]byte(gvk.Group + "/" + gvk.Version + "/" + gvk.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

func (d *discovery) serve(s *Server, w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "405: Method Not Allowed", http.StatusMethodNotAllowed)
		return nil
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case parts[0] == "":
		s.writePlain(w, r, schema.GroupVersionKind{}, metav1.RootPaths{Paths: d.paths()})
		return nil
	case len(parts) == 1:
		return d.serveRoot(s, w, r, parts[0])
	case parts[0] == "api" && len(parts) == 2:
		return d.serveResources(s, w, r, "", parts[1])
	case parts[0] == "apis" && len(parts) == 2:
		i := slices.IndexFunc(d.groups, func(g group) bool { return g.name == parts[1] && g.name != "" })
		if i < 0 {
			break
		}
		g := d.groups[i].describe()
		g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
		s.writePlain(w, r, schema.GroupVersionKind{Version: "v1", Kind: "APIGroup"}, &g)
		return nil
	case parts[0] == "apis" && len(parts) == 3:
		return d.serveResources(s, w, r, parts[1], parts[2])
	}
	http.NotFound(w, r)
	return nil
}

// writePlain answers with what is no object, in the form that was asked for.
func (s *Server) writePlain(w http.ResponseWriter, r *http.Request, gvk schema.GroupVersionKind, obj any) {
	m, err := negotiate(r, nil)
	if _, ok := obj.(message); err == nil && m.format == asProtobuf && !ok {
		m = media{}
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.write(w, r, m, http.StatusOK, gvk, obj)
}

// serveRoot answers /api and /apis, in whichever of the two forms the client prefers.
func (d *discovery) serveRoot(s *Server, w http.ResponseWriter, r *http.Request, root string) error {
	w.Header().Add("Vary", "Accept")
	m, err := negotiate(r, func(m media) bool {
		return m.as == "APIGroupDiscoveryList" && m.group == discoveryv2.GroupName && (m.ver == "v2" || m.ver == "v2beta1")
	})
	if err != nil {
		return err
	}
	if m.as != "" {
		return d.serveAggregated(s, w, r, root, m)
	}
	if root == "api" {
		versions := &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
		versions.ServerAddressByClientCIDRs = []metav1.ServerAddressByClientCIDR{}
		if d.address.IsValid() {
			versions.ServerAddressByClientCIDRs = []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: d.address.String()}}
		}
		s.write(w, r, m, http.StatusOK, schema.GroupVersionKind{Version: "v1", Kind: "APIVersions"}, versions)
		return nil
	}
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for i := range d.groups {
		if d.groups[i].name != "" {
			list.Groups = append(list.Groups, d.groups[i].describe())
		}
	}
	s.write(w, r, m, http.StatusOK, schema.GroupVersionKind{Version: "v1", Kind: "APIGroupList"}, list)
	return nil
}

func (g *group) describe() metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: g.name + "/" + v.version, Version: v.version})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

func (d *discovery) serveResources(s *Server, w http.ResponseWriter, r *http.Request, name, version string) error {
	for _, g := range d.groups {
		for _, v := range g.versions {
			if g.name != name || v.version != version {
				continue
			}
			list := &metav1.APIResourceList{
				TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
				GroupVersion: schema.GroupVersion{Group: name, Version: version}.String(), APIResources: v.resources,
			}
			s.writePlain(w, r, schema.GroupVersionKind{Version: "v1", Kind: "APIResourceList"}, list)
			return nil
		}
	}
	http.NotFound(w, r)
	return nil
}

// paths are what there is to see besides objects.
func (d *discovery) paths() []string {
	paths := []string{token.ConfigurationPath, "/debug/pprof", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", token.KeysPath, "/readyz", "/version"}
	for _, g := range d.groups {
		if g.name == "" {
			paths = append(paths, "/api")
		} else {
			paths = append(paths, "/apis/"+g.name)
		}
		for _, v := range g.versions {
			if g.name == "" {
				paths = append(paths, "/api/"+v.version)
			} else {
				paths = append(paths, "/apis/"+g.name+"/"+v.version)
			}
		}
	}
	paths = append(paths, "/apis")
	slices.Sort(paths)
	return paths
}

// serveAggregated answers with all groups, versions and resources in one document, or with 304 if the client has it already.
func (d *discovery) serveAggregated(s *Server, w http.ResponseWriter, r *http.Request, root string, m media) error {
	list := &discoveryv2.APIGroupDiscoveryList{Items: []discoveryv2.APIGroupDiscovery{}}
	list.TypeMeta = metav1.TypeMeta{Kind: m.as, APIVersion: m.group + "/" + m.ver}
	for i := range d.groups {
		if (d.groups[i].name == "") == (root == "api") {
			list.Items = append(list.Items, d.groups[i].aggregate())
		}
	}
	data, err := encode(m, m.targetKind(), list)
	if err != nil {
		return err
	}
	sum := sha512.Sum512(data)
	tag := fmt.Sprintf("%q", strings.ToUpper(fmt.Sprintf("%x", sum)))
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	s.send(w, r, fmt.Sprintf("%s;g=%s;v=%s;as=%s", m.format, m.group, m.ver, m.as), http.StatusOK, data)
	return nil
}

func (g *group) aggregate() discoveryv2.APIGroupDiscovery {
	out := discoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
	for _, v := range g.versions {
		version := discoveryv2.APIVersionDiscovery{Version: v.version, Freshness: discoveryv2.DiscoveryFreshnessCurrent}
		for _, r := range v.resources {
			kind := &metav1.GroupVersionKind{Group: cmp.Or(r.Group, g.name), Version: cmp.Or(r.Version, v.version), Kind: r.Kind}
			parent, sub, isSub := strings.Cut(r.Name, "/")
			if isSub {
				last := &version.Resources[len(version.Resources)-1]
				if last.Resource == parent {
					last.Subresources = append(last.Subresources, discoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
				}
				continue
			}
			scope := discoveryv2.ScopeCluster
			if r.Namespaced {
				scope = discoveryv2.ScopeNamespace
			}
			version.Resources = append(version.Resources, discoveryv2.APIResourceDiscovery{
				Resource: r.Name, ResponseKind: kind, Scope: scope, SingularResource: r.SingularName,
				Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
			})
		}
		out.Versions = append(out.Versions, version)
	}
	return out
}
