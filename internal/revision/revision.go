// Package revision is the history of a workload whose past templates are kept as ControllerRevisions: what one holds, when two say the same, how
// they are numbered and named, and which may go.
//
// It watches and writes nothing. Always: the content of a revision is the strategic merge patch that kubectl and Kubernetes read; one
// that is current has the highest number; nothing that is given is changed.
package revision

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"

	"sampan.dev/internal/resource/core"
)

// HashLabel is on the revisions of a StatefulSet: the hash that its name ends with.
const HashLabel = "controller.kubernetes.io/hash"

// Content is what a revision holds of a template: the patch that puts it in the place of another one.
func Content(template *corev1.PodTemplateSpec) ([]byte, error) {
	plain, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode a pod template: %w", err)
	}
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(plain))
	d.UseNumber() // large numbers stay what they are
	if err := d.Decode(&fields); err != nil {
		return nil, fmt.Errorf("encode a pod template: %w", err)
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template is the template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("decode revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	if patch.Spec.Template == nil {
		return nil, fmt.Errorf("decode revision %s/%s: it holds no template", r.Namespace, r.Name)
	}
	return patch.Spec.Template, nil
}

// Holds says that a revision holds the template whose content is given. What an older version left out and defaults fill in is no difference.
func Holds(r *appsv1.ControllerRevision, template *corev1.PodTemplateSpec, content []byte) bool {
	if bytes.Equal(r.Data.Raw, content) {
		return true
	}
	old, err := Template(r)
	if err != nil {
		return false
	}
	core.DefaultPodSpec(&old.Spec)
	new := template.DeepCopy()
	core.DefaultPodSpec(&new.Spec)
	return equality.Semantic.DeepEqual(old, new)
}

// Sort puts revisions in order of their numbers, oldest first.
func Sort(all []*appsv1.ControllerRevision) {
	slices.SortFunc(all, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// Next is the number of a revision that comes after all these, which are sorted.
func Next(all []*appsv1.ControllerRevision) int64 {
	if len(all) == 0 {
		return 1
	}
	return all[len(all)-1].Revision + 1
}

// New makes a revision of its owner, which is of that kind, without a name.
func New(owner metav1.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec, content []byte, number int64) *appsv1.ControllerRevision {
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Labels: maps.Clone(template.Labels), Annotations: maps.Clone(owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Data:     runtime.RawExtension{Raw: content},
		Revision: number,
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	return r
}

// Hash is the hash of a revision's content that upstream puts into the names of a StatefulSet's revisions; collisions makes it another one.
func Hash(content []byte, collisions int32) string {
	h := fnv.New32()
	_, _ = h.Write(content)
	_, _ = h.Write([]byte(strconv.Itoa(int(collisions))))
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// Name is the name of a revision of an owner.
func Name(owner, hash string) string {
	const most = 223
	return owner[:min(len(owner), most)] + "-" + hash
}

// Surplus are the revisions to delete so that no more than limit of those that nothing uses stay: the oldest first. A negative limit keeps all.
func Surplus(sorted []*appsv1.ControllerRevision, limit int, used func(*appsv1.ControllerRevision) bool) []*appsv1.ControllerRevision {
	idle := slices.DeleteFunc(slices.Clone(sorted), used)
	if limit < 0 || len(idle) <= limit {
		return nil
	}
	return idle[:len(idle)-limit]
}
