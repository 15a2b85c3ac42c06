// Command kubectl is Kubernetes' own kubectl, built from its own module and nothing else, so that sampan can carry it.
//
// It is a Go module apart: its packages cost 40 MB of program and 30 MB of memory, which the daemon must not pay, and its
// dependencies are not sampan's. The build packs the program, compressed, into sampan; `sampan kubectl` unpacks and runs it.
package main

import (
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubeconfig users that authenticate by OIDC or a plugin
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
