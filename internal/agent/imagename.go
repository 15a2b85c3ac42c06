package agent

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// imagePattern is the grammar of image names: registry, path, tag, digest. It is compiled when it is first needed.
var imagePattern = sync.OnceValue(func() *regexp.Regexp {
	const (
		host   = `(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?`
		part   = `[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*`
		tag    = `[\w][\w.-]{0,127}`
		digest = `[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}`
	)
	return regexp.MustCompile(`^((?:` + host + `/)?` + part + `(?:/` + part + `)*)(?::(` + tag + `))?(?:@(` + digest + `))?$`)
})

// withTag is the image's name, with the tag "latest" if it names neither tag nor digest.
func withTag(image string) (string, error) {
	m := imagePattern().FindStringSubmatch(image)
	switch {
	case m == nil && imagePattern().MatchString(strings.ToLower(image)):
		return "", fmt.Errorf("couldn't parse image name %q: invalid reference format: repository name must be lowercase", image)
	case m == nil:
		return "", fmt.Errorf("couldn't parse image name %q: invalid reference format", image)
	case m[2] == "" && m[3] == "":
		return image + ":latest", nil
	}
	return image, nil
}
