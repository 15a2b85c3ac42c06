package nft

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Keeper keeps one table in the kernel as somebody says, in small steps and, when it begins, after an error, and when somebody else has changed it, by making it anew.
// The table is watched before it is made, so that nothing that is done to it is missed.
type Keeper struct {
	Kernel Kernel
	Table  string
	What   string // the table is the rules of, for the log
	Log    *slog.Logger
	// Step sends what there is to do, or the whole table if all is set, and says whether it did anything. It is called by Run alone, until it did not.
	Step func(ctx context.Context, all bool) (did bool, err error)

	wake  chan struct{} // holds one value when there is something to do
	began chan struct{} // closed once the kernel's table is watched, or cannot be
	once  sync.Once     // closes began

	mu  sync.Mutex // guards all
	all bool       // the table has to be made anew
}

// Init makes a Keeper ready to be poked. It starts nothing.
func (k *Keeper) Init() {
	if k.Log == nil {
		k.Log = slog.New(slog.DiscardHandler)
	}
	k.wake, k.began = make(chan struct{}, 1), make(chan struct{})
}

// Poke says that there is something to do.
func (k *Keeper) Poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Rebuild has the whole table sent, whatever the kernel holds. It says whether that is news.
func (k *Keeper) Rebuild() (news bool) {
	k.mu.Lock()
	k.all, news = true, !k.all
	k.mu.Unlock()
	k.Poke()
	return news
}

// start has the table made: it is watched now, and what it was before is not known.
func (k *Keeper) start() {
	k.Rebuild()
	k.once.Do(func() { close(k.began) })
}

// Run keeps the table until ctx ends, and leaves it as it is then.
func (k *Keeper) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		k.watch(ctx)
		return nil
	})
	g.Go(func() error {
		k.loop(ctx)
		return nil
	})
	return g.Wait()
}

// watch puts right what others do to the table.
func (k *Keeper) watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := k.Kernel.Watch(ctx, k.Table, k.start, func() {
			if k.Rebuild() {
				k.Log.Warn("somebody else has changed the rules of "+k.What+"; they are made anew", "table", k.Table)
			}
		})
		if err != nil && ctx.Err() == nil {
			k.Log.Warn("watch the rules of "+k.What, "error", err)
			k.start()
			pause(ctx, time.Second)
		}
	}
}

// Bounds of what is waited for after a step that failed.
const (
	leastPause = 100 * time.Millisecond
	mostPause  = 10 * time.Second
)

func (k *Keeper) loop(ctx context.Context) {
	select {
	case <-k.began:
	case <-ctx.Done():
		return
	}
	wait := leastPause
	for {
		select {
		case <-k.wake:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			did, err := k.Step(ctx, k.whole())
			if err != nil {
				k.Log.Error("set the rules of "+k.What, "error", err, "again in", wait)
				pause(ctx, wait)
				wait = min(2*wait, mostPause)
				k.Rebuild()
				continue
			}
			if wait = leastPause; !did {
				break
			}
		}
	}
}

// whole says whether the whole table is to be sent, which is asked once.
func (k *Keeper) whole() (all bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	all, k.all = k.all, false
	return all
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
