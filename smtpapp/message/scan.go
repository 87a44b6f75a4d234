package message

import (
	"bytes"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A scanner finds the end of a header block that arrives bit by bit, and holds
// it to its limits on the way. It looks at each octet once.
//
// The block ends at the first empty line, or before the first line that is no
// field (RFC 5322, section 2.2): mail without a header is legal, and so is what
// an mbox file puts on top ("From " without a colon).
type scanner struct {
	limits Limits
	line   int  // where the current line begins
	kind   kind // what it is
	seen   int  // no line ends between line and here
	field  int  // where the current field begins
	fields int  // begun so far

	end  int // of the header block, once scan reports it
	body int // where the body begins
}

// kind is what a line of a header block is.
type kind uint8

const (
	undecided    kind = iota
	fieldLine         // the first line of a field
	continuation      // a line that begins with white space, below a field
	emptyLine         // the end
	bodyLine          // anything else: the body has begun
)

// scan goes on to the end of buf, which has what earlier calls saw and more. It
// reports whether the header block has ended; at the end of input it has.
func (s *scanner) scan(buf []byte, eof bool) (done bool, err error) {
	for {
		line, next := s.current(buf)
		if next == 0 && !eof && len(line) <= maxLine+1 {
			return false, nil
		}
		if s.kind == undecided {
			s.kind = classify(line, s.fields > 0)
		}
		switch {
		case len(line) == 0 && next == 0, s.kind == bodyLine:
			s.end, s.body = s.line, s.line
			return true, nil
		case s.kind == emptyLine:
			s.end, s.body = s.line, next
			return true, nil
		}
		if err := s.check(buf, next); err != nil {
			return false, err
		}
		if (next > 0 || eof) && bareNewline(line, next == 0) {
			return false, mail.Refuse(550, "5.5.2", "bare CR or LF in header")
		}
		if next == 0 {
			s.end, s.body = len(buf), len(buf)
			return eof, nil
		}
		s.line, s.seen, s.kind = next, next, undecided
	}
}

// current returns the current line as far as it has come, and where the next
// one begins, 0 if it is not yet known.
func (s *scanner) current(buf []byte) (line []byte, next int) {
	i := bytes.IndexByte(buf[s.seen:], '\n')
	if i < 0 {
		s.seen = len(buf)
		return buf[s.line:], 0
	}
	next = s.seen + i + 1
	if end := next - 2; end >= s.line && buf[end] == '\r' {
		return buf[s.line:end], next
	}
	return buf[s.line:next], next // refused, or of the body
}

// classify tells what a line is. Where that takes more octets than a line may
// have, it is no field: so a line can be told before all of it is there.
func classify(line []byte, inField bool) kind {
	line = line[:min(len(line), maxLine+1)]
	switch {
	case len(line) == 0:
		return emptyLine
	case isWSP(line[0]) && inField:
		return continuation
	}
	i := 0
	for i < len(line) && isNameChar(line[i]) {
		i++
	}
	name := i
	for i < len(line) && isWSP(line[i]) {
		i++
	}
	if name > 0 && i < len(line) && line[i] == ':' {
		return fieldLine
	}
	return bodyLine
}

// check counts the current line, which is of a field, and holds it to the
// limits.
func (s *scanner) check(buf []byte, next int) error {
	l := &s.limits
	if s.kind == fieldLine && s.field != s.line || s.fields == 0 {
		s.field = s.line
		s.fields++
	}
	end := len(buf)
	if next > 0 {
		end = next
	}
	switch {
	case l.HeaderFields > 0 && s.fields > l.HeaderFields:
		return mail.Refuse(554, "5.6.0", "more than %d header fields", l.HeaderFields)
	case l.FieldSize > 0 && end-s.field > l.FieldSize:
		return mail.Refuse(554, "5.6.0", "header field of more than %d octets", l.FieldSize)
	case l.HeaderSize > 0 && end > l.HeaderSize:
		return mail.Refuse(552, "5.3.4", "header of more than %d octets", l.HeaderSize)
	}
	return nil
}

// bareNewline reports a CR or LF that ends no line. The last octet of input
// that ends within a line may be half a CRLF.
func bareNewline(line []byte, open bool) bool {
	i := bytes.IndexByte(line, '\r')
	return i >= 0 && (!open || i < len(line)-1) || bytes.HasSuffix(line, []byte{'\n'})
}

// header returns the header block that ended.
func (s *scanner) header(buf []byte) *Header {
	block := string(buf[:s.end])
	if s.end > 0 && !strings.HasSuffix(block, "\r\n") { // the input ended within a field
		block = strings.TrimRight(block, "\r") + "\r\n"
	}
	return &Header{rest: splitFields(block, s.fields), size: len(block)}
}

// splitFields splits a header block that was scanned.
func splitFields(block string, n int) []Field {
	fields := make([]Field, 0, n)
	for block != "" {
		end := 0
		for {
			end += strings.IndexByte(block[end:], '\n') + 1
			if end == len(block) || !isWSP(block[end]) {
				break
			}
		}
		fields = append(fields, Field{block[:end], strings.IndexByte(block, ':')})
		block = block[end:]
	}
	return fields
}
