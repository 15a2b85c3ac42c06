package agent

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/types"
)

// createToken asks for a token of one of this node's pods. Whether that is fatal to the pod depends on the token that it has.
func (a *Agent) createToken(ctx context.Context, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	made, err := a.cfg.API.CreateToken(ctx, namespace, account, asked)
	if err != nil && ctx.Err() == nil {
		a.log.Warn("ask for a token", "pod", namespace+"/"+asked.Spec.BoundObjectRef.Name, "account", account, "error", err)
	}
	return made, err
}

// renewTokens has a pod's volumes brought up to date, since the time of a token in them is nearly up.
func (a *Agent) renewTokens(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[uid]; w != nil {
		w.refresh()
		a.markLocked(w.key)
	}
}
