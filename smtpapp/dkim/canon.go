// Package dkim has what signing and verifying share of DomainKeys Identified
// Mail (RFC 6376).
package dkim

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// A Canonicalization says which changes on the way a signature survives (RFC
// 6376, section 3.4).
type Canonicalization string

// The algorithms.
const (
	Simple  Canonicalization = "simple"  // none
	Relaxed Canonicalization = "relaxed" // of white space, and of case in field names
)

// Canonicalizations are the algorithms for the header and for the body of one
// signature, as in its c= tag.
type Canonicalizations struct{ Header, Body Canonicalization }

// ParseCanonicalizations reads the value of a c= tag: "relaxed/simple", or one
// for the header alone. Without it, both are simple.
func ParseCanonicalizations(s string) (Canonicalizations, error) {
	c := Canonicalizations{Simple, Simple}
	if s == "" {
		return c, nil
	}
	header, body, two := strings.Cut(s, "/")
	c.Header = Canonicalization(strings.ToLower(header))
	if two {
		c.Body = Canonicalization(strings.ToLower(body))
	}
	for _, a := range []Canonicalization{c.Header, c.Body} {
		if a != Simple && a != Relaxed {
			return c, fmt.Errorf("unknown canonicalization %q", s)
		}
	}
	return c, nil
}

// String is the value of the c= tag.
func (c Canonicalizations) String() string { return string(c.Header + "/" + c.Body) }

