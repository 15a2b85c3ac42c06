package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sampan.dev/internal/store"
)

// verdict is what an error says of the request that got it.
type verdict int

const (
	refused verdict = iota // etcd has looked at it and has not done it, nor will
	busy                   // etcd has not taken it, and may the next time
	lost                   // no answer: it may have been done
)

// judge tells what is known of a request that failed. Sent says whether it has left for a member.
func judge(err error, sent bool) verdict {
	err = rpctypes.Error(err)
	if errors.Is(err, rpctypes.ErrTooManyRequests) {
		return busy
	}
	switch code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Internal, codes.Aborted:
		if sent {
			return lost
		}
		return busy
	}
	return refused
}

func code(err error) codes.Code {
	var e rpctypes.EtcdError
	switch {
	case errors.As(err, &e):
		return e.Code()
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return status.Code(err)
}

// translate gives an error of etcd's the contract's meaning, and keeps its words.
func translate(err error) error {
	err = rpctypes.Error(err)
	for _, m := range []struct{ etcd, own error }{
		{rpctypes.ErrCompacted, store.ErrCompacted},
		{rpctypes.ErrFutureRev, store.ErrFuture},
		{rpctypes.ErrNoSpace, store.ErrNoSpace},
		{rpctypes.ErrRequestTooLarge, store.ErrTooLarge},
		{rpctypes.ErrTooManyOps, store.ErrTooLarge},
	} {
		if errors.Is(err, m.etcd) {
			return fmt.Errorf("%w: %w", m.own, err)
		}
	}
	if code(err) == codes.ResourceExhausted && !errors.Is(err, rpctypes.ErrTooManyRequests) { // gRPC's own limit
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	}
	return err
}
