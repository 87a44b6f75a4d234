package dsn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"
	"sync"
	"text/template"
	"time"
	"unicode"
)

// Bounds of what a template writes: the text in octets, the subject in
// characters.
const (
	maxLetter  = 64 << 10
	maxSubject = 200
)

// A Template writes the part of a notification that people read, and by its
// template "subject", if it has one, the subject.
type Template struct {
	// Language is what it writes (RFC 5646), "" if nobody has said.
	Language string

	t *template.Template
}

// ParseTemplate parses a Go text/template to take the place of DefaultText. Its
// data is a *Letter. Besides Go's own functions it has contains, hasPrefix,
// hasSuffix, join, replace, lower, upper, trim, indent and wrap, with arguments
// in the order of those that Caddy's templates have.
//
// It is tried on notifications of all kinds, so that what it writes about fields
// that do not exist is an error here. Errors have the name and the line.
func ParseTemplate(name, text string) (*Template, error) {
	t, err := template.New(name).Funcs(functions()).Parse(text)
	if err != nil {
		return nil, err
	}
	p := &Template{t: t}
	for _, l := range samples() {
		if _, err := p.write(l); err != nil {
			return nil, fmt.Errorf("of mail that is %s: %w", l.Action, err)
		}
	}
	return p, nil
}

// functions are those that a template has. None of them leaves the template.
func functions() template.FuncMap {
	return template.FuncMap{
		"contains":  func(part, s string) bool { return strings.Contains(s, part) },
		"hasPrefix": func(part, s string) bool { return strings.HasPrefix(s, part) },
		"hasSuffix": func(part, s string) bool { return strings.HasSuffix(s, part) },
		"join":      func(between string, ss []string) string { return strings.Join(ss, between) },
		"replace":   func(from, to, s string) string { return strings.ReplaceAll(s, from, to) },
		"lower":     strings.ToLower,
		"upper":     strings.ToUpper,
		"trim":      strings.TrimSpace,
		"indent": func(columns int, s string) (string, error) {
			if columns < 0 || columns > wrapColumns {
				return "", fmt.Errorf("indent by %d columns", columns)
			}
			by := strings.Repeat(" ", columns)
			return by + strings.ReplaceAll(s, "\n", "\n"+by), nil
		},
		"wrap": func(columns int, s string) string { return strings.Join(wrapTo(columns, s), "\n") },
	}
}

// defaultTemplate is DefaultText.
var defaultTemplate = sync.OnceValues(func() (*Template, error) { return ParseTemplate("built-in", DefaultText) })

// words are what a template writes, fit to be sent.
type words struct {
	text     []byte // lines of UTF-8 that end with CRLF
	subject  string // a field's value in ASCII
	language string
}

// words are written by the template. One that fails gives way to DefaultText: its
// author's mistake must not cost the sender his notification. So does one that
// has no subject, for that.
func (r *Report) words() (words, error) {
	l := r.letter()
	def, err := defaultTemplate()
	if err != nil {
		return words{}, err
	}
	standard, err := def.write(l)
	if r.Template == nil || err != nil {
		return standard, err
	}
	own, err := r.Template.write(l)
	if err != nil {
		if r.Log != nil {
			r.Log.Error("the template of DSNs fails, the built-in text is sent", "error", err)
		}
		return standard, nil
	}
	if own.subject == "" {
		own.subject = standard.subject
	}
	own.language = r.Template.Language
	return own, nil
}

var (
	errTooLong = fmt.Errorf("more than %d octets of text", maxLetter)
	errEmpty   = errors.New("no text")
)

// write has the template write about l.
func (t *Template) write(l *Letter) (w words, err error) {
	defer func() {
		if v := recover(); v != nil { // text/template does not expect one of its own faults
			err = fmt.Errorf("template: %s: panic: %v", t.t.Name(), v)
		}
	}()
	var b bytes.Buffer
	if err := t.t.Execute(&limited{&b}, l); err != nil {
		return w, err
	}
	text := printable(b.String())
	if strings.TrimSpace(text) == "" {
		return w, fmt.Errorf("template: %s: %w", t.t.Name(), errEmpty)
	}
	w.text = crlf(text)
	if s := t.t.Lookup("subject"); s != nil {
		b.Reset()
		if err := s.Execute(&limited{&b}, l); err != nil {
			return w, err
		}
		w.subject = encodedLine(b.String())
	}
	return w, nil
}

// printable is text without what is neither printed nor the end of a line.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) && c != '\n' && c != '\r' && c != '\t' {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

// encodedLine makes text a header field's value: one line, not too long, with
// encoded words where it needs them (RFC 2047). None is in it that we did not
// make.
func encodedLine(s string) string {
	s = strings.Join(strings.Fields(wide.plain(s)), " ")
	if rs := []rune(s); len(rs) > maxSubject {
		s = strings.TrimSpace(string(rs[:maxSubject])) + "..."
	}
	return mime.QEncoding.Encode("utf-8", strings.ReplaceAll(s, "=?", "= ?"))
}

// limited is a buffer that does not take everything.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > maxLetter {
		return 0, errTooLong
	}
	return l.b.Write(p)
}

var _ io.Writer = (*limited)(nil)

// samples are letters of all kinds, on which templates are tried.
func samples() (ls []*Letter) {
	now := moment(time.Date(2026, time.January, 5, 10, 0, 0, 0, time.UTC))
	base := Letter{
		Hostname: "mx.example.org", Postmaster: "postmaster@example.org", Sender: "alice@example.org",
		Subject: "Hello", EnvelopeID: "QQ314159", Arrived: now,
	}
	for a := range actions {
		l := base
		l.Action = a.String()
		line := Line{Address: "bob@example.net", Action: l.Action, Status: "2.0.0", Tried: now, Advice: []string{"Advice."}}
		if a == Failed || a == Delayed {
			line.Status, line.Remote, line.Reply, line.Words = "5.1.1", "mx.example.net", "550 5.1.1 no such user", []string{"550 5.1.1 no such user"}
		}
		if a == Delayed {
			line.Until = now
		}
		l.add(a, line)
		ls = append(ls, &l)
	}
	double := base
	double.Action, double.Double, double.Sender, double.EnvelopeID, double.Subject, double.Arrived = Failed.String(), true, "", "", "", nil
	double.add(Failed, Line{Address: "bob@example.net", Action: double.Action, Status: "5.0.0"})
	return append(ls, &double)
}
