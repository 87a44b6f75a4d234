package spf

import (
	"slices"
	"strconv"
	"strings"
)

// A macroString is text with macros (RFC 7208, section 7).
type macroString []macro

type macro struct {
	text   string // if letter is 0
	expand bool   // text that was an escape such as %%

	letter   byte // in lower case
	escape   bool // it was in upper case
	keep     int  // parts from the right; 0 for all
	reversed bool
	delims   string
}

// parseMacros reads a macro-string for a domain: the macros that only
// explanations have (c, r, t) are errors.
func parseMacros(s string) (m macroString, err error) {
	for s != "" {
		n := strings.IndexByte(s, '%')
		if n < 0 {
			n = len(s)
		}
		if n > 0 {
			if strings.IndexFunc(s[:n], func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
				return nil, errSyntax
			}
			m = append(m, macro{text: s[:n]})
			s = s[n:]
			continue
		}
		if len(s) < 2 {
			return nil, errSyntax
		}
		text, escape := map[byte]string{'%': "%", '_': " ", '-': "%20"}[s[1]]
		if escape {
			m = append(m, macro{text: text, expand: true})
			s = s[2:]
			continue
		}
		end := strings.IndexByte(s, '}')
		if s[1] != '{' || end < 3 {
			return nil, errSyntax
		}
		x, err := parseMacro(s[2:end])
		if err != nil {
			return nil, err
		}
		m = append(m, x)
		s = s[end+1:]
	}
	return m, nil
}

// parseMacro reads what is between the braces: a letter, digits, "r" and
// delimiters.
func parseMacro(s string) (macro, error) {
	x := macro{letter: s[0] | 0x20, escape: s[0] < 'a', delims: "."}
	if strings.IndexByte("slodiphv", x.letter) < 0 || s[0]&0x40 == 0 {
		return x, errSyntax
	}
	s = s[1:]
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	if digits > 0 {
		n, err := strconv.Atoi(s[:min(digits, 9)])
		if err != nil || n == 0 {
			return x, errSyntax
		}
		x.keep, s = n, s[digits:]
	}
	if s != "" && s[0]|0x20 == 'r' {
		x.reversed, s = true, s[1:]
	}
	if strings.Trim(s, ".-+,/_=") != "" {
		return x, errSyntax
	}
	if s != "" {
		x.delims = s
	}
	return x, nil
}

// isDomain checks that a macro-string is a domain-spec: its end is a macro or a
// top label (section 7.1).
func (m macroString) isDomain() error {
	if len(m) == 0 {
		return errSyntax
	}
	if last := m[len(m)-1]; last.letter != 0 || last.expand || topLabel.MatchString(last.text) {
		return nil
	}
	return errSyntax
}

// expand returns the domain that the macro-string stands for. Where it is too
// long, labels are cut off from the left (section 7.3).
func (e *evaluation) expand(m macroString, domain string) string {
	var b strings.Builder
	for _, x := range m {
		if x.letter == 0 {
			b.WriteString(x.text)
			continue
		}
		v := e.value(x.letter, domain)
		parts := splitAny(v, x.delims)
		if x.reversed {
			slices.Reverse(parts)
		}
		if x.keep > 0 && x.keep < len(parts) {
			parts = parts[len(parts)-x.keep:]
		}
		v = strings.Join(parts, ".")
		if x.escape {
			v = escaped(v)
		}
		b.WriteString(v)
	}
	s := strings.TrimSuffix(b.String(), ".")
	for len(s) > 253 {
		_, rest, ok := strings.Cut(s, ".")
		if !ok {
			break
		}
		s = rest
	}
	return s
}

func splitAny(s, delims string) []string {
	var parts []string
	for {
		i := strings.IndexAny(s, delims)
		if i < 0 {
			return append(parts, s)
		}
		parts, s = append(parts, s[:i]), s[i+1:]
	}
}

// value is what a letter stands for (section 7.2).
func (e *evaluation) value(letter byte, domain string) string {
	switch letter {
	case 's':
		return e.local + "@" + e.domain
	case 'l':
		return e.local
	case 'o':
		return e.domain
	case 'd':
		return domain
	case 'i':
		return dotted(e.ip)
	case 'p':
		return e.validated(domain)
	case 'v':
		if e.ip.Is4() {
			return "in-addr"
		}
		return "ip6"
	}
	return e.hello
}

// escaped is URL escaping of all but unreserved characters (RFC 3986).
func escaped(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
		}
	}
	return b.String()
}
