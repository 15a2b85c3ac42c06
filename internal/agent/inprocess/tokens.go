package inprocess

import (
	"context"
	"errors"

	authenticationv1 "k8s.io/api/authentication/v1"

	"sampan.dev/internal/registry/tokens"
)

// SetTokens says who makes the tokens that the node's pods ask for.
func (a *Access) SetTokens(issuer *tokens.Issuer) { a.tokens = issuer }

// CreateToken implements agent.API. It asks in the node's name: for pods that are bound to it, and no others.
func (a *Access) CreateToken(_ context.Context, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	if a.tokens == nil {
		return nil, errors.New("make a token: nobody makes any here")
	}
	return a.tokens.Issue(a.cache.Snapshot(), a.who, namespace, account, asked)
}
