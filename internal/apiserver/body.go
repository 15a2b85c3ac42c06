package apiserver

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"sampan.dev/internal/resource"
)

// maxBody is the most bytes that a request's body may have.
const maxBody = 3 << 20

// readBody reads a request's body, whole.
func readBody(r *http.Request) ([]byte, error) {
	tooLarge := func() error { return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody)) }
	if r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	var data []byte
	var err error
	if r.ContentLength >= 0 {
		data = make([]byte, r.ContentLength)
		_, err = io.ReadFull(r.Body, data)
	} else {
		data, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	}
	if err != nil {
		// The client went away, was too slow, or sent less than it said.
		return nil, bad(fmt.Sprintf("the body of the request could not be read: %v", err))
	}
	if len(data) > maxBody {
		return nil, tooLarge()
	}
	return data, nil
}

// codecs are the decoders of the wire formats, lenient and strict.
type codecs struct{ lenient, strict [3]runtime.Decoder }

func newCodecs(f serializer.CodecFactory) *codecs {
	var c codecs
	for _, info := range f.SupportedMediaTypes() {
		for i, name := range formatTypes {
			if info.MediaType == name {
				c.lenient[i], c.strict[i] = info.Serializer, info.StrictSerializer
			}
		}
	}
	return &c
}

// decodeObject reads an object of the version that the client speaks. What the API does not know, or meets twice, is an error,
// a warning or nothing, as the client wishes.
func (s *Server) decodeObject(c *call, f format, data []byte, directive string, warn *warnings) (resource.Object, error) {
	into, want := c.as.New(), c.as.GroupVersionKind
	if f == asProtobuf {
		if s.table.DecodeInto(c.as, data, into) {
			into.GetObjectKind().SetGroupVersionKind(want)
			return into, nil
		}
		into = c.as.New()
	}
	decoder := s.codecs.strict[f]
	if directive == metav1.FieldValidationIgnore {
		decoder = s.codecs.lenient[f]
	}
	obj, gvk, err := decoder.Decode(data, &want, into)
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok || obj == nil || directive == metav1.FieldValidationStrict {
			return nil, undecodable(err, want.Kind, gvk, data)
		}
		warn.strict(strict.Errors())
	}
	if obj != runtime.Object(into) {
		return nil, undecodable(fmt.Errorf("converting (%s) to (%s): unknown conversion", typeName(obj), internalName(want)), want.Kind, gvk, data)
	}
	if gvk.GroupVersion() != want.GroupVersion() {
		return nil, bad(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", gvk.GroupVersion(), want.GroupVersion()))
	}
	into.GetObjectKind().SetGroupVersionKind(want)
	return into, nil
}

func typeName(obj runtime.Object) string { return strings.TrimPrefix(fmt.Sprintf("%T", obj), "*") }

// internalName is what upstream calls its own form of a kind: core.Pod.
func internalName(gvk schema.GroupVersionKind) string {
	group, _, _ := strings.Cut(gvk.Group, ".")
	if group == "" {
		group = "core"
	}
	return group + "." + gvk.Kind
}

// undecodable tells what a body was taken for and why it cannot be that.
func undecodable(cause error, kind string, gvk *schema.GroupVersionKind, data []byte) error {
	if gvk != nil && gvk.Kind != "" {
		return bad(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, kind, cause))
	}
	return bad(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", kind, cause, summary(data)))
}

// summary is the beginning of a body that nobody understands.
func summary(data []byte) string {
	const most = 30
	if len(data) == 0 {
		return "<empty>"
	}
	end := ""
	if len(data) > most {
		data, end = data[:most], " ..."
	}
	if data[0] == '{' {
		return string(data) + end
	}
	return hex.EncodeToString(data) + end
}

// decodeDeleteOptions reads the options of a delete from its body, or, where there is none, from its query.
func (s *Server) decodeDeleteOptions(r *http.Request) (metav1.DeleteOptions, error) {
	var o metav1.DeleteOptions
	data, err := readBody(r)
	if err != nil {
		return o, err
	}
	if len(data) == 0 {
		if err := optionsOf(query(r), &o, metav1.Convert_url_Values_To_v1_DeleteOptions); err != nil {
			return o, err
		}
		return o, checkDeleteOptions(&o)
	}
	f, err := bodyFormat(r)
	if err != nil {
		return o, err
	}
	if err := decodeOptions(f, data, &o); err != nil {
		return o, err
	}
	return o, checkDeleteOptions(&o)
}

// decodeOptions reads delete options. Every group has the kind, with the same type, so only the kind's name is looked at.
func decodeOptions(f format, data []byte, o *metav1.DeleteOptions) (err error) {
	if f == asProtobuf {
		var unknown runtime.Unknown
		if !bytes.HasPrefix(data, []byte(magic)) {
			return bad("provided data does not appear to be a protobuf message, expected prefix " + fmt.Sprint([]byte(magic)))
		}
		if err = unknown.Unmarshal(data[len(magic):]); err == nil {
			err = o.Unmarshal(unknown.Raw)
		}
		o.Kind = unknown.Kind
	} else {
		if f == asYAML {
			data, err = yaml.YAMLToJSON(data)
		}
		if err == nil {
			err = json.UnmarshalCaseSensitivePreserveInts(data, o)
		}
	}
	if err != nil {
		return bad(err.Error())
	}
	if o.Kind != "" && o.Kind != "DeleteOptions" {
		return bad("decoded object cannot be converted to DeleteOptions")
	}
	return nil
}

func checkDeleteOptions(o *metav1.DeleteOptions) error {
	o.TypeMeta = metav1.TypeMeta{}
	o.IgnoreStoreReadErrorWithClusterBreakingPotential = nil
	return invalidOptions("DeleteOptions", validation.ValidateDeleteOptions(o))
}

var errEmptyName = errors.New("name must be provided")

// checkName holds an object to the name and the namespace of its URL, and fills in the namespace.
func checkName(c *call, obj resource.Object) error {
	if err := checkNamespace(c, obj); err != nil {
		return err
	}
	switch obj.GetName() {
	case c.name:
		return nil
	case "":
		return bad(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: %v", c.name, errEmptyName))
	}
	return bad(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), c.name))
}

func checkNamespace(c *call, obj resource.Object) error {
	if !c.kind.Namespaced {
		obj.SetNamespace("")
		return nil
	}
	if got := obj.GetNamespace(); got != "" && got != c.namespace {
		return bad("the namespace of the provided object does not match the namespace sent on the request")
	}
	obj.SetNamespace(c.namespace)
	return nil
}
