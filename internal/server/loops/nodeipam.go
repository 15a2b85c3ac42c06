package loops

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"sampan.dev/internal/cache"
	"sampan.dev/internal/controller/nodeipam"
	"sampan.dev/internal/resource"
)

// nodeRanges is the controller of the nodes' ranges for pods; none if the cluster has no range.
func nodeRanges(w *world) []part {
	if len(w.Pods) == 0 {
		return nil
	}
	all := allNodes{nodeWrites{w}}
	c := nodeipam.New(nodeipam.Config{Ranges: w.Pods}, all, all, w.Events.As("node-ipam-controller", ""), w.Queues, w.Log)
	return []part{{account: "node-controller", run: c.Run, on: map[*resource.Kind]func(change){
		w.nodes: func(ch change) {
			if ch.old == nil || ch.new == nil || !slices.Equal(nodeipam.Of(nodeIn(ch.old)), nodeipam.Of(nodeIn(ch.new))) {
				c.NodeChanged()
			}
		},
	}}}
}

// allNodes shows the nodes to the controller of their ranges.
type allNodes struct{ nodeWrites }

func (n allNodes) Nodes() (all []*corev1.Node) {
	for o := range n.Cache.Snapshot().List(n.nodes, cache.Selection{}) {
		all = append(all, nodeIn(o))
	}
	return all
}
