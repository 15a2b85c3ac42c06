package apiserver_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sampan.dev/internal/auth"
)

const (
	podsPath = "/api/v1/namespaces/default/pods"
	mapsPath = "/api/v1/namespaces/default/configmaps"
	goodPod  = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i"}]}}`
	protobuf = "application/vnd.kubernetes.protobuf"
	merge    = "application/merge-patch+json"
	stratm   = "application/strategic-merge-patch+json"
	jsonp    = "application/json-patch+json"
	yamlType = "application/yaml"
)

// podWith is a pod in JSON with this in its spec's only container.
func podWith(container string) string {
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i",` + container + `}]}}`
}

func protoPod(t *testing.T, change func(*runtime.Unknown)) string {
	t.Helper()
	raw, err := (&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	u := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: raw}
	change(&u)
	data, err := u.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return "k8s\x00" + string(data)
}

func TestBadInputIsTheClientsFaultInKubernetesWords(t *testing.T) {
	c := start(t)
	if response, body := c.ask("POST", podsPath, strings.Replace(goodPod, `"x"`, `"there"`, 1)); response.StatusCode != 201 {
		t.Fatal(body)
	}
	there := podsPath + "/there"
	for _, b := range []struct {
		name, method, path, body, contentType string
		code                                  int
		want                                  string
	}{
		{"an unknown field", "POST", podsPath + "?fieldValidation=Strict", strings.Replace(goodPod, `"spec":{`, `"spec":{"foo":1,`, 1), "", 400, `Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo"`},
		{"a field twice", "POST", podsPath + "?fieldValidation=Strict", strings.Replace(goodPod, `"spec":{`, `"spec":{"nodeName":"a","nodeName":"b",`, 1), "", 400, `strict decoding error: duplicate field "spec.nodeName"`},
		{"an unknown field in YAML", "POST", podsPath + "?fieldValidation=Strict", "apiVersion: v1\nkind: Pod\nfoo: 1\n", yamlType, 400, `strict decoding error: unknown field "foo"`},
		{"a field twice in YAML", "POST", podsPath + "?fieldValidation=Strict", "apiVersion: v1\nkind: Pod\nkind: Pod\n", yamlType, 400, `key "kind" already set in map`},
		{"a number for a string", "POST", podsPath, strings.Replace(goodPod, `"x"`, `7`, 1), "", 400, `Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string`},
		{"a string for a list", "POST", podsPath, `{"apiVersion":"v1","kind":"Pod","spec":{"containers":"c"}}`, "", 400, `cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container`},
		{"a list for the whole", "POST", podsPath, `[]`, "", 400, `couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value`},
		{"null", "POST", podsPath, `null`, "", 422, `metadata.name: Required value: name or generateName is required`},
		{"no body", "POST", podsPath, ``, "", 400, `the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)`},
		{"a body cut short", "POST", podsPath, goodPod[:40], "", 400, `the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"apiVersion\":\"v1\",\"kind\":\"Pod ...)`},
		{"no JSON at all", "POST", podsPath, `hello`, "", 400, `(68656c6c6f)`},
		{"no YAML at all", "POST", podsPath, "a: b: c", yamlType, 400, `the object provided is unrecognized (must be of type Pod): yaml: mapping values are not allowed in this context`},
		{"YAML that refers to itself a billion times", "POST", podsPath, bomb(), yamlType, 400, `yaml: document contains excessive aliasing`},
		{"deep nesting", "POST", podsPath, strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), "", 400, `exceeded max depth`},
		{"broken UTF-8 in a name", "POST", podsPath, strings.Replace(goodPod, `"x"`, "\"x\xff\"", 1), "", 422, `a lowercase RFC 1123 subdomain must consist of`},
		{"another kind", "POST", podsPath, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, "", 400, `ConfigMap in version "v1" cannot be handled as a Pod: converting (v1.ConfigMap) to (core.Pod): unknown conversion`},
		{"a kind that nobody knows", "POST", podsPath, `{"apiVersion":"v1","kind":"Foo"}`, "", 400, `Foo in version "v1" cannot be handled as a Pod: no kind "Foo" is registered for version "v1"`},
		{"another version", "POST", podsPath, `{"apiVersion":"v2","kind":"Pod"}`, "", 400, `no kind "Pod" is registered for version "v2"`},
		{"another version of the same", "POST", "/api/v1/namespaces/default/events", `{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"x"}}`, "", 400, `Event in version "v1" cannot be handled as a Event`},
		{"a bad name", "POST", podsPath, strings.Replace(goodPod, `"x"`, `"X_Y"`, 1), "", 422, `Pod "X_Y" is invalid: metadata.name: Invalid value: "X_Y": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character`},
		{"no image", "POST", podsPath, `{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c"}]}}`, "", 422, `Pod "x" is invalid: spec.containers[0].image: Required value`},
		{"no containers", "POST", podsPath, `{"metadata":{"name":"x"}}`, "", 422, `spec.containers: Required value`},
		{"a port out of range", "POST", podsPath, podWith(`"ports":[{"containerPort":70000}]`), "", 422, `spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive`},
		{"a port beyond 32 bits", "POST", podsPath, podWith(`"ports":[{"containerPort":99999999999}]`), "", 400, `cannot unmarshal number 99999999999 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32`},
		{"a bad quantity", "POST", podsPath, podWith(`"resources":{"limits":{"memory":"12 apples"}}`), "", 400, `quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'`},
		{"a negative quantity", "POST", podsPath, podWith(`"resources":{"limits":{"memory":"-1"}}`), "", 422, `must be greater than or equal to 0`},
		{"another namespace in the object", "POST", podsPath, strings.Replace(goodPod, `"name":"x"`, `"name":"x","namespace":"other"`, 1), "", 400, `the namespace of the provided object does not match the namespace sent on the request`},
		{"a namespace that is not there", "POST", "/api/v1/namespaces/nope/pods", goodPod, "", 404, `namespaces "nope" not found`},
		{"a resourceVersion on a new object", "POST", podsPath, strings.Replace(goodPod, `"name":"x"`, `"name":"x","resourceVersion":"1"`, 1), "", 400, `resourceVersion should not be set on objects to be created`},
		{"more than 3 MiB", "POST", mapsPath, `{"metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("a", 3<<20) + `"}}`, "", 413, `Request entity too large: limit is 3145728`},
		{"more data than a config map holds", "POST", mapsPath, `{"metadata":{"name":"x"},"data":{"k":"` + strings.Repeat("a", 2<<20) + `"}}`, "", 422, `Too long: may not be more than 1048576`},
		{"a strange content type", "POST", podsPath, goodPod, "text/html", 415, `the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf`},
		{"a content type that is none", "POST", podsPath, goodPod, ";;;", 415, `the body of the request was in an unknown format`},
		{"protobuf without its beginning", "POST", podsPath, "hello", protobuf, 400, `provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]`},
		{"protobuf that is empty", "POST", podsPath, "", protobuf, 400, `empty data`},
		{"protobuf cut short", "POST", podsPath, protoPod(t, func(*runtime.Unknown) {})[:14], protobuf, 400, `unexpected EOF`},
		{"protobuf of another kind", "POST", podsPath, protoPod(t, func(u *runtime.Unknown) { u.Kind = "Secret" }), protobuf, 400, `Secret in version "v1" cannot be handled as a Pod`},
		{"protobuf whose object is rubbish", "POST", podsPath, protoPod(t, func(u *runtime.Unknown) { u.Raw = []byte{0xff, 0xff, 0xff} }), protobuf, 400, `Pod in version "v1" cannot be handled as a Pod: `},
		{"a bad option", "POST", podsPath + "?dryRun=Some", goodPod, "", 422, `CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All"`},
		{"a bad fieldValidation", "POST", podsPath + "?fieldValidation=Sometimes", goodPod, "", 422, `fieldValidation: Unsupported value: "Sometimes": supported values: "", "Ignore", "Strict", "Warn"`},
		{"a field manager that is too long", "POST", podsPath + "?fieldManager=" + strings.Repeat("x", 200), goodPod, "", 422, `fieldManager: Too long: may not be more than 128 bytes`},
		{"creating at a name", "POST", there, goodPod, "", 405, `create is not supported on resources of kind "pods"`},
		{"creating without a namespace", "POST", "/api/v1/pods", goodPod, "", 405, `create is not supported on resources of kind "pods"`},
		{"deleting what cannot be deleted at once", "DELETE", "/api/v1/namespaces", `{}`, "", 405, `deletecollection is not supported on resources of kind "namespaces"`},

		{"an update of another name", "PUT", there, goodPod, "", 400, `the name of the object (x) does not match the name on the URL (there)`},
		{"an update without a name", "PUT", there, `{"spec":{"containers":[{"name":"c","image":"i"}]}}`, "", 400, `the name of the object (there based on URL) was undeterminable: name must be provided`},
		{"an update of what is not there", "PUT", podsPath + "/x", goodPod, "", 404, `pods "x" not found`},
		{"an update of another uid", "PUT", there, strings.Replace(goodPod, `"name":"x"`, `"name":"there","uid":"abc"`, 1), "", 409, `Precondition failed: UID in precondition: abc, UID in object meta: `},
		{"an update of an old version", "PUT", there, strings.Replace(goodPod, `"name":"x"`, `"name":"there","resourceVersion":"1"`, 1), "", 409, `Operation cannot be fulfilled on pods "there": the object has been modified; please apply your changes to the latest version and try again`},
		{"a change of what may not change", "PUT", there, strings.Replace(goodPod, `{"containers"`, `{"nodeName":"n","containers"`, 1)[:0] + `{"metadata":{"name":"there"},"spec":{"hostNetwork":true,"containers":[{"name":"c","image":"i"}]}}`, "", 422, `pod updates may not change fields other than`},

		{"a patch of no known type", "PATCH", there, `{}`, "application/json", 415, `accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json`},
		{"server-side apply", "PATCH", there + "?fieldManager=m", goodPod, "application/apply-patch+yaml", 415, `the body of the request was in an unknown format`},
		{"a merge patch that is no JSON", "PATCH", there, `{`, merge, 400, `error decoding patch: unexpected end of JSON input`},
		{"a merge patch that is a list", "PATCH", there, `[]`, merge, 400, `error decoding patch: json: cannot unmarshal array`},
		{"a merge patch with an unknown field", "PATCH", there + "?fieldValidation=Strict", `{"spec":{"foo":1}}`, merge, 422, `strict decoding error: unknown field "spec.foo"`},
		{"a merge patch with a field twice", "PATCH", there + "?fieldValidation=Strict", `{"spec":{},"spec":{}}`, merge, 422, `strict decoding error: duplicate field "spec"`},
		{"a merge patch of the wrong type", "PATCH", there, `{"spec":7}`, merge, 422, `cannot unmarshal number into Go struct field`},
		{"a merge patch of the name", "PATCH", there, `{"metadata":{"name":"other"}}`, merge, 400, `the name of the object (other) does not match the name on the URL (there)`},
		{"a merge patch of the kind", "PATCH", there, `{"kind":"Secret"}`, merge, 400, `does not match the expected`},
		{"a merge patch of an old version", "PATCH", there, `{"metadata":{"resourceVersion":"1","labels":{"a":"b"}}}`, merge, 409, `the object has been modified`},
		{"a strategic patch that is no JSON", "PATCH", there, `{`, stratm, 400, `unexpected end of JSON input`},
		{"a strategic patch of the wrong type", "PATCH", there, `{"spec":{"containers":"c"}}`, stratm, 422, `cannot restore slice from string`},
		{"a strategic patch without the key", "PATCH", there, `{"spec":{"containers":[{"image":"c"}]}}`, stratm, 400, `does not contain declared merge key: name`},
		{"a strategic patch with an unknown directive", "PATCH", there, `{"spec":{"$patch":"foo"}}`, stratm, 400, `unknown patch type: foo in map`},
		{"a strategic patch with an unknown field", "PATCH", there + "?fieldValidation=Strict", `{"spec":{"foo":1}}`, stratm, 422, `strict decoding error: unknown field "spec.foo"`},
		{"a JSON patch that is an object", "PATCH", there, `{}`, jsonp, 400, `error decoding patch: json: cannot unmarshal object`},
		{"a JSON patch of what is not there", "PATCH", there, `[{"op":"remove","path":"/spec/foo"}]`, jsonp, 422, `the server rejected our request due to an error in our request`},
		{"a JSON patch with an unknown operation", "PATCH", there, `[{"op":"frob","path":"/spec"}]`, jsonp, 422, `the server rejected our request`},
		{"a JSON patch without a path", "PATCH", there, `[{"op":"replace"}]`, jsonp, 422, ``},
		{"a JSON patch of null", "PATCH", there, `[null]`, jsonp, 422, ``},
		{"a JSON patch whose test fails", "PATCH", there, `[{"op":"test","path":"/metadata/name","value":"x"}]`, jsonp, 422, `the server rejected our request`},
		{"a JSON patch with too many operations", "PATCH", there, `[` + strings.Repeat(`{"op":"test","path":"/metadata/name","value":"there"},`, 10000) + `{"op":"test","path":"/metadata/name","value":"there"}]`, jsonp, 413, `The allowed maximum operations in a JSON patch is 10000, got 10001`},
		{"a forced patch that is no apply", "PATCH", there + "?force=true", `{}`, merge, 422, `PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch`},
		{"a patch of what is not there", "PATCH", podsPath + "/x", `{}`, merge, 404, `pods "x" not found`},

		{"delete options that are none", "DELETE", there, `{"kind":"Pod"}`, "", 400, `decoded object cannot be converted to DeleteOptions`},
		{"delete options that contradict each other", "DELETE", there, `{"orphanDependents":true,"propagationPolicy":"Orphan"}`, "", 422, `orphanDependents and deletionPropagation cannot be both set`},
		{"an unknown propagation policy", "DELETE", there + "?propagationPolicy=Maybe", ``, "", 422, `propagationPolicy: Unsupported value`},
		{"a bad grace period", "DELETE", there + "?gracePeriodSeconds=soon", ``, "", 400, `strconv.ParseInt: parsing "soon": invalid syntax`},
		{"delete options in broken protobuf", "DELETE", there, "k8s\x00\xff\xff", protobuf, 400, ``},
		{"a delete under another uid", "DELETE", there, `{"preconditions":{"uid":"abc"}}`, "", 409, `the UID in the precondition (abc) does not match the UID in record`},

		{"a bad limit", "GET", podsPath + "?limit=many", "", "", 400, `strconv.ParseInt: parsing "many": invalid syntax`},
		{"a bad continue", "GET", podsPath + "?continue=%21", "", "", 400, `continue key is not valid`},
		{"a continue that climbs", "GET", podsPath + "?continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIuLi8uLi94In0", "", "", 400, `continue key is not valid: ../../x`},
		{"an unknown field selector", "GET", podsPath + "?fieldSelector=spec.foo=1", "", "", 400, `field label not supported: spec.foo`},
		{"an unknown field selector of a kind without fields", "GET", mapsPath + "?fieldSelector=spec.foo=1", "", "", 400, `"spec.foo" is not a known field selector: only "metadata.name", "metadata.namespace"`},
		{"a bad field selector", "GET", podsPath + "?fieldSelector=a", "", "", 400, `invalid selector: 'a'; can't understand 'a'`},
		{"a bad label selector", "GET", podsPath + "?labelSelector=a%20in%20b", "", "", 400, `unable to parse requirement`},
		{"a bad label", "GET", podsPath + "?labelSelector=a%3D%3D_", "", "", 400, `a valid label must be`},
		{"a bad match", "GET", podsPath + "?resourceVersion=1&resourceVersionMatch=About", "", "", 422, `resourceVersionMatch: Unsupported value: "About"`},
		{"a match without a version", "GET", podsPath + "?resourceVersionMatch=Exact", "", "", 422, `resourceVersionMatch is forbidden unless resourceVersion is provided`},
		{"an old exact version", "GET", podsPath + "?resourceVersion=1&resourceVersionMatch=Exact", "", "", 410, `The resourceVersion for the provided list is too old.`},
		{"a bad version of one object", "GET", there + "?resourceVersion=x", "", "", 400, `invalid resource version`},
		{"what is not there", "GET", podsPath + "/x", "", "", 404, `pods "x" not found`},
		{"a subresource that is not there", "GET", there + "/foo", "", "", 404, ``},
		{"a namespace for what has none", "GET", "/api/v1/namespaces/default/nodes", "", "", 404, ``},
		{"a method that there is not", "FROB", there, "", "", 405, ``},

		{"a binding to nothing", "POST", there + "/binding", `{"metadata":{"name":"there"}}`, "", 422, `target.name: Required value`},
		{"a binding of another pod", "POST", there + "/binding", `{"metadata":{"name":"x"},"target":{"name":"n"}}`, "", 400, `name in URL does not match name in Binding object`},
		{"an eviction that is none", "POST", there + "/eviction", `{"kind":"Pod"}`, "", 400, `cannot be handled as a Eviction`},
		{"a review of nothing", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{}`, "", 400, `exactly one of nonResourceAttributes or resourceAttributes must be specified`},
		{"a command without a command", "POST", there + "/exec?stdout=true", ``, "", 400, `you must specify at least one command for the container`},
		{"a command without streams", "POST", there + "/exec?command=ls", ``, "", 400, `you must specify at least one of stdin, stdout, stderr`},
		{"a log of another container", "GET", there + "/log?container=x", "", "", 400, `container x is not valid for pod there`},
		{"a log with a bad tail", "GET", there + "/log?tailLines=-1", "", "", 422, `PodLogOptions "there" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`},
		{"a log with a bad time", "GET", there + "/log?sinceTime=yesterday", "", "", 400, `cannot parse "yesterday"`},
	} {
		t.Run(b.name, func(t *testing.T) {
			headers := []string{"Content-Type", b.contentType}
			if b.contentType == "" {
				headers[1] = "application/json; charset=utf-8"
			}
			response, body := c.ask(b.method, b.path, b.body, headers...)
			if response.StatusCode != b.code {
				t.Errorf("code %d, want %d: %.600s", response.StatusCode, b.code, body)
				return
			}
			var status metav1.Status
			if response.Header.Get("Content-Type") == "application/json" {
				if err := json.Unmarshal([]byte(body), &status); err != nil || status.Kind != "Status" || status.Code != int32(b.code) || status.Status != "Failure" {
					t.Errorf("no Status: %v: %.600s", err, body)
				}
			}
			if !strings.Contains(status.Message+body, b.want) {
				t.Errorf("message %.600s\nwant %s", status.Message, b.want)
			}
		})
	}
	if response, body := c.ask("GET", there, ""); response.StatusCode != 200 {
		t.Errorf("the pod did not survive: %d %s", response.StatusCode, body)
	}
}

// bomb is YAML whose aliases double a list many times over.
func bomb() string {
	var b bytes.Buffer
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 9 {
		line := "a" + string(rune('1'+i)) + ": &a" + string(rune('1'+i)) + " ["
		line += strings.TrimSuffix(strings.Repeat("*a"+string(rune('0'+i))+",", 10), ",") + "]\n"
		b.WriteString(line)
	}
	return b.String()
}

func TestWarningsTellWhatIsIgnored(t *testing.T) {
	c := start(t)
	body := strings.Replace(goodPod, `"spec":{`, `"spec":{"foo":1,"nodeName":"a","nodeName":"b",`, 1)
	for validation, want := range map[string][]string{
		"":       {`299 - "unknown field \"spec.foo\""`, `299 - "duplicate field \"spec.nodeName\""`},
		"Warn":   {`299 - "unknown field \"spec.foo\""`, `299 - "duplicate field \"spec.nodeName\""`},
		"Ignore": nil,
	} {
		response, answer := c.ask("POST", podsPath+"?dryRun=All&fieldValidation="+validation, body)
		got := response.Header.Values("Warning")
		if response.StatusCode != 201 || len(got) != len(want) {
			t.Errorf("%s: %d %q %s", validation, response.StatusCode, got, answer)
			continue
		}
		for _, w := range want {
			if !strings.Contains(strings.Join(got, "\n"), w) {
				t.Errorf("%s: %q, want %s", validation, got, w)
			}
		}
	}
	if response, _ := c.ask("GET", podsPath+"/x", ""); response.StatusCode != 404 {
		t.Errorf("a dry run left something: %d", response.StatusCode)
	}
}

func TestBodiesOfOtherLengthThanSaid(t *testing.T) {
	c := start(t)
	r, err := http.NewRequest("POST", c.URL+podsPath, strings.NewReader(goodPod))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = -1 // unknown: sent in chunks
	response, err := c.HTTPClient("admin", auth.Masters).Do(r)
	if err != nil || response.StatusCode != 201 {
		t.Fatalf("%v %v", response, err)
	}
	response.Body.Close()
}
