package kinds

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"

	"sampan.dev/internal/resource"
)

// anything fills objects with random values that every encoding can carry.
func anything(seed int64) *randfill.Filler {
	return randfill.NewWithSeed(seed).NilChance(0.4).NumElements(1, 3).MaxDepth(20).Funcs(
		func(q *apiresource.Quantity, c randfill.Continue) {
			*q = *apiresource.NewMilliQuantity(c.Int63n(1e9), apiresource.DecimalSI)
			_ = q.String() // fixes the cached form, as decoding does
		},
		func(v *intstr.IntOrString, c randfill.Continue) {
			if *v = intstr.FromInt32(c.Int31()); c.Bool() {
				*v = intstr.FromString(text(c))
			}
		},
		func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(c.Int63n(1<<32), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			*t = metav1.NewMicroTime(time.Unix(c.Int63n(1<<32), 0))
		},
		func(f *metav1.FieldsV1, _ randfill.Continue) { f.SetRawString(`{"f:metadata":{}}`) },
		func(m *[]metav1.ManagedFieldsEntry, _ randfill.Continue) { *m = nil },
		func(t *metav1.TypeMeta, _ randfill.Continue) { *t = metav1.TypeMeta{} },
		func(r *runtime.RawExtension, _ randfill.Continue) { *r = runtime.RawExtension{} },
		func(s *string, c randfill.Continue) { *s = text(c) },
	)
}

func text(c randfill.Continue) string {
	const letters = "abcXYZ019-._/ é"
	var b strings.Builder
	for range c.Intn(8) {
		r := []rune(letters)
		b.WriteRune(r[c.Intn(len(r))])
	}
	return b.String()
}

func eachKind(t *testing.T, test func(t *testing.T, table *resource.Table, k *resource.Kind, fresh func(seed int64) resource.Object)) {
	table := Table()
	for _, k := range table.All() {
		t.Run(k.Plural, func(t *testing.T) {
			test(t, table, k, func(seed int64) resource.Object {
				o := k.New()
				anything(seed).Fill(o)
				return o
			})
		})
	}
}

const rounds = 60 // random objects of each kind

func TestDefaultingTwiceIsDefaultingOnce(t *testing.T) {
	eachKind(t, func(t *testing.T, _ *resource.Table, k *resource.Kind, fresh func(int64) resource.Object) {
		if k.Default == nil {
			return // nothing to default
		}
		for seed := range int64(rounds) {
			once := fresh(seed)
			k.Default(once)
			twice := once.DeepCopyObject().(resource.Object)
			k.Default(twice)
			if !equality.Semantic.DeepEqual(once, twice) {
				t.Fatalf("seed %d: the second pass changed\n%s", seed, diff.Diff(once, twice))
			}
		}
	})
}

// Whatever comes in, every function of a kind answers, and none changes what it only reads.
func TestNothingThatComesInBreaksAKind(t *testing.T) {
	now := time.Unix(1<<31, 0)
	eachKind(t, func(t *testing.T, _ *resource.Table, k *resource.Kind, fresh func(int64) resource.Object) {
		for seed := range int64(rounds) {
			o, old := fresh(seed), fresh(seed+1000)
			if k.Default != nil {
				k.Default(o)
			}
			before, oldBefore := o.DeepCopyObject(), old.DeepCopyObject()
			_ = resource.ValidateMeta(k, o)
			_ = resource.ValidateMetaUpdate(k, o, old)
			if k.Validate != nil {
				_ = k.Validate(o)
			}
			if k.ValidateUpdate != nil {
				_ = k.ValidateUpdate(o, old)
			}
			for _, sub := range []*resource.Status{k.Status, k.Finalize} {
				if sub != nil && sub.ValidateUpdate != nil {
					_ = sub.ValidateUpdate(o, old)
				}
			}
			if k.Warnings != nil {
				_ = k.Warnings(o)
			}
			if cells := k.Row(o, now); len(cells) != len(k.Columns) {
				t.Fatalf("seed %d: %d cells in %d columns", seed, len(cells), len(k.Columns))
			}
			for _, f := range k.FieldNames {
				if _, ok := k.Fields(o)[f]; !ok && f != "metadata.namespace" {
					t.Fatalf("field %s is named but not given", f)
				}
			}
			if !reflect.DeepEqual(o, before) || !reflect.DeepEqual(old, oldBefore) {
				t.Fatalf("seed %d: an object changed by being read\n%s", seed, diff.Diff(before, o))
			}
			if k.PrepareUpdate != nil {
				k.PrepareUpdate(o, old)
			}
			if k.PrepareCreate != nil {
				k.PrepareCreate(o)
			}
		}
	})
}

