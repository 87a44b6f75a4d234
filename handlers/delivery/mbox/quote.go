package mbox

import (
	"bufio"
	"io"
)

// How lines that begin with "From " are quoted.
const (
	quoteRD = "rd"
	quoteO  = "o"
)

const from = "From "

// A quoter writes a message of unix lines, and ends it with an empty line.
type quoter struct {
	w  *bufio.Writer
	rd bool

	inside bool // a line has begun that is none to quote
	gt     int  // > at its beginning that were not yet written
	seen   int  // octets of "From " behind them
	last   byte
}

func newQuoter(w io.Writer, how string) *quoter {
	return &quoter{w: bufio.NewWriterSize(w, 32<<10), rd: how == quoteRD, last: '\n'}
}

// Write implements io.Writer.
func (q *quoter) Write(p []byte) (int, error) {
	for _, c := range p {
		q.last = c
		switch {
		case q.inside:
		case c == '>' && q.seen == 0 && q.rd:
			q.gt++
			continue
		case c == from[q.seen]:
			if q.seen++; q.seen < len(from) {
				continue
			}
			_ = q.w.WriteByte('>') // Flush tells
			q.release()
			continue
		default:
			q.release()
		}
		q.inside = c != '\n'
		if err := q.w.WriteByte(c); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// release writes what was held back of a line.
func (q *quoter) release() {
	for ; q.gt > 0; q.gt-- {
		_ = q.w.WriteByte('>')
	}
	_, _ = q.w.WriteString(from[:q.seen])
	q.seen, q.inside = 0, true
}

// finish ends the last line, and the message.
func (q *quoter) finish() error {
	q.release()
	if q.last != '\n' {
		_ = q.w.WriteByte('\n')
	}
	_ = q.w.WriteByte('\n')
	return q.w.Flush()
}
