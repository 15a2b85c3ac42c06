package core

import (
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sampan.dev/internal/resource"
)

func TestNamespacesAreLabelledAndHeld(t *testing.T) {
	k := Namespace()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"a/b"}}, Status: corev1.NamespaceStatus{Phase: "Odd"}}
	k.Default(ns)
	k.PrepareCreate(ns)
	if ns.Labels["kubernetes.io/metadata.name"] != "web" || ns.Status.Phase != "Active" || !reflect.DeepEqual(ns.Spec.Finalizers, []corev1.FinalizerName{"a/b", "kubernetes"}) {
		t.Errorf("is %+v", ns)
	}
	same(t, told(k.Validate(ns)))
	k.PrepareDelete(ns)
	if !k.Held(ns) || ns.Status.Phase != "Terminating" {
		t.Errorf("is %+v", ns)
	}

	now := ns.DeepCopy()
	now.Spec.Finalizers, now.Status.Phase = nil, "Odd"
	k.PrepareUpdate(now, ns)
	if len(now.Spec.Finalizers) != 2 || now.Status.Phase != "Terminating" {
		t.Errorf("an update changed finalizers or status: %+v", now)
	}
	now.Spec.Finalizers, now.Status.Phase = nil, "Odd"
	k.Finalize.PrepareUpdate(now, ns)
	if k.Held(now) || now.Status.Phase != "Terminating" {
		t.Errorf("finalize is %+v", now)
	}
	now.Spec.Finalizers = []corev1.FinalizerName{"mine"}
	same(t, told(k.Finalize.ValidateUpdate(now, ns)), `spec.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`)
	k.Status.PrepareUpdate(now, ns)
	if len(now.Spec.Finalizers) != 2 {
		t.Errorf("a status update changed finalizers: %+v", now)
	}
	now.Status.Phase = "Terminating"
	same(t, told(k.Status.ValidateUpdate(now, ns)), "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty")
	now.DeletionTimestamp, now.Status.Phase = &metav1.Time{Time: time.Unix(1, 0)}, "Active"
	same(t, told(k.Status.ValidateUpdate(now, ns)), "status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty")
	same(t, told(resource.ValidateMeta(k, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a.b"}})), `metadata.name: Invalid value: "a.b": must not contain dots`)
}

func TestConfigMapsThatAreWrong(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct {
		cm   corev1.ConfigMap
		want []string
	}{
		"a key":          {corev1.ConfigMap{Data: map[string]string{"a/b": ""}}, []string{`data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`}},
		"dots":           {corev1.ConfigMap{BinaryData: map[string][]byte{"..": nil}}, []string{`binaryData[..]: Invalid value: "..": must not be '..'`}},
		"a key twice":    {corev1.ConfigMap{Data: map[string]string{"a": ""}, BinaryData: map[string][]byte{"a": nil}}, []string{`data[a]: Invalid value: "a": duplicate of key present in binaryData`}},
		"just too large": {corev1.ConfigMap{Data: map[string]string{"a": big}, BinaryData: map[string][]byte{"b": {1}}}, []string{"[]: Too long: may not be more than 1048576 bytes"}},
		"just fits":      {corev1.ConfigMap{Data: map[string]string{"a": big}}, nil},
	} {
		t.Run(name, func(t *testing.T) { same(t, told(ConfigMap().Validate(&c.cm)), c.want...) })
	}
}

func TestWhatIsSealedStays(t *testing.T) {
	yes := pointer(true)
	old := &corev1.ConfigMap{Immutable: yes, Data: map[string]string{"a": "1"}, BinaryData: map[string][]byte{"b": {1}}}
	same(t, told(configMapUpdate(&corev1.ConfigMap{}, old)),
		"immutable: Forbidden: field is immutable when `immutable` is set",
		"data: Forbidden: field is immutable when `immutable` is set",
		"binaryData: Forbidden: field is immutable when `immutable` is set")
	relabelled := old.DeepCopy()
	relabelled.Labels = map[string]string{"a": "b"}
	same(t, told(configMapUpdate(relabelled, old)))
	same(t, told(configMapUpdate(&corev1.ConfigMap{Immutable: yes, BinaryData: map[string][]byte{}}, &corev1.ConfigMap{Immutable: yes})))

	secret := &corev1.Secret{Type: "Opaque", Immutable: yes, Data: map[string][]byte{"a": {1}}}
	same(t, told(secretUpdate(&corev1.Secret{Type: "other"}, secret)),
		`type: Invalid value: "other": field is immutable`,
		"immutable: Forbidden: field is immutable when `immutable` is set",
		"data: Forbidden: field is immutable when `immutable` is set")
	same(t, told(secretUpdate(secret, secret)))
}

func TestSecretsThatAreWrong(t *testing.T) {
	for name, c := range map[string]struct {
		secret corev1.Secret
		want   []string
	}{
		"a certificate without its key": {corev1.Secret{Type: "kubernetes.io/tls", Data: map[string][]byte{"tls.crt": nil}}, []string{"data[tls.key]: Required value"}},
		"a token of no account":         {corev1.Secret{Type: "kubernetes.io/service-account-token"}, []string{"metadata.annotations[kubernetes.io/service-account.name]: Required value"}},
		"docker without its file":       {corev1.Secret{Type: "kubernetes.io/dockerconfigjson"}, []string{"data[.dockerconfigjson]: Required value"}},
		"docker with a broken file":     {corev1.Secret{Type: "kubernetes.io/dockercfg", Data: map[string][]byte{".dockercfg": []byte("{")}}, []string{`data[.dockercfg]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`}},
		"neither user nor password":     {corev1.Secret{Type: "kubernetes.io/basic-auth"}, []string{"data[username]: Required value", "data[password]: Required value"}},
		"a password alone":              {corev1.Secret{Type: "kubernetes.io/basic-auth", Data: map[string][]byte{"password": nil}}, nil},
		"an empty key for SSH":          {corev1.Secret{Type: "kubernetes.io/ssh-auth", Data: map[string][]byte{"ssh-privatekey": nil}}, []string{"data[ssh-privatekey]: Required value"}},
		"too large":                     {corev1.Secret{Data: map[string][]byte{"a": make([]byte, 1<<20+1)}}, []string{"data: Too long: may not be more than 1048576 bytes"}},
		"a type of somebody else's":     {corev1.Secret{Type: "example.com/x"}, nil},
	} {
		t.Run(name, func(t *testing.T) { same(t, told(Secret().Validate(&c.secret)), c.want...) })
	}
}

func TestStringDataIsWrittenAndNeverRead(t *testing.T) {
	s := &corev1.Secret{Data: map[string][]byte{"a": []byte("old"), "b": []byte("kept")}, StringData: map[string]string{"a": "new"}}
	Secret().Default(s)
	if s.StringData != nil || string(s.Data["a"]) != "new" || string(s.Data["b"]) != "kept" || s.Type != "Opaque" {
		t.Errorf("is %+v", s)
	}
}

func TestACertificateThatIsNoneIsWarnedOf(t *testing.T) {
	s := &corev1.Secret{Type: "kubernetes.io/tls", Data: map[string][]byte{"tls.crt": nil, "tls.key": nil}}
	same(t, Secret().Warnings(s), "tls: failed to find any PEM data in certificate input")
}

func TestServiceAccountsKeepOnlyNamesOfSecrets(t *testing.T) {
	sa := &corev1.ServiceAccount{Secrets: []corev1.ObjectReference{{Name: "s", Namespace: "elsewhere", Kind: "Secret"}}}
	ServiceAccount().PrepareCreate(sa)
	if !reflect.DeepEqual(sa.Secrets, []corev1.ObjectReference{{Name: "s"}}) {
		t.Errorf("is %+v", sa.Secrets)
	}
}

func TestNodes(t *testing.T) {
	k := Node()
	n := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24"}, Status: corev1.NodeStatus{Capacity: corev1.ResourceList{"cpu": quantityOf("2")}}}
	k.Default(n)
	if len(n.Spec.PodCIDRs) != 1 || n.Status.Allocatable.Cpu().String() != "2" {
		t.Errorf("is %+v", n)
	}
	same(t, told(k.Validate(n)))
	n.Spec.Taints = []corev1.Taint{{Key: "a b", Effect: "Odd"}, {Key: "k"}, {Key: "k", Effect: "NoExecute"}, {Key: "k", Effect: "NoExecute"}}
	n.Status.Capacity["pods"] = quantityOf("1500m")
	n.Spec.PodCIDRs = []string{"10.244.0.0/24", "10.244.0.0/24"}
	same(t, told(k.Validate(n)),
		`metadata.taints[0].key: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
		`metadata.taints[0].effect: Unsupported value: "Odd": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
		"metadata.taints[1].effect: Required value",
		`metadata.taints[3]: Duplicate value: {"key":"k","effect":"NoExecute"}: taints must be unique by key and effect pair`,
		`status.capacity.pods: Invalid value: "1500m": must be an integer`,
		`spec.podCIDRs: Invalid value: ["10.244.0.0/24","10.244.0.0/24"]: may specify no more than one CIDR for each IP family`,
		`spec.podCIDRs[1]: Duplicate value: "10.244.0.0/24"`)

	old := &corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/24"}, ProviderID: "a"}}
	now := &corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24"}, ProviderID: "b"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: "Hostname", Address: "h"}, {Type: "Hostname", Address: "h"}}}}
	same(t, told(k.ValidateUpdate(now, old)),
		`status.addresses[1]: Duplicate value: {"type":"Hostname","address":"h"}`,
		`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`,
		`spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`)
	k.Status.PrepareUpdate(now, old)
	if now.Spec.ProviderID != "a" {
		t.Error("a status update changed the spec")
	}
	k.PrepareUpdate(now, old)
	if len(now.Status.Addresses) != 0 {
		t.Error("an update changed the status")
	}
	if got := k.Fields(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}); !reflect.DeepEqual(got, map[string]string{"metadata.name": "n", "spec.unschedulable": "false"}) {
		t.Errorf("fields are %v", got)
	}
}

func TestEventsThatAreWrong(t *testing.T) {
	now := metav1.NewMicroTime(time.Unix(1, 0))
	meta := metav1.ObjectMeta{Name: "e", Namespace: "web"}
	about := corev1.ObjectReference{Namespace: "web"}
	long := strings.Repeat("x", 1025)
	for name, c := range map[string]struct {
		event corev1.Event
		want  []string
	}{
		"an old event of its namespace":      {corev1.Event{ObjectMeta: meta, InvolvedObject: about}, nil},
		"an old event of another":            {corev1.Event{ObjectMeta: meta, InvolvedObject: corev1.ObjectReference{Namespace: "db"}}, []string{`involvedObject.namespace: Invalid value: "db": does not match event.namespace`}},
		"a node's event outside the default": {corev1.Event{ObjectMeta: meta}, []string{`involvedObject.namespace: Invalid value: "": does not match event.namespace`}},
		"a node's event in the default":      {corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}}, nil},
		"a new event with nothing": {corev1.Event{ObjectMeta: meta, InvolvedObject: about, EventTime: now, Message: long}, []string{
			"reportingController: Required value",
			`reportingController: Invalid value: "": name part must be non-empty`,
			`reportingController: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			"reportingInstance: Required value", "action: Required value", "reason: Required value",
			`message: Invalid value: "": can have at most 1024 characters`,
		}},
		"a new event, whole": {corev1.Event{ObjectMeta: meta, InvolvedObject: about, EventTime: now, ReportingController: "a.b/c", ReportingInstance: "i", Action: "a", Reason: "r"}, nil},
	} {
		t.Run(name, func(t *testing.T) { same(t, told(Event().Validate(&c.event)), c.want...) })
	}
}

func TestEventsAreHeldToMoreInTheOtherVersion(t *testing.T) {
	v := Event().Also[0]
	bad := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "web"}, Type: "Odd", Count: 1, Series: &corev1.EventSeries{Count: 1}, Source: corev1.EventSource{Component: "c"}}
	same(t, told(v.Validate(bad)),
		`series.count: Invalid value: "": should be at least 2`, "series.lastObservedTime: Required value", "eventTime: Required value",
		`type: Invalid value: "": has invalid value: Odd`, `count: Invalid value: "": needs to be unset`, `source: Invalid value: "": needs to be unset`)
	whole := &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: "e-", Namespace: "web"}, Type: "Normal", EventTime: metav1.NewMicroTime(time.Unix(1, 0))}
	same(t, told(v.Validate(whole)))
	whole.Name = "A"
	same(t, told(v.Validate(whole)), `metadata.name: Invalid value: "A": `+subdomain)
	old := bad.DeepCopy()
	old.ResourceVersion = "1"
	now := old.DeepCopy()
	now.Message, now.Series = "other", &corev1.EventSeries{Count: 3, LastObservedTime: metav1.NewMicroTime(time.Unix(1, 0))}
	same(t, told(v.ValidateUpdate(now, old)), `message: Invalid value: "other": field is immutable`)
	if got := v.StoredField("regarding.kind") + v.StoredField("reportingController") + v.StoredField("type"); got != "involvedObject.kindreportingComponenttype" {
		t.Errorf("fields are stored as %s", got)
	}
	stored := Event().FieldNames
	for _, name := range v.FieldNames {
		if !strings.Contains(strings.Join(stored, " "), v.StoredField(name)) {
			t.Errorf("%s is stored nowhere", name)
		}
	}
}

func TestTheColumnsAreThoseOfKubectl(t *testing.T) {
	for kind, want := range map[string]string{
		"Pod":            "Name Ready Status Restarts Age IP* Node* Nominated Node* Readiness Gates*",
		"Node":           "Name Status Roles Age Version Internal-IP* External-IP* OS-Image* Kernel-Version* Container-Runtime*",
		"Namespace":      "Name Status Age",
		"ConfigMap":      "Name Data Age",
		"Secret":         "Name Type Data Age",
		"ServiceAccount": "Name Secrets Age",
		"Event":          "Last Seen Type Reason Object Subobject* Source* Message First Seen* Count* Name*",
		"Service":        "Name Type Cluster-IP External-IP Port(s) Age Selector*",
	} {
		for _, k := range Kinds() {
			if k.Kind != kind {
				continue
			}
			var got []string
			for _, c := range k.Columns {
				if c.Priority > 0 {
					c.Name += "*"
				}
				if c.Description == "" {
					t.Errorf("%s: column %s is not described", kind, c.Name)
				}
				got = append(got, c.Name)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: %s", kind, strings.Join(got, " "))
			}
		}
	}
}
