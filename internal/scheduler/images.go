package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// What an image has to weigh, for each container, to count at all, and more than which it counts for no more (Kubernetes' ImageLocality).
const (
	imageLeast = 23 << 20
	imageMost  = 1000 << 20
)

// hold takes over which images a node has.
func (n *Nodes) hold(node *Node, images []corev1.ContainerImage) {
	for name := range node.images {
		if n.holders[name]--; n.holders[name] <= 0 {
			delete(n.holders, name)
		}
	}
	node.images = nil
	for i := range images {
		for _, name := range images[i].Names {
			if node.images == nil {
				node.images = map[string]int64{}
			}
			if _, twice := node.images[name]; !twice {
				n.holders[name]++
			}
			node.images[name] = images[i].SizeBytes
		}
	}
}

// pulled says how much of the pod's images is on the node, in hundredths. An image that few nodes have counts less, so that not all pods of it go to the first
// that has it.
func (n *Nodes) pulled(need *Need, node *Node) int64 {
	if len(node.images) == 0 || len(n.list) == 0 {
		return 0
	}
	var sum int64
	containers := int64(0)
	count := func(image string) {
		containers++
		name := wholeName(image)
		if size, has := node.images[name]; has {
			sum += size * int64(n.holders[name]) / int64(len(n.list))
		}
	}
	each := func(list []corev1.Container) {
		for i := range list {
			count(list[i].Image)
		}
	}
	each(need.Pod.Spec.InitContainers)
	each(need.Pod.Spec.Containers)
	for i := range need.Pod.Spec.Volumes {
		if v := need.Pod.Spec.Volumes[i].Image; v != nil {
			count(v.Reference)
		}
	}
	least, most := imageLeast*int64(1), imageMost*containers
	sum = min(max(sum, least), most)
	if most <= least {
		return 0
	}
	return scoreMost * (sum - least) / (most - least)
}

// wholeName adds the tag that is meant where none is said.
func wholeName(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") && !strings.Contains(image, "@") {
		return image + ":latest"
	}
	return image
}
