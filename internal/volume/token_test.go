package volume

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"sampan.dev/internal/token"
)

// mint makes tokens as the API does, and counts them.
type mint struct {
	authority *token.Authority
	made      int
	asked     []authenticationv1.TokenRequestSpec
	fail      error
}

func newMint(t *testing.T) *mint {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a, err := token.New(token.DefaultIssuer, key)
	if err != nil {
		t.Fatal(err)
	}
	return &mint{authority: a}
}

func (m *mint) make(_ context.Context, namespace, account string, asked *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	if m.fail != nil {
		return nil, m.fail
	}
	m.made++
	m.asked = append(m.asked, asked.Spec)
	out := asked.DeepCopy()
	claims := token.Bound(token.Binding{
		Namespace: namespace, ServiceAccount: token.Ref{Name: account, UID: "u"},
		Pod: &token.Ref{Name: asked.Spec.BoundObjectRef.Name, UID: string(asked.Spec.BoundObjectRef.UID)},
	}, asked.Spec.Audiences, time.Now(), token.ExtendedSeconds*time.Second, 0)
	text, err := m.authority.Sign(claims)
	out.Status.Token = text
	return out, err
}

func tokenPod(seconds int64, change func(*corev1.Pod)) *corev1.Pod {
	pod := podWith(volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
	}}}))
	pod.Spec.ServiceAccountName = "robot"
	if change != nil {
		change(pod)
	}
	return pod
}

func TestATokenIsAskedForOnce(t *testing.T) {
	needRoot(t)
	issuer := newMint(t)
	m := manager(t, newLibrary())
	m.Tokens = issuer.make
	pod := tokenPod(3607, nil)
	v := setup(t, m, pod)
	first := read(t, filepath.Join(v.Path, "token"))
	setup(t, m, pod)
	again := New(m.dir, newLibrary()) // the agent was started anew
	again.Tokens = issuer.make
	setup(t, again, pod)
	if got := read(t, filepath.Join(v.Path, "token")); got != first || issuer.made != 1 {
		t.Errorf("%d tokens were made, the same is shown: %v", issuer.made, got == first)
	}
	spec := issuer.asked[0]
	if *spec.ExpirationSeconds != 3607 || spec.Audiences != nil || *spec.BoundObjectRef != (authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: "uid"}) {
		t.Errorf("asked for %+v", spec)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"another account": func(p *corev1.Pod) { p.Spec.ServiceAccountName = "other" },
		"another audience": func(p *corev1.Pod) {
			p.Spec.Volumes[0].Projected.Sources[0].ServiceAccountToken.Audience = "vault"
		},
	} {
		before := issuer.made
		setup(t, m, tokenPod(3607, change))
		if issuer.made != before+1 {
			t.Errorf("%s: the old token is kept", name)
		}
	}
}

func TestWhoMayReadAToken(t *testing.T) {
	needRoot(t)
	user := func(c int, uid int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[c].SecurityContext = &corev1.SecurityContext{RunAsUser: &uid} }
	}
	two := func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d"}) }
	mode := func(mode int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes[0].Projected.DefaultMode = &mode }
	}
	group := func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(77))} }
	everywhere := func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(9))} }
	for _, c := range []struct {
		name     string
		changes  []func(*corev1.Pod)
		mode     fs.FileMode
		uid, gid uint32
	}{
		{"nothing said: everybody", nil, 0o644, 0, 0},
		{"the volume's own mode", []func(*corev1.Pod){mode(0o440)}, 0o440, 0, 0},
		{"one user", []func(*corev1.Pod){user(0, 5)}, 0o600, 5, 0},
		{"one user in both containers", []func(*corev1.Pod){two, user(0, 5), user(1, 5)}, 0o600, 5, 0},
		{"two users", []func(*corev1.Pod){two, user(0, 5), user(1, 6)}, 0o644, 0, 0},
		{"a user in one of two", []func(*corev1.Pod){two, user(0, 5)}, 0o644, 0, 0},
		{"the pod's user", []func(*corev1.Pod){two, everywhere}, 0o600, 9, 0},
		{"the pod's user, but for one", []func(*corev1.Pod){two, everywhere, user(1, 6)}, 0o644, 0, 0},
		{"a group", []func(*corev1.Pod){group}, 0o640, 0, 77},
		{"a group and a user", []func(*corev1.Pod){group, user(0, 5)}, 0o640, 5, 77},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := manager(t, newLibrary())
			m.Tokens = newMint(t).make
			v := setup(t, m, tokenPod(3607, func(p *corev1.Pod) {
				for _, f := range c.changes {
					f(p)
				}
			}))
			info, err := os.Stat(filepath.Join(v.Path, "token"))
			if err != nil {
				t.Fatal(err)
			}
			if s := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != c.mode || s.Uid != c.uid || s.Gid != c.gid {
				t.Errorf("mode %v, user %d, group %d", info.Mode(), s.Uid, s.Gid)
			}
		})
	}
}

