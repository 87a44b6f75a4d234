package client

import (
	"bytes"
	"io"
)

// A newliner writes text on so that its lines end with CRLF and nothing else:
// a CR or LF on its own becomes CRLF, since a server that takes either for a
// line's end could be shown an end of the content that isn't ours (SMTP
// smuggling). With dots set it also doubles a dot that begins a line (RFC
// 5321, section 4.5.2). What needs no change is passed on uncopied.
type newliner struct {
	w    io.Writer
	dots bool

	mid  bool // the last octet written was not the end of a line
	wasR bool // the last octet read was a CR; a LF right after it is not news
}

// Write never keeps p back: a CR at its end is taken for a line's end.
func (n *newliner) Write(p []byte) (int, error) {
	run, i := 0, 0 // p[run:i] is done and to be written as it is
	if n.wasR && len(p) > 0 {
		n.wasR = false
		if p[0] == '\n' {
			run, i = 1, 1
		}
	}
	lf, cr := -1, -1 // the next of each, len(p) for none
	for i < len(p) {
		if n.dots && !n.mid && p[i] == '.' {
			if err := n.put(p[run:i], "."); err != nil {
				return run, err
			}
			run = i
		}
		lf, cr = next(p, i, lf, '\n'), next(p, i, cr, '\r')
		end := min(lf, cr)
		if n.mid = end == len(p); n.mid {
			break
		}
		i = end + 1
		if cr+1 == lf && lf < len(p) {
			i++
			continue
		}
		n.wasR = end == cr && i == len(p)
		if err := n.put(p[run:end], "\r\n"); err != nil {
			return run, err
		}
		run = i
	}
	if err := n.put(p[run:], ""); err != nil {
		return run, err
	}
	return len(p), nil
}

// next returns where c is next in p from i on, if at, where it was last seen,
// has been passed. So each octet is looked at once for each c.
func next(p []byte, i, at int, c byte) int {
	if at >= i {
		return at
	}
	if j := bytes.IndexByte(p[i:], c); j >= 0 {
		return i + j
	}
	return len(p)
}

func (n *newliner) put(p []byte, s string) error {
	if len(p) > 0 {
		if _, err := n.w.Write(p); err != nil {
			return err
		}
	}
	if s == "" {
		return nil
	}
	_, err := io.WriteString(n.w, s)
	return err
}

// finish ends the last line if it has no end.
func (n *newliner) finish() error {
	if !n.mid {
		return nil
	}
	n.mid = false
	return n.put(nil, "\r\n")
}
