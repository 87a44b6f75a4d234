package dsn

import (
	"fmt"

	"golang.org/x/text/language"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// maxLanguages bounds what is read of a field with languages, in octets.
const maxLanguages = 200

// Languages are those in which there are texts.
type Languages struct {
	matcher language.Matcher
	n       int
}

// ParseLanguages reads tags (RFC 5646), such as "de" or "pt-BR", of which no two
// are the same.
func ParseLanguages(tags []string) (*Languages, error) {
	seen := map[language.Tag]bool{}
	var ts []language.Tag
	for _, s := range tags {
		t, err := language.Parse(s)
		switch {
		case err != nil || t == language.Und:
			return nil, fmt.Errorf("'%s' is not a language tag, such as de or pt-BR", s)
		case seen[t]:
			return nil, fmt.Errorf("language %s stands twice", s)
		}
		seen[t] = true
		ts = append(ts, t)
	}
	return &Languages{language.NewMatcher(ts), len(ts)}, nil
}

// Of returns the index of the language that the sender of a message reads, by
// what his mail program says of it: Accept-Language, which some write, else
// Content-Language (RFC 3282). It returns -1 if there is none that he reads.
func (l *Languages) Of(h *message.Header) int {
	for _, name := range []string{"Accept-Language", "Content-Language"} {
		v := h.Get(name)
		if v == "" || len(v) > maxLanguages {
			continue
		}
		wanted, _, err := language.ParseAcceptLanguage(v)
		if err != nil || len(wanted) == 0 {
			continue
		}
		if _, i, c := l.matcher.Match(wanted...); l.n > 0 && c >= language.High {
			return i
		}
		return -1
	}
	return -1
}
