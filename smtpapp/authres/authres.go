// Package authres writes and reads the values of Authentication-Results header
// fields (RFC 8601), and so those of ARC-Authentication-Results too (RFC 8617,
// section 4.1.1). What is written comes from strangers in part, and what is
// read is theirs altogether: nothing of it can end a value, a comment or the
// field. The package knows nothing of messages.
package authres

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Field is the value of an Authentication-Results field.
type Field struct {
	// ID is the authserv-id: who found it out (RFC 8601, section 2.5).
	ID string
	// Version is that of the field's syntax. Zero is unsaid, which means 1.
	Version int
	// Results has one for each thing that was looked at; none is "none".
	Results []Result
}

// A Result is one method's result.
type Result struct {
	Method string // "spf", "dkim" …
	Value  string // "pass", "fail", "temperror" …
	// Comment is for people. It is written, but not read.
	Comment string
	Reason  string
	Props   []Property
}

// A Property says what a Result is about: ptype.property=value.
type Property struct{ Type, Name, Value string }

// Get returns the first property of that name, and whether there is one.
func (r *Result) Get(typ, name string) (string, bool) {
	for _, p := range r.Props {
		if p.Type == typ && p.Name == name {
			return p.Value, true
		}
	}
	return "", false
}

// String returns the value of the field in one line, for whoever folds it.
// Control characters become spaces, octets that are no UTF-8 question marks,
// and keywords lose what they cannot have.
func (f *Field) String() string {
	var b strings.Builder
	b.WriteString(word(f.ID))
	if f.Version > 0 {
		b.WriteString(" " + strconv.Itoa(f.Version))
	}
	written := false
	for i := range f.Results {
		written = f.Results[i].write(&b) || written
	}
	if !written {
		b.WriteString("; none")
	}
	return b.String()
}

// write writes a result, unless it has no name or no value.
func (r *Result) write(b *strings.Builder) bool {
	method, result := keyword(r.Method), keyword(r.Value)
	if method == "" || result == "" {
		return false
	}
	b.WriteString("; " + method + "=" + result)
	if r.Comment != "" {
		b.WriteString(" " + comment(r.Comment))
	}
	if r.Reason != "" {
		b.WriteString(" reason=" + quoted(r.Reason))
	}
	for _, p := range r.Props {
		if typ, name := keyword(p.Type), keyword(p.Name); typ != "" && name != "" {
			b.WriteString(" " + typ + "." + name + "=" + value(p.Value))
		}
	}
	return true
}

// keyword leaves of s what a Keyword can have (RFC 8601, section 2.2). The
// underscore is not among that, but names such as "x-sender_login" are.
func keyword(s string) string {
	if strings.IndexFunc(s, notKeyword) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if notKeyword(r) {
			return -1
		}
		return r
	}, s)
}

func notKeyword(r rune) bool { return r >= utf8.RuneSelf || !isKeyword(byte(r)) }

func isKeyword(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// word quotes what is not a token.
func word(s string) string {
	if strings.Contains(s, "@") {
		return quoted(s)
	}
	return value(s)
}

// value quotes what is neither a token (RFC 2045, section 5.1) nor an address
// that looks like one.
func value(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c != '@' && !isToken(c) {
			return quoted(s)
		}
	}
	if s == "" || s == "@" || strings.Count(s, "@") > 1 || s[len(s)-1] == '@' {
		return quoted(s)
	}
	return s
}

func isToken(c byte) bool {
	return c > ' ' && c != 0x7f && strings.IndexByte(`()<>@,;:\"/[]?=`, c) < 0
}

func quoted(s string) string { return enclose(s, '"', '"') }

func comment(s string) string { return enclose(s, '(', ')') }

// enclose puts s between two delimiters that it cannot get out of.
func enclose(s string, from, to byte) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte(from)
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			r = '?'
		case isControl(r):
			r = ' '
		case r == rune(from) || r == rune(to) || r == '\\':
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	b.WriteByte(to)
	return b.String()
}

func isControl(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 }
