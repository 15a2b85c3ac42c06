// Package version says which sampan this is and which Kubernetes it speaks.
package version

// Sampan is this program's own version, set by the build.
var Sampan = "dev"

// Kubernetes is the version whose objects, words and wire formats are spoken, and the one that the API server and nodes report, with
// Sampan's own as build metadata (semver).
const (
	Kubernetes = "v1.37.2"
	Major      = "1"
	Minor      = "37"
)

// Git is what /version and a node's kubeletVersion say.
func Git() string { return Kubernetes + "+sampan" }
