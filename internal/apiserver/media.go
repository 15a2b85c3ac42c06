package apiserver

import (
	"cmp"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// format is a wire format.
type format uint8

const (
	asJSON format = iota
	asYAML
	asProtobuf
)

var formatTypes = [...]string{asJSON: "application/json", asYAML: "application/yaml", asProtobuf: "application/vnd.kubernetes.protobuf"}

// acceptedTypes is how errors name what can be asked for and sent.
const (
	acceptedTypes = "application/json, application/yaml, application/vnd.kubernetes.protobuf"
	streamTypes   = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
)

func (f format) String() string { return formatTypes[f] }

// media is what a client wants an answer to look like.
type media struct {
	format format
	pretty bool
	as     string // kind that the answer is to be turned into, such as "Table"; empty: the object's own
	group  string // of as
	ver    string // of as
}

// clause is one alternative of an Accept header.
type clause struct {
	main, sub string
	params    map[string]string
	q         float64
}

// parseAccept gives the alternatives of an Accept header, best first. Parts that make no sense are left out.
func parseAccept(header string) []clause {
	var all []clause
	for part := range strings.SplitSeq(header, ",") {
		t, params, _ := strings.Cut(part, ";")
		main, sub, ok := strings.Cut(strings.TrimSpace(t), "/")
		if !ok && main != "*" || main == "" {
			continue
		}
		if !ok {
			sub = "*"
		}
		c := clause{main: main, sub: sub, q: 1}
		for p := range strings.SplitSeq(params, ";") {
			k, v, ok := strings.Cut(p, "=")
			if !ok {
				continue
			}
			k, v = strings.TrimSpace(k), strings.Trim(strings.TrimSpace(v), `"`)
			if k == "q" {
				if q, err := strconv.ParseFloat(v, 64); err == nil {
					c.q = q
				}
				continue
			}
			if c.params == nil {
				c.params = make(map[string]string, 4)
			}
			c.params[k] = v
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b clause) int {
		return cmp.Or(cmp.Compare(b.q, a.q), cmp.Compare(a.wild(), b.wild()))
	})
	return all
}

// wild is higher the less a clause says.
func (c *clause) wild() int {
	switch {
	case c.main == "*":
		return 2
	case c.sub == "*":
		return 1
	}
	return 0
}

func (c *clause) accepts(f format) bool {
	main, sub, _ := strings.Cut(formatTypes[f], "/")
	return (c.main == "*" || c.main == main) && (c.sub == "*" || c.sub == sub)
}

// negotiate finds the first alternative that can be served; allow says which targets an endpoint has.
func negotiate(r *http.Request, allow func(m media) bool) (media, error) {
	header := r.Header.Get("Accept")
	human := wantsPretty(r)
	switch header { // what nearly all requests have
	case "", "application/json", "*/*":
		return media{pretty: human}, nil
	case "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json":
		return media{format: asProtobuf}, nil
	}
	for _, c := range parseAccept(header) {
		for f := asJSON; f <= asProtobuf; f++ {
			if !c.accepts(f) {
				continue
			}
			m := media{
				format: f, pretty: f == asJSON && (human || c.params["pretty"] == "1"),
				as: c.params["as"], group: c.params["g"], ver: c.params["v"],
			}
			if s, ok := c.params["stream"]; ok && s != "" && s != "watch" {
				continue
			}
			if m.as == "" && m.group == "" && m.ver == "" || allow != nil && allow(m) {
				return m, nil
			}
		}
	}
	return media{}, notAcceptable("only the following media types are accepted: " + acceptedTypes)
}

// allowObjects allows what objects of the API can be turned into.
func allowObjects(m media) bool {
	if m.group != metav1.GroupName || m.ver != "v1" && m.ver != "v1beta1" {
		return false
	}
	switch m.as {
	case "Table":
		return m.format != asProtobuf
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return true
	}
	return false
}

// wantsPretty says that a person will read the answer: they ask for it, or use a browser, curl or wget.
func wantsPretty(r *http.Request) bool {
	if strings.Contains(r.URL.RawQuery, "pretty") {
		if p := r.URL.Query().Get("pretty"); p != "" {
			pretty, _ := strconv.ParseBool(p)
			return pretty
		}
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// bodyFormat says what a request's body is written in.
func bodyFormat(r *http.Request) (format, error) {
	switch header := r.Header.Get("Content-Type"); header {
	case "", "application/json":
		return asJSON, nil
	case "application/vnd.kubernetes.protobuf":
		return asProtobuf, nil
	default:
		if t, _, err := mime.ParseMediaType(header); err == nil {
			for f, name := range formatTypes {
				if t == name {
					return format(f), nil
				}
			}
		}
		return 0, unsupportedMedia(acceptedTypes)
	}
}

func notAcceptable(message string) error {
	return failure(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, message)
}

func unsupportedMedia(accepted string) error {
	return failure(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s", accepted))
}

// query is the request's query, parsed once and leniently, as upstream does.
func query(r *http.Request) url.Values {
	if r.URL.RawQuery == "" {
		return nil
	}
	return r.URL.Query()
}
