package convert

import (
	"bytes"
	"unicode/utf8"
)

// A deed is what is done to an entity.
type deed struct {
	how     how
	charset string // for a body without a type
	label   string // of its encoding; "" to leave what it has
}

type how uint8

const (
	keep how = iota
	asQP
	asBase64
	mendQP
	mendBase64
)

// analyst decides what is done to each entity.
type analyst struct {
	target  Target
	plan    []deed
	changes bool
	eight   bool // 8-bit octets are left

	e    *entity
	body stats
}

func (a *analyst) entity(e *entity) error {
	a.e, a.body = e, stats{}
	a.plan = append(a.plan, deed{})
	if err := a.heads(e); err != nil {
		return err
	}
	if e.kind != leaf {
		a.relabel(false)
	}
	return nil
}

// heads looks at the fields of a header.
func (a *analyst) heads(e *entity) error {
	for f := range e.header.Fields() {
		raw := f.Raw()
		a.changes = a.changes || !a.target.LongLines && !e.signed && longest(raw) > maxLine
		switch {
		case isASCII(raw):
		case a.target.UTF8:
			a.eight = true
		case e.signed:
			return errSigned
		default:
			if _, err := asciiField(f); err != nil {
				return err
			}
			a.changes = true
		}
	}
	return nil
}

// relabel has a Content-Transfer-Encoding say what the body now is, whose octets
// are kept.
func (a *analyst) relabel(eight bool) {
	d := &a.plan[len(a.plan)-1]
	switch {
	case a.e.signed:
	case a.e.encoding == binaryOctets:
		a.changes = true
		d.label = "7bit"
		if a.target.EightBit && (eight || a.e.kind != leaf) {
			d.label = "8bit"
		}
	case a.e.encoding == eightBit && !a.target.EightBit:
		d.label = "7bit"
	}
}

func (a *analyst) data(f fragment) error {
	a.body.add(f)
	return nil
}

func (a *analyst) end(bool) error {
	e, s := a.e, &a.body
	octets := s.nul || s.bare || s.eight && (!a.target.EightBit || e.global && !a.target.UTF8)
	switch {
	case !octets && (a.target.LongLines || s.longest <= maxLine):
		a.keep()
		return nil
	case e.signed:
		return a.unless(octets, errSigned)
	case e.broken:
		return a.unless(octets, errMalformed)
	case e.fixed:
		return a.unless(octets, errPartial)
	case e.encoding == unknownEncoding:
		return a.unless(octets, errEncoding)
	}
	a.changes = true
	d := &a.plan[len(a.plan)-1]
	switch {
	case e.encoding == quotedPrintable:
		d.how, d.label = mendQP, "quoted-printable"
	case e.encoding == base64Text:
		d.how, d.label = mendBase64, "base64"
	case e.text && !s.nul && 3*s.escapes <= 2*s.total:
		d.how, d.label = asQP, "quoted-printable"
	default:
		d.how, d.label = asBase64, "base64"
	}
	if !e.typed && e.encoding < quotedPrintable {
		d.charset = s.charset()
	}
	return nil
}

// unless fails if octets cannot be kept. Long lines can: to send them as they
// are is better than not to.
func (a *analyst) unless(octets bool, err error) error {
	if octets {
		return err
	}
	a.keep()
	return nil
}

func (a *analyst) keep() {
	a.eight = a.eight || a.body.eight
	a.relabel(a.body.eight)
}

func (a *analyst) aside(f fragment, signed bool) error {
	if !a.target.dirty(f) {
		a.eight = a.eight || !isASCII(string(f.data))
		return nil
	}
	if signed {
		return errSigned
	}
	a.changes = true
	return nil
}

func (a *analyst) delimiter(string, bool, fragment, bool) {}

// dirty reports whether a fragment that no reader is shown cannot be sent.
func (t Target) dirty(f fragment) bool {
	return !f.eol && !f.last || !t.LongLines && len(f.data) > maxLine || !t.EightBit && !isASCII(string(f.data)) ||
		bytes.ContainsAny(f.data, "\x00\r\n")
}

// stats are what counts of a body.
type stats struct {
	eight, nul, bare bool
	total, escapes   int64
	line, longest    int
	notUTF8          bool
	tail             []byte // of a character that has not ended
}

func (s *stats) add(f fragment) {
	for _, c := range f.data {
		switch {
		case c >= ' ' && c <= '~':
			if c == '=' {
				s.escapes++
			}
			continue
		case c >= 0x80:
			s.eight = true
		case c == '\t':
			continue
		case c == 0:
			s.nul = true
		case c == '\r' || c == '\n':
			s.bare = true
		}
		s.escapes++
	}
	s.total += int64(len(f.data))
	s.line += len(f.data)
	s.longest = max(s.longest, s.line)
	s.validate(f.data)
	if f.eol {
		s.line = 0
		s.notUTF8 = s.notUTF8 || len(s.tail) > 0
	}
}

// validate looks whether the body is UTF-8, though fragments may part its
// characters.
func (s *stats) validate(p []byte) {
	if s.notUTF8 || !s.eight {
		return
	}
	if len(s.tail) > 0 {
		n := min(utf8.UTFMax-len(s.tail), len(p))
		joined := append(s.tail, p[:n]...)
		r, size := utf8.DecodeRune(joined)
		if r == utf8.RuneError && size <= 1 {
			if !utf8.FullRune(joined) {
				s.tail = joined
				return
			}
			s.notUTF8 = true
			return
		}
		p = p[size-len(s.tail):]
		s.tail = s.tail[:0]
	}
	end := len(p)
	for i := end - 1; i >= 0 && i > end-utf8.UTFMax; i-- {
		if utf8.RuneStart(p[i]) {
			if !utf8.FullRune(p[i:]) {
				s.tail = append(s.tail, p[i:]...)
				end = i
			}
			break
		}
	}
	s.notUTF8 = !utf8.Valid(p[:end])
}

func (s *stats) charset() string {
	switch {
	case !s.eight:
		return "us-ascii"
	case s.notUTF8 || len(s.tail) > 0:
		return "unknown-8bit"
	}
	return "utf-8"
}

// longest returns the octets of the longest line of a field.
func longest(raw string) int {
	n, line := 0, 0
	for i := range len(raw) {
		switch raw[i] {
		case '\n':
			line = 0
		case '\r':
		default:
			line++
			n = max(n, line)
		}
	}
	return n
}
