package allocate

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/core"
	"sampan.dev/internal/store"
)

// PortRange is the node ports from First to Last.
type PortRange struct{ First, Last int32 }

// DefaultPorts are Kubernetes' own.
var DefaultPorts = PortRange{30000, 32767}

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// ParsePortRange reads "30000-32767".
func ParsePortRange(text string) (PortRange, error) {
	first, last, is := strings.Cut(text, "-")
	a, err1 := strconv.ParseInt(first, 10, 32)
	b, err2 := strconv.ParseInt(last, 10, 32)
	if !is || err1 != nil || err2 != nil || a < 1 || b > 65535 || a > b {
		return PortRange{}, fmt.Errorf("%q is not a range of ports: write it as %s", text, DefaultPorts)
	}
	return PortRange{int32(a), int32(b)}, nil
}

func (r PortRange) holds(port int32) bool { return r.First <= port && port <= r.Last }

// portsKey is where the bitmap of node ports is, as etcd has it of Kubernetes.
const portsKey = "/registry/ranges/servicenodeports"

// taken is the bitmap of node ports: bit i is the port First+i.
type taken struct {
	bits     *big.Int
	revision int64 // of the record; zero if there is none
}

func (a *Services) taken(ctx context.Context) (taken, error) {
	rec, err := a.cfg.Store.Get(ctx, portsKey)
	if errors.Is(err, store.ErrNotFound) {
		return taken{bits: new(big.Int)}, nil
	}
	if err != nil {
		return taken{}, fmt.Errorf("read the node ports that are taken: %w", err)
	}
	obj, err := a.cfg.Table.Decode(rec.Value)
	if err != nil {
		return taken{}, fmt.Errorf("read the node ports that are taken: %w", err)
	}
	r, is := obj.(*corev1.RangeAllocation)
	if !is {
		return taken{}, fmt.Errorf("read the node ports that are taken: %s holds a %T", portsKey, obj)
	}
	t := taken{bits: new(big.Int), revision: rec.Revision}
	if r.Range == a.cfg.NodePorts.String() { // of another range it says nothing; Repair makes it anew
		t.bits.SetBytes(r.Data)
	}
	return t, nil
}

func (a *Services) record(t taken) (store.Write, error) {
	obj := &corev1.RangeAllocation{Range: a.cfg.NodePorts.String(), Data: t.bits.Bytes()}
	obj.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("RangeAllocation"))
	value, err := a.cfg.Table.Encode(obj)
	if err != nil {
		return store.Write{}, fmt.Errorf("encode the node ports that are taken: %w", err)
	}
	return store.Write{Key: portsKey, Value: value, Expect: t.revision}, nil
}

// portsOf are the node ports that a Service has, the one for health checks among them; of nil none.
func portsOf(s *corev1.Service) map[int32]bool {
	all := map[int32]bool{}
	if s == nil || !core.NeedsNodePort(s) {
		return all
	}
	for i := range s.Spec.Ports {
		if n := s.Spec.Ports[i].NodePort; n != 0 {
			all[n] = true
		}
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 && core.NeedsHealthCheckNodePort(s) {
		all[n] = true
	}
	return all
}

// nodePorts fills in node ports. Ports of the same number get the same one, for their protocols; those that are named are taken if they are free.
func (a *Services) nodePorts(ctx context.Context, s, old *corev1.Service) error {
	if !core.NeedsNodePort(s) {
		return nil
	}
	t, err := a.taken(ctx)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	own := portsOf(old)
	var errs field.ErrorList
	take := func(port int32) error {
		switch {
		case own[port]:
		case !a.cfg.NodePorts.holds(port):
			return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %s", a.cfg.NodePorts)
		case t.bits.Bit(int(port-a.cfg.NodePorts.First)) == 1:
			return errors.New("provided port is already allocated")
		}
		own[port] = true
		return nil
	}
	byPort := map[int32]int32{}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 {
			continue
		}
		if err := take(p.NodePort); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort, err.Error()))
		}
		if byPort[p.Port] == 0 {
			byPort[p.Port] = p.NodePort
		}
	}
	if len(errs) > 0 {
		return refuse(s, errs)
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 || !core.AllocatesNodePorts(s) {
			continue
		}
		if byPort[p.Port] == 0 || usedTwice(s, i, byPort[p.Port]) {
			if byPort[p.Port], err = a.pickPort(t, own); err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
			}
		}
		p.NodePort = byPort[p.Port]
	}
	if !core.NeedsHealthCheckNodePort(s) {
		return nil
	}
	if n := s.Spec.HealthCheckNodePort; n != 0 {
		if err := take(n); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %w", n, err))
		}
		return nil
	}
	if s.Spec.HealthCheckNodePort, err = a.pickPort(t, own); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort: %w", err))
	}
	return nil
}