func TestObjectsComeBackFromProtobufAndJSONAsTheyWere(t *testing.T) {
	eachKind(t, func(t *testing.T, table *resource.Table, k *resource.Kind, fresh func(int64) resource.Object) {
		for seed := range int64(rounds) {
			o := fresh(seed)
			if k.Default != nil {
				k.Default(o)
			}
			data, err := table.Encode(o)
			if err != nil {
				t.Fatal(err)
			}
			back, err := table.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			_, v := table.ByResource(k.Resource())
			if into := k.New(); !table.DecodeInto(v, data, into) || table.DecodeInto(v, data[:len(data)-1], k.New()) || table.DecodeInto(v, data[1:], k.New()) {
				t.Fatalf("seed %d: it does not tell what is whole", seed)
			} else if into.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind); !equality.Semantic.DeepEqual(into, back) {
				t.Fatalf("seed %d: into an object it lost\n%s", seed, diff.Diff(back, into))
			}
			if gvk := back.GetObjectKind().GroupVersionKind(); gvk != k.GroupVersionKind {
				t.Fatalf("came back as %s", gvk)
			}
			text, err := json.Marshal(back)
			if err != nil {
				t.Fatal(err)
			}
			fromText, _, err := table.Codecs().UniversalDeserializer().Decode(text, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			o.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
			if !equality.Semantic.DeepEqual(o, back) {
				t.Fatalf("seed %d: protobuf lost\n%s", seed, diff.Diff(o, back))
			}
			if !equality.Semantic.DeepEqual(o, fromText) {
				t.Fatalf("seed %d: JSON lost\n%s", seed, diff.Diff(o, fromText))
			}
		}
	})
}

func TestTheEnvelopeIsTheOneKubernetesStores(t *testing.T) {
	eachKind(t, func(t *testing.T, table *resource.Table, k *resource.Kind, fresh func(int64) resource.Object) {
		stock := protobuf.NewSerializer(table.Scheme(), table.Scheme())
		for seed := range int64(rounds) {
			o := fresh(seed)
			ours, err := table.Encode(o)
			if err != nil {
				t.Fatal(err)
			}
			o.GetObjectKind().SetGroupVersionKind(k.GroupVersionKind)
			var theirs bytes.Buffer
			if err := stock.Encode(o, &theirs); err != nil {
				t.Fatal(err)
			}
			again, err := table.Decode(ours)
			if err != nil {
				t.Fatal(err)
			}
			// Maps have no order in protobuf, so only those without are compared byte by byte.
			if len(ours) != theirs.Len() || !bytes.HasPrefix(ours, []byte("k8s\x00")) || !equality.Semantic.DeepEqual(again, o) {
				t.Fatalf("seed %d: %d bytes, upstream's serializer writes %d", seed, len(ours), theirs.Len())
			}
		}
	})
}

func TestEventsGoThroughTheOtherVersionAndBack(t *testing.T) {
	table := Table()
	k, v := table.ByResource(eventsv1.SchemeGroupVersion.WithResource("events"))
	if k == nil || k.Kind != "Event" || v.Kind != "Event" || v.GroupVersionKind == k.GroupVersionKind {
		t.Fatalf("events.k8s.io/v1 events are %v in %v", k, v)
	}
	for seed := range int64(rounds) {
		var e corev1.Event
		anything(seed).Fill(&e)
		before := e.DeepCopy()
		other := v.FromStored(&e)
		if other.GetObjectKind().GroupVersionKind() != v.GroupVersionKind {
			t.Fatalf("converted to %s", other.GetObjectKind().GroupVersionKind())
		}
		back := v.ToStored(other).(*corev1.Event)
		back.TypeMeta = metav1.TypeMeta{}
		if !reflect.DeepEqual(back, before) || !reflect.DeepEqual(&e, before) {
			t.Fatalf("seed %d\n%s", seed, diff.Diff(before, back))
		}
		data, err := table.Encode(other)
		if err != nil {
			t.Fatal(err)
		}
		read, err := table.Decode(data)
		if err != nil || !equality.Semantic.DeepEqual(read, other) {
			t.Fatalf("seed %d: %v\n%s", seed, err, diff.Diff(other, read))
		}
	}
}

