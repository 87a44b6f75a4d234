package originator

import (
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/bidi"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// name returns a display name as it is shown. Encoded words are decoded even
// where they must not be, in quotes, since readers do so.
func (p *parser) name(raw string) string {
	var b strings.Builder
	l := lexer{s: raw}
	for t := l.next(); t.kind != tokenEnd; t = l.next() {
		if b.Len() > 0 && t.gap != gapNone {
			b.WriteByte(' ')
		}
		if t.kind == tokenQuoted {
			unquote(&b, raw[t.start+1:t.end-1])
		} else {
			b.WriteString(raw[t.start:t.end])
		}
	}
	s := b.String()
	if strings.Contains(s, "=?") {
		d := mime.WordDecoder{CharsetReader: ascii}
		if dec, err := d.DecodeHeader(s); err == nil {
			s = dec
		}
	}
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if strings.ToValidUTF8(s, "\uFFFD") != clean {
		p.problem(Control, "control character in a display name")
	}
	return strings.TrimSpace(clean)
}

func unquote(b *strings.Builder, s string) {
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
}

// ascii reads a charset that Go does not know as ASCII, which most are that
// e-mail has: enough to find an address in it.
func ascii(_ string, in io.Reader) (io.Reader, error) {
	b, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	for _, c := range b {
		if c < utf8.RuneSelf {
			out.WriteByte(c)
		} else {
			out.WriteRune(utf8.RuneError)
		}
	}
	return strings.NewReader(out.String()), nil
}

// deceives reports whether a display name shows an address other than a, or
// turns the direction of what follows.
func deceives(name string, a mail.Address) bool {
	if strings.ContainsFunc(name, turns) {
		return true
	}
	name = strings.NewReplacer("\uFF20", "@", "\uFE6B", "@").Replace(name)
	for i := 0; i < len(name); i++ {
		if name[i] != '@' {
			continue
		}
		start := strings.LastIndexFunc(name[:i], apart) + 1
		if start > 0 {
			_, n := utf8.DecodeRuneInString(name[start-1:])
			start += n - 1
		}
		end := i + 1
		if n := strings.IndexFunc(name[end:], apart); n >= 0 {
			end += n
		} else {
			end = len(name)
		}
		shown := strings.Trim(name[start:end], ".")
		b, err := mail.ParseAddress(shown)
		if err == nil && b.Domain == a.Domain && strings.EqualFold(b.Local, a.Local) {
			continue
		}
		if _, dom, ok := strings.Cut(shown, "@"); ok && shown[0] != '@' && (err == nil || strings.Contains(dom, ".")) {
			return true
		}
		i = end - 1
	}
	return false
}

// apart reports what may stand around an address in running text.
func apart(r rune) bool {
	return r <= ' ' || r >= 0x2000 && r <= 0x200f || r == 0xa0 || r == 0x3000 || strings.ContainsRune("<>()[]{},;:\"'`|", r)
}

// turns reports the characters that change the direction of a text by force.
func turns(r rune) bool {
	if r < utf8.RuneSelf {
		return false
	}
	p, _ := bidi.LookupRune(r)
	switch p.Class() {
	case bidi.LRO, bidi.RLO, bidi.LRE, bidi.RLE, bidi.LRI, bidi.RLI, bidi.FSI:
		return true
	}
	return false
}
