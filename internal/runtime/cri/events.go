package cri

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/runtime/container"
)

// event is what happened to one container, or to the sandbox itself (id is then the pod's).
type event struct {
	id, pod string
	kind    runtimeapi.ContainerEventType
	at      time.Time
	status  *runtimeapi.PodSandboxStatus // of a pod that is gone
}

// Sizes of queues, in events. Who sends never waits: beyond the first, everyone who listens is cut off and lists again; beyond
// the second, the one who is slow.
const (
	queueSize      = 4096
	subscriberSize = 1024
)

// broker hands events out, in order, to everyone who listens.
type broker struct {
	log   *slog.Logger
	queue chan event

	mu   sync.Mutex // guards subs
	subs map[chan *runtimeapi.ContainerEventResponse]bool
}

func newBroker(log *slog.Logger) *broker {
	return &broker{log: log, queue: make(chan event, queueSize), subs: map[chan *runtimeapi.ContainerEventResponse]bool{}}
}

func (b *broker) send(e event) {
	b.mu.Lock()
	listened := len(b.subs) > 0
	b.mu.Unlock()
	if !listened {
		return
	}
	select {
	case b.queue <- e:
	default:
		b.mu.Lock()
		defer b.mu.Unlock()
		b.log.Warn("too many events: everyone who listens lists again")
		for sub := range b.subs {
			b.drop(sub)
		}
	}
}

// drop is called with mu held.
func (b *broker) drop(sub chan *runtimeapi.ContainerEventResponse) {
	if b.subs[sub] {
		delete(b.subs, sub)
		close(sub)
	}
}

func (b *broker) subscribe() (events chan *runtimeapi.ContainerEventResponse, stop func()) {
	sub := make(chan *runtimeapi.ContainerEventResponse, subscriberSize)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs[sub] = true
	return sub, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(sub)
	}
}

// run hands events out until ctx ends, and then ends every subscription.
func (b *broker) run(ctx context.Context, describe func(event) *runtimeapi.ContainerEventResponse) {
	for {
		select {
		case <-ctx.Done():
			b.mu.Lock()
			defer b.mu.Unlock()
			for sub := range b.subs {
				b.drop(sub)
			}
			return
		case e := <-b.queue:
			full := describe(e)
			b.mu.Lock()
			for sub := range b.subs {
				select {
				case sub <- full:
				default:
					b.drop(sub)
				}
			}
			b.mu.Unlock()
		}
	}
}

func (s *Service) emit(id, pod string, kind runtimeapi.ContainerEventType, at time.Time) {
	s.events.send(event{id: id, pod: pod, kind: kind, at: at})
}

// onState hears of a process that began or ended. It is called by the containers' own goroutines and does not wait.
func (s *Service) onState(st container.State) {
	r := s.records.get(st.ID)
	if r == nil {
		return
	}
	switch st.Status {
	case container.Running:
		s.emit(st.ID, r.Sandbox, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, st.Started)
	case container.Exited:
		s.emit(st.ID, r.Sandbox, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, st.Finished)
	case container.Created: // told by CreateContainer, once the container can be seen
	}
}

// describe adds to an event how the pod and its containers are by now.
func (s *Service) describe(e event) *runtimeapi.ContainerEventResponse {
	resp := &runtimeapi.ContainerEventResponse{
		ContainerId: e.id, ContainerEventType: e.kind, CreatedAt: e.at.UnixNano(), PodSandboxStatus: e.status, ContainersStatuses: s.statuses(e.pod),
	}
	if resp.PodSandboxStatus == nil {
		if pod, err := s.sandboxes.Get(e.pod); err == nil {
			resp.PodSandboxStatus = s.podStatus(pod)
		}
	}
	return resp
}

// GetContainerEvents sends what happens from now on.
func (s *Service) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events, stop := s.events.subscribe()
	defer stop()
	// The header says that the subscription stands: whoever lists after it misses nothing.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case e, ok := <-events:
			if !ok {
				return status.Error(codes.ResourceExhausted, "events were lost: list again")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}
