package logs

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// line is one line of a log file: "2006-01-02T15:04:05.999999999Z stdout F text\n".
type line struct {
	at      time.Time
	stderr  bool
	partial bool   // the text goes on in the next line of the same stream
	text    []byte // with its newline, unless partial
}

var errMalformed = errors.New("not in the CRI log format")

// parse reads one line, which ends in a newline.
func parse(raw []byte) (line, error) {
	var l line
	stamp, rest, ok := bytes.Cut(raw, []byte(" "))
	if !ok {
		return l, errMalformed
	}
	var err error
	if l.at, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
		return l, fmt.Errorf("%w: %w", errMalformed, err)
	}
	stream, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return l, errMalformed
	}
	switch string(stream) {
	case "stdout":
	case "stderr":
		l.stderr = true
	default:
		return l, fmt.Errorf("%w: stream %q", errMalformed, stream)
	}
	tags, text, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return l, errMalformed
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	l.partial = string(tag) == "P"
	if l.partial {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	l.text = text
	return l, nil
}

// isPartial tells whether a raw line is only a part, without reading its time.
func isPartial(raw []byte) bool {
	for range 2 {
		_, rest, ok := bytes.Cut(raw, []byte(" "))
		if !ok {
			return false
		}
		raw = rest
	}
	return len(raw) > 0 && raw[0] == 'P'
}
