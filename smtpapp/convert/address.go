package convert

import (
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// asciiAddresses writes a list of addresses in ASCII (RFC 5322, section 3.4):
// names as encoded-words, domains as A-labels. A local part has no other form.
func asciiAddresses(value string) (string, error) {
	var b strings.Builder
	for _, item := range cutAddresses(asciiComments(value)) {
		text, err := item.text, error(nil)
		switch {
		case isASCII(text):
		case item.address:
			text, err = asciiAddress(text)
		default:
			text = asciiPhrase(text)
		}
		if err != nil {
			return "", err
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// An item is a piece of a list of addresses: an address, a name, or what stands
// between them.
type item struct {
	text    string
	address bool
}

// cutAddresses cuts a list of addresses at what parts them.
func cutAddresses(s string) []item {
	var out []item
	from, inAngle, at := 0, false, false
	flush := func(to int, address bool) {
		if from < to {
			out = append(out, item{s[from:to], address})
		}
		from = to
	}
	for i := 0; i < len(s); {
		switch s[i] {
		case '"', '(', '[':
			i = skipQuoted(s, i)
			continue
		case '@':
			at = true
		case '<':
			if !inAngle {
				flush(i, false)
				out = append(out, item{text: "<"})
				from, inAngle = i+1, true
			}
		case '>':
			flush(i, inAngle)
			out = append(out, item{text: ">"})
			from, inAngle, at = i+1, false, false
		case ',', ';', ':':
			if inAngle {
				break
			}
			flush(i, at)
			out = append(out, item{text: s[i : i+1]})
			from, at = i+1, false
		}
		i++
	}
	flush(len(s), at || inAngle)
	return out
}

// skipQuoted returns where what begins at s[i] ends: a quoted string, a comment
// or a literal.
func skipQuoted(s string, i int) int {
	open, depth := s[i], 1
	closing := map[byte]byte{'"': '"', '(': ')', '[': ']'}[open]
	for i++; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == closing:
			if depth--; depth == 0 {
				return i + 1
			}
		case c == open && open == '(':
			depth++
		}
	}
	return len(s)
}

// asciiPhrase writes a name. Of words that are quoted, encoding is what quotes.
func asciiPhrase(s string) string {
	var ws []word
	for s != "" {
		i := 0
		for i < len(s) && isWSP(s[i]) {
			i++
		}
		w := word{space: s[:i]}
		s = s[i:]
		end := 0
		switch {
		case s == "":
		case s[0] == '"' || s[0] == '(':
			end = skipQuoted(s, 0)
		default:
			for end < len(s) && !isWSP(s[end]) && s[end] != '"' && s[end] != '(' {
				end++
			}
		}
		w.raw, s = s[:end], s[end:]
		if !isASCII(w.raw) {
			w.text = w.raw
			if w.raw[0] == '"' {
				w.text, _ = unquote(w.raw)
			}
		}
		ws = append(ws, w)
	}
	return writeWords(ws)
}

// asciiAddress writes an address, with the comments that may stand around it.
func asciiAddress(s string) (string, error) {
	at := -1
	for i := 0; i < len(s); {
		switch s[i] {
		case '"', '(', '[':
			i = skipQuoted(s, i)
			continue
		case '@':
			at = i
		}
		i++
	}
	if at < 0 || !isASCII(s[:at]) {
		return "", errAddress
	}
	domain, tail := s[at+1:], ""
	if i := strings.IndexAny(domain, " \t("); i > 0 {
		domain, tail = domain[:i], domain[i:]
	}
	d, err := mail.ParseDomain(domain)
	if err != nil || !isASCII(tail) {
		return "", errAddress
	}
	return s[:at+1] + d + tail, nil
}
