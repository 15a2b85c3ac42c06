// Package kinds is the table of all kinds that are served.
//
// It watches and writes nothing. Always: a kind that is served is in this table, and nowhere else is a list of them.
package kinds

import (
	"slices"

	"sampan.dev/internal/resource"
	"sampan.dev/internal/resource/apps"
	"sampan.dev/internal/resource/autoscaling"
	"sampan.dev/internal/resource/batch"
	"sampan.dev/internal/resource/certificates"
	"sampan.dev/internal/resource/coordination"
	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/resource/discovery"
	"sampan.dev/internal/resource/networking"
	"sampan.dev/internal/resource/node"
	"sampan.dev/internal/resource/policy"
	"sampan.dev/internal/resource/scheduling"
	"sampan.dev/internal/resource/storage"
)

// Table makes the table. It takes a few milliseconds: make it once and hand it round.
func Table() *resource.Table {
	return resource.New(slices.Concat(
		core.Kinds(), apps.Kinds(), autoscaling.Kinds(), batch.Kinds(), certificates.Kinds(), coordination.Kinds(), discovery.Kinds(),
		networking.Kinds(), node.Kinds(), policy.Kinds(), scheduling.Kinds(), storage.Kinds(),
	)...)
}