func TestStrictDecodingNamesWhatItDoesNotKnow(t *testing.T) {
	codecs := Table().Codecs()
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeYAML)
	if !ok {
		t.Fatal("no YAML")
	}
	const manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  colour: red\ndata:\n  k: \"1\"\n"
	_, _, err := info.StrictSerializer.Decode([]byte(manifest), nil, nil)
	if want := `strict decoding error: unknown field "metadata.colour"`; err == nil || err.Error() != want {
		t.Errorf("strict: %v, want %s", err, want)
	}
	o, _, err := info.Serializer.Decode([]byte(manifest), nil, nil)
	if err != nil || o.(*corev1.ConfigMap).Data["k"] != "1" {
		t.Errorf("lenient: %v %v", o, err)
	}
	info, _ = runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	const twice = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"1","k":"2"}}`
	_, _, err = info.StrictSerializer.Decode([]byte(twice), nil, nil)
	if want := `strict decoding error: duplicate field "data.k"`; err == nil || err.Error() != want {
		t.Errorf("strict: %v, want %s", err, want)
	}
}

func TestBrokenProtobufIsAnErrorAndNothingWorse(t *testing.T) {
	table := Table()
	good, err := table.Encode(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"k": "v"}}})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewSource(1))
	for range 2000 {
		bad := bytes.Clone(good)
		for range 1 + r.Intn(4) {
			bad[r.Intn(len(bad))] = byte(r.Intn(256))
		}
		_, _ = table.Decode(bad[:r.Intn(len(bad)+1)])
	}
	if _, err := table.Decode(nil); err == nil {
		t.Error("nothing was taken for an object")
	}
}

func TestTheTableFindsKindsByResourceAndKind(t *testing.T) {
	table := Table()
	seen := make(map[string]bool)
	for _, k := range table.All() {
		byResource, v := table.ByResource(k.Resource())
		byKind, _ := table.ByKind(k.GroupVersionKind)
		if byResource != k || byKind != k || v == nil || v.GroupVersionKind != k.GroupVersionKind {
			t.Errorf("%s is not found by its names", k.Plural)
		}
		if o := k.New(); v.FromStored(o) != o || v.ToStored(o) != o {
			t.Errorf("%s: the stored version converts", k.Plural)
		}
		if seen[k.Prefix] {
			t.Errorf("%s shares its prefix %s", k.Plural, k.Prefix)
		}
		seen[k.Prefix] = true
		if !meta.IsListType(k.NewList()) {
			t.Errorf("%s: %T is no list", k.Plural, k.NewList())
		}
	}
	if k, v := table.ByResource(corev1.SchemeGroupVersion.WithResource("boats")); k != nil || v != nil {
		t.Errorf("found %v for what is not there", k)
	}
	for _, o := range []runtime.Object{&corev1.Binding{}, &policyv1.Eviction{}, &corev1.PodExecOptions{}, &metav1.Table{}, &metav1.Status{}, &metav1.DeleteOptions{}} {
		if _, _, err := table.Scheme().ObjectKinds(o); err != nil {
			t.Errorf("%T: %v", o, err)
		}
	}
}

func TestKeysAreThoseKubernetesHasInEtcd(t *testing.T) {
	table := Table()
	for resource, want := range map[string]string{
		"pods": "/registry/pods/ns/x", "nodes": "/registry/minions/x", "namespaces": "/registry/namespaces/x",
		"services": "/registry/services/specs/ns/x", "endpoints": "/registry/services/endpoints/ns/x", "serviceaccounts": "/registry/serviceaccounts/ns/x",
		"configmaps": "/registry/configmaps/ns/x", "secrets": "/registry/secrets/ns/x", "events": "/registry/events/ns/x",
		"endpointslices.discovery.k8s.io": "/registry/endpointslices/ns/x", "networkpolicies.networking.k8s.io": "/registry/networkpolicies/ns/x",
		"ingresses.networking.k8s.io": "/registry/ingress/ns/x", "ingressclasses.networking.k8s.io": "/registry/ingressclasses/x",
		"servicecidrs.networking.k8s.io": "/registry/servicecidrs/x", "ipaddresses.networking.k8s.io": "/registry/ipaddresses/x",
	} {
		k, _ := table.ByResource(schema.ParseGroupResource(resource).WithVersion("v1"))
		namespace := ""
		if k.Namespaced {
			namespace = "ns"
		}
		if got := k.Key(namespace, "x"); got != want {
			t.Errorf("%s: %s, want %s", resource, got, want)
		}
		if !strings.HasPrefix(k.Key(namespace, "x"), k.KeyPrefix(namespace)) || !strings.HasPrefix(k.KeyPrefix(namespace), k.KeyPrefix("")) {
			t.Errorf("%s: prefixes %s and %s", resource, k.KeyPrefix(namespace), k.KeyPrefix(""))
		}
	}
}