// AppendField appends the canonical form of a header field to dst. raw is the
// field as it stands in the message, and the canonical form ends with CRLF if
// raw does: the signature that is being made or checked has none (RFC 6376,
// section 3.7).
func (c Canonicalization) AppendField(dst []byte, raw string) []byte {
	colon := strings.IndexByte(raw, ':')
	if c != Relaxed || colon < 0 {
		return append(dst, raw...)
	}
	name, value := trimEnd(raw[:colon]), raw[colon+1:]
	n := len(dst)
	dst = append(append(dst, name...), ':')
	for i, b := range dst[n:] {
		dst[n+i] = lower[b]
	}
	n = len(dst)
	dst = append(dst, trimEnd(trimStart(value))...)
	dst = dst[:n+len(unfold(dst[n:]))]
	if strings.HasSuffix(value, "\r\n") {
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// lower has each octet without its case.
var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// unfold makes one space of each run of white space in v, line breaks included,
// in place. v has none around it.
func unfold(v []byte) []byte {
	out := v[:0]
	for len(v) > 0 {
		part := v[:min(len(v), 256)]
		if tab := bytes.IndexByte(part, '\t'); tab >= 0 {
			part = part[:tab]
		}
		if cr := bytes.IndexByte(part, '\r'); cr >= 0 { // an LF has a CR before it
			part = part[:cr]
		}
		n := regular(part)
		out = append(out, part[:n]...)
		rest := trimStart(v[n:])
		if len(rest) < len(v)-n {
			out = append(out, ' ')
		}
		v = rest
	}
	return out
}

func trimStart[T string | []byte](v T) T {
	for len(v) > 0 && isSpace(v[0]) {
		v = v[1:]
	}
	return v
}

func trimEnd(v string) string {
	for len(v) > 0 && isSpace(v[len(v)-1]) {
		v = v[:len(v)-1]
	}
	return v
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// block is how much is looked at, and gathered, at once.
const block = 4 << 10

// regular returns how much of v comes before the first white space that is not
// a space between two words. There is none at its beginning, and none but spaces
// and line breaks in it.
func regular(v []byte) int {
	last := len(v) - 9
	for i := 0; i < len(v)-1; {
		if w := v[i:]; len(w) > 32 && (spaces(w)|spaces(w[8:])|spaces(w[16:])|spaces(w[24:]))&high == 0 {
			i += 32
			continue
		}
		if at := min(i, last); at >= 0 && spaces(v[at:])&ascii(v[at:])&high == 0 {
			i = at + 8
			continue
		}
		for end := min(i+8, len(v)-1); i < end; i++ {
			if v[i] == ' ' && isSpace(v[i+1]) {
				return i
			}
		}
	}
	if n := len(v) - 1; v[n] == ' ' { // what follows it is not known here
		return n
	}
	return len(v)
}

// Eight octets are looked at as one number.
const (
	each = 0x0101010101010101
	high = 0x80 * each
)

// spaces sets the highest bit of each of the eight octets at v that is a space
// with white space after it. It may set that of others, above such a one and
// of those over 127: to subtract n sets the bit of an octet that is less than n,
// and borrows from the next one.
func spaces(v []byte) uint64 {
	these, next := binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[1:9])
	return (these ^ ' '*each - each) & (next - '!'*each)
}

// ascii sets the highest bit of each of the eight octets at v that is less than
// 128.
func ascii(v []byte) uint64 { return ^binary.LittleEndian.Uint64(v) }

// A Body is a writer that writes the canonical form of the body that is written
// to it, which may be cut anywhere, to another one. What it keeps is of constant
// size, and its time is linear. Empty lines are only counted until something
// follows them, since at the end they do not count.
type Body struct {
	w       io.Writer
	relaxed bool
	err     error

	empty int64 // line breaks that wait for content
	space bool  // white space that waits for content on its line
	cr    bool  // a CR that waits for its LF
	begun bool  // there was content, or an empty line before content

	buf []byte // what waits for more, since writes are dear
}

var lineBreak, oneCR, oneSpace = []byte("\r\n"), []byte("\r"), []byte(" ")

// NewBody returns a Body that writes to w.
func (c Canonicalization) NewBody(w io.Writer) *Body {
	b := &Body{w: w}
	b.Reset(c)
	return b
}

// Reset makes it ready for another body, in another form perhaps.
func (b *Body) Reset(c Canonicalization) {
	*b = Body{w: b.w, relaxed: c == Relaxed, buf: b.buf[:0]}
}

func (b *Body) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0 && b.err == nil; {
		part := rest[:min(len(rest), block)]
		if tab := bytes.IndexByte(part, '\t'); tab >= 0 {
			part = part[:max(tab, 1)]
		}
		rest = rest[len(part):]
		for len(part) > 0 {
			part = part[b.next(part):]
		}
	}
	if b.err != nil {
		return 0, b.err
	}
	return len(p), nil
}

// next takes some of p, as much as needs no change if it can. There is no tab in
// p but the first octet.
func (b *Body) next(p []byte) int {
	switch c := p[0]; {
	case b.cr && c == '\n':
		b.cr, b.space = false, false
		b.empty++
		return 1
	case b.cr:
		b.cr = false
		b.content(oneCR)
		return 0
	case c == '\r':
		b.cr = true
		return 1
	case b.relaxed && (c == ' ' || c == '\t'):
		b.space = true
		return 1
	}
	n := len(p)
	if b.relaxed {
		n = regular(p)
	}
	rest, cr := bytes.CutSuffix(p[:n], oneCR)
	rest, breaks := cutBreaks(rest)
	b.content(rest)
	b.empty += breaks
	b.cr = cr
	return n
}

func cutBreaks(p []byte) (rest []byte, n int64) {
	for ; bytes.HasSuffix(p, lineBreak); n++ {
		p = p[:len(p)-2]
	}
	return p, n
}

// content takes octets that do not end with a line break, and what waited for
// them.
func (b *Body) content(p []byte) {
	for ; b.empty > 0; b.empty-- {
		b.out(lineBreak)
	}
	if b.space {
		b.space = false
		b.out(oneSpace)
	}
	b.out(p)
}

func (b *Body) out(p []byte) {
	b.begun = true
	if len(b.buf)+len(p) < block {
		b.buf = append(b.buf, p...)
		return
	}
	b.flush()
	if len(p) < block {
		b.buf = append(b.buf, p...)
	} else if b.err == nil {
		_, b.err = b.w.Write(p)
	}
}

// flush writes what was gathered.
func (b *Body) flush() {
	if b.err == nil && len(b.buf) > 0 {
		_, b.err = b.w.Write(b.buf)
	}
	b.buf = b.buf[:0]
}

// Close ends the body with the one line break that it has: the relaxed form of
// an empty body is empty (RFC 6376, section 3.4.4). What it writes to stays open.
func (b *Body) Close() error {
	if b.cr {
		b.cr = false
		b.content(oneCR)
	}
	if b.begun || !b.relaxed {
		b.out(lineBreak)
	}
	b.empty, b.space = 0, false
	b.flush()
	return b.err
}
