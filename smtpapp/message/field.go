package message

import (
	"strings"
	"unicode/utf8"
)

// Columns of a line (RFC 5322, section 2.1.1): a header that we write is folded
// at the first, and broken by force before it comes to the second.
const (
	foldAt  = 78
	breakAt = 900
	maxLine = 998
)

// A Field is one header field, as it came: its name, a colon, and a body that
// may be folded over several lines.
type Field struct {
	raw   string // ends with CRLF
	colon int
}

// Name returns the name without the white space that may stand before the
// colon.
func (f Field) Name() string {
	n := f.raw[:f.colon]
	for len(n) > 0 && isWSP(n[len(n)-1]) {
		n = n[:len(n)-1]
	}
	return n
}

// Malformed reports white space between the name and the colon. It is obsolete
// syntax (RFC 5322, section 4.5) that readers disagree about.
func (f Field) Malformed() bool { return len(f.Name()) != f.colon }

// Is reports whether the field has the name, in whatever case.
func (f Field) Is(name string) bool {
	n := f.raw[:f.colon]
	if len(n) > len(name) {
		n = strings.TrimRight(n, " \t")
	}
	return len(n) == len(name) && strings.EqualFold(n, name)
}

// Value returns the field body, unfolded (RFC 5322, section 2.2.3) and without
// white space around it.
func (f Field) Value() string {
	v := strings.Trim(f.raw[f.colon+1:], " \t\r\n")
	if strings.Contains(v, "\r\n") {
		v = strings.ReplaceAll(v, "\r\n", "")
	}
	return v
}

// Raw returns the field as it is written, with its final CRLF.
func (f Field) Raw() string { return f.raw }

// ValidName reports whether a field may have this name (RFC 5322, section
// 3.6.8).
func ValidName(s string) bool {
	for i := range len(s) {
		if !isNameChar(s[i]) {
			return false
		}
	}
	return s != "" && len(s) < foldAt
}

func isNameChar(c byte) bool { return c > ' ' && c < 0x7f && c != ':' }

func isWSP(c byte) bool { return c == ' ' || c == '\t' }

// newField writes a field, folded. Nothing in name or value can end it: octets
// that a name cannot have are dropped, and control characters in the value
// become spaces. ok is false if nothing is left of the name.
func newField(name, value string) (f Field, ok bool) {
	if !ValidName(name) {
		name = cleanName(name)
	}
	if name == "" {
		return Field{}, false
	}
	var b strings.Builder
	b.Grow(len(name) + len(value) + len(value)/20 + 8)
	b.WriteString(name)
	b.WriteByte(':')
	fold(&b, clean(value))
	b.WriteString("\r\n")
	return Field{b.String(), len(name)}, true
}

// Fold writes a field with its CRLF as Prepend does, "" if nothing is left of
// its name.
func Fold(name, value string) string {
	f, _ := newField(name, value)
	return f.raw
}

func cleanName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && isNameChar(byte(r)) {
			return r
		}
		return -1
	}, s)
	return s[:min(len(s), foldAt-1)]
}

// clean unfolds a value and takes out what cannot be in a field body.
func clean(v string) string {
	dirty := false
	for i := 0; i < len(v) && !dirty; i++ {
		dirty = isControl(v[i])
	}
	if dirty {
		b := []byte(strings.NewReplacer("\r\n ", " ", "\r\n\t", "\t").Replace(v))
		for i, c := range b {
			if isControl(c) {
				b[i] = ' '
			}
		}
		v = string(b)
	}
	return strings.Trim(v, " \t")
}

func isControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// fold writes a value that follows "Name:", a line break before the white space
// where a line would grow too long.
func fold(b *strings.Builder, v string) {
	col := b.Len()
	for first := true; v != ""; first = false {
		space, word, rest := cutWord(v)
		if first {
			space = " "
		}
		if !first && col+len(space)+len(word) > foldAt {
			b.WriteString("\r\n")
			col = 0
		}
		b.WriteString(space)
		col += len(space)
		for col+len(word) > breakAt { // no white space for that long: the line must end all the same
			n := runeCut(word, breakAt-col)
			b.WriteString(word[:n] + "\r\n ")
			word, col = word[n:], 1
		}
		b.WriteString(word)
		col += len(word)
		v = rest
	}
}

// cutWord splits off the white space v begins with, some of it if it is much,
// and the word that follows.
func cutWord(v string) (space, word, rest string) {
	i := 0
	for i < len(v) && isWSP(v[i]) {
		i++
	}
	j := i
	for j < len(v) && !isWSP(v[j]) {
		j++
	}
	return v[:min(i, foldAt/2)], v[i:j], v[j:]
}

// runeCut returns the largest place up to n at which s can be cut without
// cutting a character.
func runeCut(s string, n int) int {
	for i := n; i > n-utf8.UTFMax && i > 0; i-- {
		if utf8.RuneStart(s[i]) {
			return i
		}
	}
	return n
}