// usedTwice says that a port of the same protocol has the node port already.
func usedTwice(s *corev1.Service, i int, nodePort int32) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.NodePort == nodePort && p.Protocol == s.Spec.Ports[i].Protocol
	})
}

// pickPort draws a free port: from the upper band by chance, then from the lower (KEP-3668).
func (a *Services) pickPort(t taken, own map[int32]bool) (int32, error) {
	n := uint32(a.cfg.NodePorts.Last - a.cfg.NodePorts.First + 1)
	low := staticBand(n, 16, 128, 32)
	for _, part := range [][2]uint32{{low, n}, {0, low}} {
		size := part[1] - part[0]
		if size == 0 {
			continue
		}
		start := rand.Uint32N(size)
		for i := range size {
			bit := part[0] + (start+i)%size
			if port := a.cfg.NodePorts.First + int32(bit); t.bits.Bit(int(bit)) == 0 && !own[port] {
				own[port] = true
				return port, nil
			}
		}
	}
	return 0, errFull
}

// portWrites notes the node ports that a Service has got and those that it has no more.
func (a *Services) portWrites(ctx context.Context, s, old *corev1.Service) ([]store.Write, error) {
	now, before := portsOf(s), portsOf(old)
	same := len(now) == len(before)
	for p := range now {
		same = same && before[p]
	}
	if same {
		return nil, nil
	}
	t, err := a.taken(ctx)
	if err != nil {
		return nil, err
	}
	for p := range before {
		if !now[p] && a.cfg.NodePorts.holds(p) {
			t.bits.SetBit(t.bits, int(p-a.cfg.NodePorts.First), 0)
		}
	}
	for p := range now {
		if !a.cfg.NodePorts.holds(p) {
			continue // of a range that was
		}
		if i := int(p - a.cfg.NodePorts.First); !before[p] && t.bits.Bit(i) == 1 {
			return nil, fmt.Errorf("node port %d: %w", p, errRaced)
		} else {
			t.bits.SetBit(t.bits, i, 1)
		}
	}
	w, err := a.record(t)
	return []store.Write{w}, err
}

// errRaced says that somebody else took a port since it was picked.
var errRaced = store.ErrConflict

// repairPorts makes the bitmap say what Services have.
func (a *Services) repairPorts(ctx context.Context, services []*corev1.Service) (mended int, err error) {
	t, err := a.taken(ctx)
	if err != nil {
		return 0, err
	}
	wanted := new(big.Int)
	for _, s := range services {
		for p := range portsOf(s) {
			if a.cfg.NodePorts.holds(p) {
				wanted.SetBit(wanted, int(p-a.cfg.NodePorts.First), 1)
			}
		}
	}
	if wanted.Cmp(t.bits) == 0 {
		return 0, nil
	}
	diff := new(big.Int).Xor(wanted, t.bits)
	for i := range diff.BitLen() {
		mended += int(diff.Bit(i))
	}
	w, err := a.record(taken{wanted, t.revision})
	if err != nil {
		return 0, err
	}
	if _, err := a.cfg.Store.Apply(ctx, w); err != nil && !errors.Is(err, store.ErrConflict) {
		return 0, fmt.Errorf("repair node ports: %w", err)
	}
	return mended, nil
}
