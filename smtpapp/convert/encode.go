package convert

import (
	"bytes"
	"encoding/base64"
)

// An encoder writes a body so that it passes as short lines of ASCII.
type encoder interface {
	write(p []byte)
	// eol is the end of a line, which is CRLF.
	eol()
	// close ends the body. What follows begins a line unless it is delimited.
	close(delimited bool)
}

const hexDigits = "0123456789ABCDEF"

// lineLength is that of encoded lines (RFC 2045, sections 6.7 and 6.8).
const lineLength = 76

// qp is Quoted-Printable (RFC 2045, section 6.7).
type qp struct {
	out  *bytes.Buffer
	col  int
	held byte // white space that may turn out to end its line
}

func (q *qp) write(p []byte) {
	for _, c := range p {
		if q.held != 0 {
			q.unit(q.held, false)
			q.held = 0
		}
		switch c {
		case ' ', '\t':
			q.held = c
		default:
			q.unit(c, c < ' ' || c > '~' || c == '=')
		}
	}
}

// unit writes an octet. A line never begins with a dash, so that none can be
// taken for a delimiter.
func (q *qp) unit(c byte, escape bool) {
	n := 1
	if escape {
		n = 3
	}
	if q.col+n >= lineLength {
		q.out.WriteString("=\r\n")
		q.col = 0
	}
	if q.col == 0 && c == '-' {
		escape, n = true, 3
	}
	if escape {
		q.out.Write([]byte{'=', hexDigits[c>>4], hexDigits[c&15]})
	} else {
		q.out.WriteByte(c)
	}
	q.col += n
}

func (q *qp) release() {
	if q.held != 0 {
		q.unit(q.held, true)
		q.held = 0
	}
}

func (q *qp) eol() {
	q.release()
	q.out.WriteString("\r\n")
	q.col = 0
}

func (q *qp) close(delimited bool) {
	q.release()
	if !delimited && q.col > 0 {
		q.out.WriteString("=\r\n") // its line has no end
	}
}

// b64 is Base64 (RFC 2045, section 6.8).
type b64 struct {
	out   *bytes.Buffer
	line  [lineLength / 4 * 3]byte
	n     int
	lines bool // one was written
}

func (b *b64) write(p []byte) {
	for len(p) > 0 {
		n := copy(b.line[b.n:], p)
		b.n += n
		p = p[n:]
		if b.n == len(b.line) {
			b.flush()
		}
	}
}

func (b *b64) flush() {
	if b.n == 0 {
		return
	}
	if b.lines {
		b.out.WriteString("\r\n")
	}
	b.out.Write(base64.StdEncoding.AppendEncode(b.out.AvailableBuffer(), b.line[:b.n]))
	b.n, b.lines = 0, true
}

func (b *b64) eol() { b.write([]byte("\r\n")) }

func (b *b64) close(delimited bool) {
	b.flush()
	if !delimited && b.lines {
		b.out.WriteString("\r\n")
	}
}

// requoted mends a body that is Quoted-Printable and has octets or lines that
// are none: who decodes it finds the same.
type requoted struct {
	out   *bytes.Buffer
	col   int
	token []byte // "=" and what came of its digits
}

// softAt is where long lines are broken, which others are left as they are.
const softAt = 900

func (q *requoted) write(p []byte) {
	for _, c := range p {
		switch {
		case len(q.token) == 1 && (c == '\r' || c == '\n'): // a soft line break of sorts
			q.token = nil
			q.out.WriteString("=\r\n")
			q.col = 0
		case len(q.token) > 0 && isHex(c):
			if q.token = append(q.token, c); len(q.token) == 3 {
				q.flush()
			}
		default:
			q.flush()
			if c == '=' {
				q.token = append(q.token, c)
				continue
			}
			q.octet(c)
		}
	}
}

func (q *requoted) octet(c byte) {
	if c > '~' || c < ' ' && c != '\t' || c == '-' && q.col == 0 {
		q.put([]byte{'=', hexDigits[c>>4], hexDigits[c&15]})
		return
	}
	if q.col >= softAt && c == '-' {
		q.put([]byte("=2D"))
		return
	}
	q.put([]byte{c})
}

func (q *requoted) flush() {
	if len(q.token) > 0 {
		q.put(q.token)
		q.token = q.token[:0]
	}
}

// put writes what must not be parted.
func (q *requoted) put(s []byte) {
	if q.col+len(s) > softAt {
		q.out.WriteString("=\r\n")
		q.col = 0
	}
	q.out.Write(s)
	q.col += len(s)
}

func (q *requoted) eol() {
	q.flush()
	q.out.WriteString("\r\n")
	q.col = 0
}

func (q *requoted) close(delimited bool) {
	if len(q.token) == 1 { // a soft line break without its line's end
		q.token = nil
		q.out.WriteByte('=')
		q.col++
	}
	q.flush()
	if !delimited && q.col > 0 {
		q.out.WriteString("\r\n")
	}
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' || c >= 'a' && c <= 'f'
}

// rebased writes a body that is Base64 in lines of its length, and leaves out
// what decoders have to ignore.
type rebased struct {
	out   *bytes.Buffer
	col   int
	lines bool
}

func (r *rebased) write(p []byte) {
	for _, c := range p {
		if !inAlphabet(c) {
			continue
		}
		if r.col == lineLength {
			r.out.WriteString("\r\n")
			r.col = 0
		}
		r.out.WriteByte(c)
		r.col++
		r.lines = true
	}
}

func (r *rebased) eol() {}

func (r *rebased) close(delimited bool) {
	if !delimited && r.lines {
		r.out.WriteString("\r\n")
	}
}

func inAlphabet(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '='
}
