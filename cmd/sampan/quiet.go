package main

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// hush has libraries that log by klog do so to the log, as details: what they call errors are for the most part clients that hang up, and what
// matters of them they return as well.
func hush(log *slog.Logger) { klog.SetSlogLogger(slog.New(details{log.Handler()})) }

// details is a handler that takes everything for debugging.
type details struct{ slog.Handler }

func (d details) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d details) Handle(ctx context.Context, r slog.Record) error {
	if r.Level = slog.LevelDebug; !d.Handler.Enabled(ctx, r.Level) {
		return nil // errors come without having asked
	}
	return d.Handler.Handle(ctx, r)
}

func (d details) WithAttrs(attrs []slog.Attr) slog.Handler {
	return details{d.Handler.WithAttrs(attrs)}
}

func (d details) WithGroup(name string) slog.Handler { return details{d.Handler.WithGroup(name)} }
