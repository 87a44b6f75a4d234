package convert

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// A fragment is a line, or a part of one that is too long to be held.
type fragment struct {
	data  []byte // without its end of line
	start bool   // it begins a line
	eol   bool   // a line ends behind it
	last  bool   // nothing comes behind it
}

// lines cuts a body into fragments. A line ends with CRLF; where the octets do
// not mean themselves, with a LF too.
type lines struct {
	r      *bufio.Reader
	binary bool
	start  bool // the next fragment begins a line
}

// next returns the next fragment, which is good until the call after. At the end
// of the body there is one, maybe empty, that is the last.
func (l *lines) next() (fragment, error) {
	b, err := l.r.ReadSlice('\n')
	f := fragment{data: b, start: l.start}
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		if n := len(b) - 1; b[n] == '\r' { // whose LF may come next
			if err := l.r.UnreadByte(); err != nil {
				return f, err
			}
			f.data = b[:n]
		}
	case errors.Is(err, io.EOF):
		f.last = true
	case err != nil:
		return f, err
	default:
		if d, ok := bytes.CutSuffix(b, []byte("\r\n")); ok {
			f.data, f.eol = d, true
		} else if !l.binary {
			f.data, f.eol = b[:len(b)-1], true
		}
	}
	l.start = f.eol
	return f, nil
}
