package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// memberTimeout is how long a member has to say how it is.
const memberTimeout = 1500 * time.Millisecond

// Member is what one endpoint says of itself.
type Member struct {
	Endpoint string
	Err      error // why it does not answer, or is of no use
	ID       uint64
	Leads    uint64 // the ID of the leader it knows; 0 for none
	Version  string
	Size     int64 // bytes of its database file
	InUse    int64 // bytes of that which are in use
	Quota    int64 // bytes it may have
	Revision int64
}

// Members asks every endpoint, all at once.
func (s *Store) Members(ctx context.Context) []Member {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	members := make([]Member, len(s.cfg.Endpoints))
	var group sync.WaitGroup
	for i, e := range s.cfg.Endpoints {
		group.Go(func() { members[i] = s.member(ctx, e) })
	}
	group.Wait()
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	s.health.at, s.health.members = time.Now(), members
	return members
}

func (s *Store) member(ctx context.Context, endpoint string) Member {
	conn, err := s.alone(endpoint)
	if err != nil {
		return Member{Endpoint: endpoint, Err: err}
	}
	defer conn.Close()
	is, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		if ctx.Err() != nil {
			return Member{Endpoint: endpoint, Err: fmt.Errorf("no answer within %v", memberTimeout)}
		}
		err = errors.New(status.Convert(err).Message())
		if s.security != nil {
			err = cmp.Or(s.handshake(ctx, endpoint), err)
		}
		return Member{Endpoint: endpoint, Err: err}
	}
	m := Member{
		Endpoint: endpoint, ID: is.Header.MemberId, Leads: is.Leader, Version: is.Version, Size: is.DbSize, InUse: is.DbSizeInUse,
		Quota: is.DbSizeQuota, Revision: is.Header.Revision,
	}
	switch {
	case len(is.Errors) > 0:
		m.Err = errors.New(strings.Join(is.Errors, ", "))
	case is.Leader == 0:
		m.Err = errors.New("knows no leader")
	}
	return m
}

// distrust fails if all members that are there refuse this client's certificate, or show one that it does not trust: that does not pass by waiting.
func (s *Store) distrust(ctx context.Context) error {
	all := s.Members(ctx)
	for _, m := range all {
		var record tls.RecordHeaderError
		var verification *tls.CertificateVerificationError
		var remote *net.OpError
		if !errors.As(m.Err, &record) && !errors.As(m.Err, &verification) && (!errors.As(m.Err, &remote) || remote.Op != "remote error") {
			return nil
		}
	}
	return fmt.Errorf("there is no trust between etcd and this server: check the files with etcd's authority, and with the client certificate and its key (%s)", describe(all))
}

// health remembers what members said last, so that many requests that fail at once do not each ask again.
type health struct {
	mu      sync.Mutex
	at      time.Time
	members []Member
	asking  sync.Mutex
}

// WhoAnswers says in words which endpoints answer and what is wrong with the others.
func (s *Store) WhoAnswers(ctx context.Context) string {
	s.health.asking.Lock()
	defer s.health.asking.Unlock()
	s.health.mu.Lock()
	members, fresh := s.health.members, time.Since(s.health.at) < 2*time.Second
	s.health.mu.Unlock()
	if !fresh {
		members = s.Members(ctx)
	}
	return describe(members)
}

func describe(members []Member) string {
	words := make([]string, len(members))
	for i, m := range members {
		words[i] = m.Endpoint + ": answers"
		if m.Err != nil {
			words[i] = fmt.Sprintf("%s: %v", m.Endpoint, m.Err)
		}
	}
	return strings.Join(words, "; ")
}

// Ready is nil if etcd answers a read now that a majority of members must agree to. Otherwise it says why not, and what each endpoint says.
func (s *Store) Ready(ctx context.Context) error {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer done()
	ask, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	started := time.Now()
	resp, err := s.client.Get(ask, CompactKey, clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("%w: %w after %v (%s)", ErrUnanswered, err, time.Since(started).Round(time.Millisecond), s.WhoAnswers(ctx))
	}
	s.saw(resp.Header.Revision)
	return nil
}

// Facts are figures to be exported.
type Facts struct {
	Revision  int64 // the highest seen
	Compacted int64 // the highest known to be forgotten
	Watchers  int
	Members   []Member // what they said when they were last asked; nil before the first time
}

// Facts returns the figures as they are known, without asking anybody.
func (s *Store) Facts() Facts {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	return Facts{Revision: s.Revision(), Compacted: s.compacted.Load(), Watchers: int(s.pulse.watchers.Load()), Members: s.health.members}
}
