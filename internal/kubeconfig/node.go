package kubeconfig

import "go.yaml.in/yaml/v3"

func newDocument() *yaml.Node {
	r := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	setScalar(r, "apiVersion", "v1")
	setScalar(r, "kind", "Config")
	return &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{r}}
}

func root(doc *yaml.Node) *yaml.Node { return doc.Content[0] }

// child returns the value of key in a mapping, or nil.
func child(m *yaml.Node, key string) *yaml.Node {
	if m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func scalar(m *yaml.Node, key string) string {
	if c := child(m, key); c != nil && c.Kind == yaml.ScalarNode && c.Tag != "!!null" {
		return c.Value
	}
	return ""
}

func setScalar(m *yaml.Node, key, value string) {
	setChild(m, key, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value})
}

func setChild(m *yaml.Node, key string, value *yaml.Node) {
	if c := child(m, key); c != nil {
		value.HeadComment, value.LineComment, value.FootComment = c.HeadComment, c.LineComment, c.FootComment
		*c = *value
		return
	}
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
}

// items returns the elements of one of the lists, each a mapping with a name.
func items(r *yaml.Node, list string) []*yaml.Node {
	if c := child(r, list); c != nil && c.Kind == yaml.SequenceNode {
		return c.Content
	}
	return nil
}

func item(r *yaml.Node, list, name string) *yaml.Node {
	for _, c := range items(r, list) {
		if scalar(c, "name") == name {
			return c
		}
	}
	return nil
}

// put replaces the named element of a list, or appends it.
func put(r *yaml.Node, list, name, key string, value map[string]any) {
	var v yaml.Node
	if err := v.Encode(value); err != nil {
		panic(err) // only strings, lists and maps are ever passed
	}
	if old := item(r, list, name); old != nil {
		setChild(old, key, &v)
		return
	}
	seq := child(r, list)
	if seq == nil || seq.Kind != yaml.SequenceNode {
		setChild(r, list, &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"})
		seq = child(r, list)
	}
	e := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	setScalar(e, "name", name)
	setChild(e, key, &v)
	seq.Style = 0 // a list that was written as [] is written out
	seq.Content = append(seq.Content, e)
}

func drop(r *yaml.Node, list, name string) {
	seq := child(r, list)
	if seq == nil {
		return
	}
	kept := seq.Content[:0]
	for _, c := range seq.Content {
		if scalar(c, "name") != name {
			kept = append(kept, c)
		}
	}
	seq.Content = kept
}

// dirOf returns the data directory that a cluster's entry was made for, or "" if sampan did not make it.
func dirOf(cluster *yaml.Node) string {
	for _, x := range items(child(cluster, "cluster"), "extensions") {
		if scalar(x, "name") == extension {
			return scalar(child(x, "extension"), "dataDir")
		}
	}
	return ""
}
