package batch

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // 400 kB: a machine need not have time zones of its own for schedules to hold in them

	"github.com/robfig/cron/v3"
)

// Schedule tells the times of a cron line.
type Schedule interface {
	// Next is the first time after t, in t's zone; zero if there is none in the next five years.
	Next(t time.Time) time.Time
}

// errZoneInLine refuses the prefixes TZ= and CRON_TZ= of a line, in upstream's words.
var errZoneInLine = errors.New("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")

// ParseSchedule reads a cron line of five fields, or a macro such as @hourly, that holds in a zone; in that of this machine if zone is nil.
func ParseSchedule(line string, zone *string) (Schedule, error) {
	if strings.Contains(line, "TZ") {
		return nil, errZoneInLine
	}
	s, err := cron.ParseStandard(line)
	if err != nil {
		return nil, err //nolint:wrapcheck // shown as it is: these are upstream's words
	}
	if zone == nil {
		return s, nil
	}
	where, err := time.LoadLocation(*zone)
	if err != nil {
		return nil, fmt.Errorf("provided bad location %s: %w", *zone, err)
	}
	if fields, ok := s.(*cron.SpecSchedule); ok {
		fields.Location = where
	}
	return s, nil
}
