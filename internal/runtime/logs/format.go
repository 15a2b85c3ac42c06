package logs

import (
	"bytes"
	"time"
)

// maxLine is how long a piece of a line may be, in bytes; a longer line is written in several.
const maxLine = 16 << 10

// timeFormat is RFC 3339 with all nine digits, so that lines sort.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// Streams, by number.
const (
	Stdout = iota
	Stderr
	streams
)

var streamNames = [streams]string{Stdout: "stdout", Stderr: "stderr"}

// format appends to out, in the CRI's format, the lines that raw holds, and tells how many bytes of raw that were. A line without an
// end is left for later, unless it is long enough for a piece, or nothing more will come. Each line is
//
//	2006-01-02T15:04:05.999999999Z stdout F the line
//
// with P in place of F for a piece that the same line's next one follows, or that ends the output without a newline.
func format(out, raw []byte, stream int, now time.Time, last bool) (lines []byte, used int) {
	var head [64]byte
	h := now.UTC().AppendFormat(head[:0], timeFormat)
	h = append(h, ' ')
	h = append(h, streamNames[stream]...)
	h = append(h, ' ')
	put := func(piece []byte, tag byte) {
		out = append(out, h...)
		out = append(out, tag, ' ')
		out = append(out, piece...)
		out = append(out, '\n')
	}
	for used < len(raw) {
		rest := raw[used:]
		end := bytes.IndexByte(rest[:min(len(rest), maxLine+1)], '\n')
		switch {
		case end >= 0:
			put(rest[:end], 'F')
			used += end + 1
		case len(rest) > maxLine: // so that a newline right after maxLine bytes still makes one whole line
			put(rest[:maxLine], 'P')
			used += maxLine
		case last:
			put(rest, 'P')
			used += len(rest)
		default:
			return out, used
		}
	}
	return out, used
}
