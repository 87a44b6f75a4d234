package message

import (
	"io"
	"iter"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A Header is a header block: fields in order, each as it came. The zero
// Header has none. Clones share what neither of them has changed.
//
// Both slices are only ever appended to or replaced as a whole, and a clone's
// have no room to append in place. So a clone can be made while others read.
type Header struct {
	top  []Field // put on top, the topmost last
	rest []Field
	size int
}

// ParseHeader splits b into its header block, of which it keeps a copy, and the
// body that follows. It fails for a CR or LF of its own in a field, as those
// could make other readers see other fields.
func ParseHeader(b []byte) (h *Header, rest []byte, err error) {
	var s scanner
	if _, err := s.scan(b, true); err != nil {
		return nil, nil, err
	}
	return s.header(b), b[s.body:], nil
}

// Fields returns the fields from the top.
func (h *Header) Fields() iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for _, f := range slices.Backward(h.top) {
			if !yield(f) {
				return
			}
		}
		for _, f := range h.rest {
			if !yield(f) {
				return
			}
		}
	}
}

// Len returns the number of fields.
func (h *Header) Len() int { return len(h.top) + len(h.rest) }

// Get returns the value of the topmost field of that name, unfolded, and "" if
// there is none.
func (h *Header) Get(name string) string {
	for f := range h.Fields() {
		if f.Is(name) {
			return f.Value()
		}
	}
	return ""
}

// Values returns the values of all fields of that name from the top, unfolded.
func (h *Header) Values(name string) []string {
	var vs []string
	for f := range h.Fields() {
		if f.Is(name) {
			vs = append(vs, f.Value())
		}
	}
	return vs
}

// Count returns how many fields have that name.
func (h *Header) Count(name string) int {
	n := 0
	for f := range h.Fields() {
		if f.Is(name) {
			n++
		}
	}
	return n
}

// Hops returns how many hosts the message has passed, by its Received fields
// (RFC 5321, section 6.3).
func (h *Header) Hops() int { return h.Count("Received") }

// Prepend puts a field on top, folded. Control characters in the value become
// spaces.
func (h *Header) Prepend(name, value string) {
	if f, ok := newField(name, value); ok {
		h.prepend(f)
	}
}

// PrependRaw puts a complete field with its CRLF on top, as it is: for a
// signature over its own octets.
func (h *Header) PrependRaw(field string) error {
	p, rest, err := ParseHeader([]byte(field))
	if err != nil {
		return err
	}
	if len(rest) > 0 || len(p.rest) != 1 || p.rest[0].raw != field {
		return mail.Refuse(554, "5.6.0", "not a header field")
	}
	h.prepend(p.rest[0])
	return nil
}

func (h *Header) prepend(f Field) {
	h.top = append(h.top, f)
	h.size += len(f.raw)
}

// Append puts a field below the others, folded.
func (h *Header) Append(name, value string) {
	if f, ok := newField(name, value); ok {
		h.rest = append(h.rest, f)
		h.size += len(f.raw)
	}
}

// Set puts a field in the place of the topmost one of that name and removes
// the others. Without one, it appends.
func (h *Header) Set(name, value string) {
	n, ok := newField(name, value)
	if !ok {
		return
	}
	found := false
	h.edit(func(f Field) (Field, bool) {
		if !f.Is(name) {
			return f, true
		}
		first := !found
		found = true
		return n, first
	})
	if !found {
		h.Append(name, value)
	}
}

// Remove removes the fields of that name and returns how many there were.
func (h *Header) Remove(name string) int {
	return h.RemoveFunc(name, func(string) bool { return true })
}

// RemoveFunc removes the fields of that name with a value, unfolded, that match
// reports, and returns how many there were.
func (h *Header) RemoveFunc(name string, match func(value string) bool) int {
	if h.Count(name) == 0 {
		return 0
	}
	n := h.Len()
	h.edit(func(f Field) (Field, bool) { return f, !f.Is(name) || !match(f.Value()) })
	return n - h.Len()
}

// edit replaces each field from the top by what fn returns, or drops it.
func (h *Header) edit(fn func(Field) (Field, bool)) {
	fields := make([]Field, 0, h.Len())
	size := 0
	for f := range h.Fields() {
		if f, keep := fn(f); keep {
			fields = append(fields, f)
			size += len(f.raw)
		}
	}
	h.top, h.rest, h.size = nil, fields, size
}

// Clone returns a header that can be changed without changing h.
func (h *Header) Clone() *Header {
	return &Header{slices.Clip(h.top), slices.Clip(h.rest), h.size}
}

// EightBit reports an octet over 127, which needs SMTPUTF8 (RFC 6532).
func (h *Header) EightBit() bool {
	return h.any(func(s string) bool {
		return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0
	})
}

// LongestLine returns the octets of the longest line, without its CRLF.
func (h *Header) LongestLine() int {
	n := 0
	for f := range h.Fields() {
		for l := range strings.SplitSeq(f.raw, "\r\n") {
			n = max(n, len(l))
		}
	}
	return n
}

// HasNUL reports a NUL, which no header may have.
func (h *Header) HasNUL() bool {
	return h.any(func(s string) bool { return strings.IndexByte(s, 0) >= 0 })
}

func (h *Header) any(is func(string) bool) bool {
	for f := range h.Fields() {
		if is(f.raw) {
			return true
		}
	}
	return false
}

// Size returns the octets of the header block and the empty line after it.
func (h *Header) Size() int { return h.size + len("\r\n") }

// Bytes returns the header block and the empty line after it.
func (h *Header) Bytes() []byte {
	b := make([]byte, 0, h.Size())
	for f := range h.Fields() {
		b = append(b, f.raw...)
	}
	return append(b, "\r\n"...)
}

// NewReader reads the header block and the empty line after it.
func (h *Header) NewReader() io.Reader { return &headerReader{h: *h.Clone()} }

// headerReader reads a header field by field.
type headerReader struct {
	h    Header
	next int    // the field after cur
	cur  string // what is left of a field
}

func (r *headerReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if r.cur == "" && !r.advance() {
			if n == 0 {
				return 0, io.EOF
			}
			break
		}
		c := copy(p[n:], r.cur)
		r.cur = r.cur[c:]
		n += c
	}
	return n, nil
}

// advance goes to the next field, and after the last one to the empty line.
func (r *headerReader) advance() bool {
	top, all := len(r.h.top), r.h.Len()
	switch {
	case r.next < top:
		r.cur = r.h.top[top-1-r.next].raw
	case r.next < all:
		r.cur = r.h.rest[r.next-top].raw
	case r.next == all:
		r.cur = "\r\n"
	default:
		return false
	}
	r.next++
	return true
}
