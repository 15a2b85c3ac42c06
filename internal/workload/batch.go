package workload

import (
	"errors"
	"sync"
)

// mostAtOnce bounds a batch: more writes at once do not make the store faster.
const mostAtOnce = 256

// Batches makes n calls, those of a batch at once: first one, then two, four and so on. After a batch with a refusal it stops. So a quota that is used
// up or a template that no pod can be made of costs one call, and a thousand pods are made quickly. It returns how many calls succeeded.
func Batches(n int, create func(i int) error) (done int, err error) {
	for at, size := 0, 1; at < n; at, size = at+size, min(2*size, mostAtOnce) {
		errs := make([]error, min(size, n-at))
		var calls sync.WaitGroup
		for i := range errs {
			calls.Go(func() { errs[i] = create(at + i) })
		}
		calls.Wait()
		for _, err := range errs {
			if err == nil {
				done++
			}
		}
		if err := errors.Join(errs...); err != nil {
			return done, err
		}
	}
	return done, nil
}
