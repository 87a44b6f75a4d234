package convert

import (
	"fmt"
	"strings"
)

// A param is a parameter of a structured field, as it was written.
type param struct {
	before string // what stands between the ";" and the name, and cannot be read
	name   string // "" if it is no parameter
	value  string
}

// readParams reads what follows the first ";" of a field (RFC 2045, section 5.1).
func readParams(value string) []param {
	pieces := splitOutside(value, ';')
	ps := make([]param, 0, len(pieces))
	for _, s := range pieces[1:] {
		name, v, ok := strings.Cut(s, "=")
		name = strings.Trim(name, " \t")
		if !ok || name == "" || strings.ContainsAny(name, " \t\"()<>@,:\\/[]?") || !isASCII(name) {
			ps = append(ps, param{before: s})
			continue
		}
		ps = append(ps, param{name: name, value: strings.Trim(v, " \t")})
	}
	return ps
}

// splitOutside splits s at each sep that is in no quoted string and no comment.
func splitOutside(s string, sep byte) []string {
	var out []string
	quoted, depth, from := false, 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && (quoted || depth > 0):
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case c == sep && depth == 0:
			out = append(out, s[from:i])
			from = i + 1
		}
	}
	return append(out, s[from:])
}

// text is the value without its quotes, or what stands before a comment.
func (p param) text() string {
	if strings.HasPrefix(p.value, `"`) {
		text, _ := unquote(p.value)
		return text
	}
	word, _, _ := strings.Cut(p.value, "(")
	return strings.TrimRight(word, " \t")
}

// unquote reads the quoted string that s begins with, and returns what follows.
func unquote(s string) (text, rest string) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// asciiParams writes a field with parameters in ASCII (RFC 2231). A boundary has
// to be ASCII as it is: of another, nobody can tell what readers make.
func asciiParams(value string) (string, error) {
	first, _, _ := strings.Cut(value, ";")
	if pieces := splitOutside(value, ';'); len(pieces) > 0 {
		first = pieces[0]
	}
	var b strings.Builder
	b.WriteString(asciiComments(first))
	for _, p := range readParams(value) {
		switch {
		case p.name == "":
			if isASCII(p.before) {
				b.WriteString(";" + p.before)
			}
		case isASCII(p.value):
			b.WriteString("; " + p.name + "=" + p.value)
		case strings.EqualFold(p.name, "boundary") && isASCII(p.text()): // delimiters keep theirs
			b.WriteString(`; boundary="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(p.text()) + `"`)
		case strings.HasPrefix(strings.ToLower(p.name), "boundary"):
			return "", errMalformed
		case strings.HasSuffix(p.name, "*"): // an extended value that should have been encoded
			b.WriteString("; " + p.name + "=" + percent(p.text(), true))
		default:
			b.WriteString(extended(p.name, p.text()))
		}
	}
	return b.String(), nil
}

// maxPiece is how many octets of an extended value go in one parameter, so that
// a line can hold it.
const maxPiece = 60

// extended writes a parameter as RFC 2231 has it, in pieces if it is long.
func extended(name, text string) string {
	value := percent(text, false)
	if strings.Contains(name, "*") { // a piece already: its number stays
		return "; " + name + "*=" + value
	}
	set := charset(text) + "''"
	if len(set)+len(value) <= maxPiece {
		return "; " + name + "*=" + set + value
	}
	var b strings.Builder
	value = set + value
	for n := 0; value != ""; n++ {
		i := min(maxPiece, len(value))
		for i < len(value) && !parts(value, i) {
			i--
		}
		fmt.Fprintf(&b, "; %s*%d*=%s", name, n, value[:i])
		value = value[i:]
	}
	return b.String()
}

// parts reports whether a value can be parted at i: not within %XX, and not within
// a character, for who decodes each piece by itself.
func parts(value string, i int) bool {
	if value[i-1] == '%' || value[i-2] == '%' {
		return false
	}
	return value[i] != '%' || value[i+1] < '8' || value[i+1] > 'B' || i <= maxPiece/2
}

// percent encodes all that is no attribute-char (RFC 2231, section 7). What is
// encoded already keeps what stands for its form.
func percent(s string, encoded bool) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		plain := c > ' ' && c < 0x7f && !strings.ContainsRune(`*'%()<>@,;:\"/[]?=`, rune(c))
		if plain || encoded && (c == '\'' || c == '%') {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
