package agent

import (
	"context"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/agent/logs"
)

// rotateLogs looks at the size of each running container's log: one stat each, on the tick that renews the lease, so that no
// timer and no watch of its own is needed.
func (a *Agent) rotateLogs(ctx context.Context) {
	type log struct{ id, path string }
	var all []log
	a.mu.Lock()
	for _, w := range a.workers {
		w.mu.Lock()
		for _, c := range w.running {
			all = append(all, log{c.ID, a.logDir(w.namespace, w.name, w.uid) + "/" + logFile(c.Name, c.Attempt)})
		}
		w.mu.Unlock()
	}
	a.mu.Unlock()
	for _, l := range all {
		_, err := logs.Rotate(l.path, a.cfg.LogMaxSize, a.cfg.LogMaxFiles, time.Now(), func() error {
			_, err := a.runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: l.id})
			return err
		})
		if err != nil && ctx.Err() == nil {
			a.log.Warn("rotate log", "log", l.path, "error", err)
		}
	}
}
