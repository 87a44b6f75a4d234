package dsn

import (
	"bytes"
	"strings"
	"text/template"
	"time"
)

// DefaultText is the template of the part that people read.
const DefaultText = `This is the mail system at {{.Hostname}}.
{{if .Failed}}
Your message{{with .Subject}} "{{.}}"{{end}} could not be delivered to:
{{range .Failed}}
    {{.Address}}
{{template "words" .}}{{end}}{{end}}{{if .Delayed}}
Your message{{with .Subject}} "{{.}}"{{end}} has not been delivered yet to:
{{range .Delayed}}
    {{.Address}}
{{template "words" .}}{{end}}{{end}}{{if .Done}}
Your message{{with .Subject}} "{{.}}"{{end}} was delivered or passed on to:
{{range .Done}}
    {{.Address}}
{{template "words" .}}{{end}}{{end}}{{if .Failed}}
For help, write to {{.Postmaster}} and include this notification.
{{end}}
{{- define "words"}}{{if .Words}}
    {{if .Remote}}{{.Remote}} said:{{else}}Reason:{{end}}
{{range .Words}}        {{.}}
{{end}}{{end}}{{if .Advice}}
{{range .Advice}}    {{.}}
{{end}}{{end}}{{with .Until}}
    We keep trying until {{.}}.
{{end}}{{end}}`

// A Letter is what a template is given. All of it is safe to write as it is:
// single lines of printing characters.
type Letter struct {
	Hostname   string
	Postmaster string
	Subject    string // of the message reported on; "" if it has none to show
	Arrived    string // when it was accepted; "" if unknown
	Failed     []Line
	Delayed    []Line
	Done       []Line // delivered, relayed, expanded
}

// A Line is what a template is told of one recipient.
type Line struct {
	Address string
	Action  string
	Status  string   // enhanced status code
	Remote  string   // the host that answered, "" if it was this one
	Words   []string // its reply, wrapped
	Advice  []string // what the sender can do, wrapped
	Until   string   // when a delayed message is given up
}

// ParseTemplate parses a text to take the place of DefaultText. Its data is a
// Letter.
func ParseTemplate(text string) (*template.Template, error) {
	return template.New("dsn").Parse(text)
}

// text writes the part that people read. A template that fails gives way to
// DefaultText: its author's mistake must not cost the sender his notification.
func (r *Report) text() ([]byte, error) {
	l := r.letter()
	if r.Template != nil {
		var b bytes.Buffer
		if err := r.Template.Execute(&b, l); err == nil {
			return crlf(b.String()), nil
		}
	}
	t, err := ParseTemplate(DefaultText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, l)
	return crlf(b.String()), err
}

// crlf ends lines with CRLF, whatever a template ends them with.
func crlf(s string) []byte {
	s = strings.NewReplacer("\r\n", "\r\n", "\n", "\r\n", "\r", "\r\n").Replace(s)
	if !strings.HasSuffix(s, "\r\n") {
		s += "\r\n"
	}
	return []byte(s)
}

func (r *Report) letter() Letter {
	l := Letter{Hostname: wide.plain(r.Hostname), Postmaster: r.from().Unicode(), Arrived: date(r.Arrived)}
	if r.Content != nil {
		l.Subject = decoded(r.Content.Header.Get("Subject"))
	}
	for i := range r.Recipients {
		rc := &r.Recipients[i]
		switch line := rc.line(); rc.Action {
		case Failed:
			l.Failed = append(l.Failed, line)
		case Delayed:
			l.Delayed = append(l.Delayed, line)
		default:
			l.Done = append(l.Done, line)
		}
	}
	return l
}

func (r *Recipient) line() Line {
	l := Line{
		Address: wide.plain(r.address().Unicode()),
		Action:  r.Action.String(),
		Status:  r.status(),
		Remote:  wide.plain(r.RemoteMTA),
		Advice:  wrap(r.advice()),
	}
	if r.Reply != nil && (r.Action == Failed || r.Action == Delayed) {
		l.Words = wrap(wide.plain(r.Reply.Error()))
	}
	if r.Action == Delayed {
		l.Until = date(r.Until)
	}
	return l
}

func date(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(dateFormat)
}