func TestTokensAreRenewedBeforeTheirTimeIsUp(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name    string
		seconds int64
		after   time.Duration
	}{
		{"an hour's after four fifths of it", 3607, 3607 * time.Second * 4 / 5},
		{"the shortest there are", 600, 8 * time.Minute},
		{"a month's after a day", 30 * 24 * 3600, 24 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			issuer := newMint(t)
			synctest.Test(t, func(t *testing.T) {
				pod := tokenPod(c.seconds, nil)
				m := manager(t, newLibrary())
				m.Tokens = issuer.make
				due := make(chan types.UID, 10)
				m.Due = func(uid types.UID) { due <- uid }
				defer m.Close()
				started := time.Now()
				v := setup(t, m, pod)
				for round := range 3 {
					before := read(t, filepath.Join(v.Path, "token"))
					if uid := <-due; uid != "uid" {
						t.Errorf("pod %q", uid)
					}
					// A second each time is lost: tokens tell whole ones.
					if waited := time.Since(started); waited > c.after || waited < c.after-spread-time.Second {
						t.Errorf("round %d after %v", round, waited)
					}
					started = time.Now()
					setup(t, m, pod)
					if read(t, filepath.Join(v.Path, "token")) == before {
						t.Errorf("round %d: the token is the same", round)
					}
				}
				if issuer.made != 4 {
					t.Errorf("%d tokens were made", issuer.made)
				}
				if err := m.Teardown("uid"); err != nil {
					t.Error(err)
				}
				time.Sleep(100 * 24 * time.Hour)
				if len(due) > 0 {
					t.Error("a pod that is gone is due")
				}
			})
		})
	}
}

func TestARenewalThatFailsIsTriedAgain(t *testing.T) {
	needRoot(t)
	issuer := newMint(t)
	synctest.Test(t, func(t *testing.T) {
		pod := tokenPod(600, nil)
		m := manager(t, newLibrary())
		m.Tokens = issuer.make
		due := make(chan types.UID, 10)
		m.Due = func(uid types.UID) { due <- uid }
		defer m.Close()
		issuer.fail = errors.New("no")
		if _, err := m.Setup(t.Context(), pod); err == nil || err.Error() != `MountVolume.SetUp failed for volume "v" : failed to fetch token: no` {
			t.Errorf("the first: %v", err)
		}
		issuer.fail = nil
		v := setup(t, m, pod)
		old := read(t, filepath.Join(v.Path, "token"))
		<-due
		issuer.fail = errors.New("no")
		setup(t, m, pod)
		if read(t, filepath.Join(v.Path, "token")) != old {
			t.Error("the old token is lost")
		}
		failed := time.Now()
		<-due
		if waited := time.Since(failed); waited != retryRenewal {
			t.Errorf("again after %v", waited)
		}
		time.Sleep(10 * time.Minute)
		if _, err := m.Setup(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "expired and refresh failed: no") {
			t.Errorf("expired: %v", err)
		}
		issuer.fail = nil
		setup(t, m, pod)
		if read(t, filepath.Join(v.Path, "token")) == old {
			t.Error("it was not renewed")
		}
	})
}

func TestOneTimerWaitsForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r renewals
		start := time.Now()
		var got []string
		call := func(uid types.UID) { got = append(got, fmt.Sprintf("%s %v", uid, time.Since(start))) }
		r.set("b", start.Add(2*time.Minute), call)
		r.set("a", start.Add(time.Minute), call)
		r.set("c", start.Add(3*time.Minute), call)
		r.set("d", start.Add(30*time.Second), call)
		r.set("d", time.Time{}, call)
		r.set("b", start.Add(4*time.Minute), call)
		time.Sleep(time.Hour)
		synctest.Wait()
		if want := "[a 1m0s c 3m0s b 4m0s]"; fmt.Sprint(got) != want {
			t.Errorf("%v, want %s", got, want)
		}
	})
}
