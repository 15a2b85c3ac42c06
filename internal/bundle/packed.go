//go:build packed

package bundle

import _ "embed"

// The files are made by `make build`; each program's digest is that of the program itself.
var (
	//go:embed packed/sampan-runtime.zst
	runtimeData string
	//go:embed packed/sampan-runtime.sha256
	runtimeDigest string
	//go:embed packed/kubectl.zst
	kubectlData string
	//go:embed packed/kubectl.sha256
	kubectlDigest string
)

var packed = map[string]program{
	Runtime: {runtimeDigest, runtimeData},
	Kubectl: {kubectlDigest, kubectlData},
}
