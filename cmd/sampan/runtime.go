package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"sampan.dev/internal/instance"
	"sampan.dev/internal/runtimeproc"
	"sampan.dev/internal/sweep"
)

// dialCRI connects to a CRI endpoint such as unix:///run/containerd/containerd.sock.
func dialCRI(endpoint string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a unix socket, whose file mode says who may
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect to the container runtime at %s: %w", endpoint, err)
	}
	return conn, nil
}

// endpoint is where the instance's containers are looked after.
func endpoint(inst instance.Instance, s instance.Settings) string {
	if s.CRI != "" {
		return s.CRI
	}
	return "unix://" + inst.RuntimeSocket()
}

// graceAnnotation is where the agent keeps a pod's terminationGracePeriodSeconds, so that it is known without the API.
const graceAnnotation = "io.kubernetes.pod.terminationGracePeriod"

// stopLeftovers ends containers that no sampan looks after, each within its pod's grace period and all within limit, and then the
// runtime. It returns how many processes and pods there were.
func stopLeftovers(ctx context.Context, inst instance.Instance, limit time.Duration) (int, error) {
	count := 0
	pid, err := runtimeproc.PeerPID(inst.RuntimeSocket())
	if err == nil {
		n, err := stopSandboxes(ctx, inst, limit)
		count += n
		if err == nil {
			err = runtimeproc.Stop(ctx, pid)
		}
		if err != nil {
			return count, err
		}
	}
	n, err := sweep.Kill(ctx, sweep.Root, inst.CgroupParent(), limit)
	return count + n, err
}

func stopSandboxes(ctx context.Context, inst instance.Instance, limit time.Duration) (int, error) {
	conn, err := dialCRI("unix://" + inst.RuntimeSocket())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	ctx, cancel := context.WithTimeout(ctx, limit+10*time.Second)
	defer cancel()
	containers, err := cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return 0, fmt.Errorf("list containers: %w", err)
	}
	errs := make([]error, len(containers.Containers))
	var all sync.WaitGroup
	for i, c := range containers.Containers {
		grace := limit
		if s, err := strconv.Atoi(c.Annotations[graceAnnotation]); err == nil {
			grace = min(time.Duration(s)*time.Second, limit)
		}
		all.Go(func() {
			_, errs[i] = cri.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: int64(grace.Seconds())})
		})
	}
	all.Wait()
	pods, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return 0, errors.Join(append(errs, fmt.Errorf("list pods: %w", err))...)
	}
	for _, p := range pods.Items {
		if _, err := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			errs = append(errs, fmt.Errorf("stop pod %s: %w", p.Id, err))
		}
	}
	return len(containers.Containers), errors.Join(errs...)
}
