package cronjob

import (
	"errors"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

// Schedule tells the times of a cron line: the first one after another time, zero if there is none.
type Schedule interface{ Next(time.Time) time.Time }

// manyMissed is how many missed times are so many that somebody should look at the clock.
const manyMissed = 100

// late is what is added to the time of a wake-up: better a little too late than too early, when clocks are set.
const late = 100 * time.Millisecond

// errNoTimes is what a line such as "0 0 31 2 *" leads to.
var errNoTimes = errors.New("time difference between two schedules is less than 1 second")

// due is the times of a schedule that lie between the last one that was used, or the creation, and now.
type due struct {
	since  time.Time // what the others are counted from
	last   time.Time // the last of them; zero: there is none
	missed int       // about how many there are; 0 where there is but one
}

// dueTimes looks back no farther than the deadline for starting, if bounded.
func dueTimes(j *batchv1.CronJob, s Schedule, now time.Time, bounded bool) (due, error) {
	d := due{since: j.CreationTimestamp.Time}
	if j.Status.LastScheduleTime != nil {
		d.since = j.Status.LastScheduleTime.Time
	}
	if limit := j.Spec.StartingDeadlineSeconds; bounded && limit != nil {
		if from := now.Add(-time.Duration(*limit) * time.Second); from.After(d.since) {
			d.since = from
		}
	}
	first := s.Next(d.since)
	second := s.Next(first)
	switch {
	case now.Before(first):
		return d, nil
	case now.Before(second):
		d.last = first
		return d, nil
	}
	apart := second.Sub(first).Round(time.Second)
	if apart < time.Second {
		return d, errNoTimes
	}
	d.missed = int(now.Sub(first)/apart) + 1
	// Go near the end in one leap, and step from there: times need not be equally far apart.
	for t := s.Next(first.Add(time.Duration(d.missed-2) * apart)); !t.IsZero() && !t.After(now); t = s.Next(t) {
		d.last = t
	}
	return d, nil
}

// untilNext is how long it is to the next time of the schedule.
func untilNext(j *batchv1.CronJob, s Schedule, now time.Time) time.Duration {
	d, err := dueTimes(j, s, now, false)
	from := d.last
	if from.IsZero() {
		if from = d.since; err != nil || d.missed > 0 {
			from = now
		}
	}
	return s.Next(from).Add(late).Sub(now)
}
