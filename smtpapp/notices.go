package smtpapp

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/watchfile"
)

// maxTemplate bounds a file with a template, in octets.
const maxTemplate = 64 << 10

// DSNTemplate is a text of DSNs in a file: a Go template (text/template) with the
// fields of dsn.Letter. It is read again soon after it has changed; while a new
// version has an error, the old one stays in force.
type DSNTemplate struct {
	// Language is what the file writes, as a tag of RFC 5646 such as "de". It is
	// for senders whose messages say Accept-Language or Content-Language so. The
	// file without a language is for all others.
	Language string `json:"language,omitempty"`

	// File is the path of the template.
	File string `json:"file,omitempty"`

	file *watchfile.File[*dsn.Template]
}

func (t *DSNTemplate) open(ctx caddy.Context, repl *caddy.Replacer) (err error) {
	if t.File, err = repl.ReplaceOrErr(t.File, true, true); err != nil {
		return err
	}
	t.file, err = watchfile.Open(t.File, maxTemplate, func(b []byte) (*dsn.Template, error) {
		p, err := dsn.ParseTemplate(t.File, string(b))
		if err == nil {
			p.Language = t.Language
		}
		return p, err
	}, plainlog.New(ctx.Slogger()))
	return err
}

// dsnTemplates are all of a configuration's.
type dsnTemplates struct {
	others    *DSNTemplate // nil for the built-in text
	named     []*DSNTemplate
	languages *dsn.Languages
}

func (q *Queue) provisionTemplates(ctx caddy.Context) error {
	ts, repl := new(dsnTemplates), caddy.NewReplacer()
	var tags []string
	for i := range q.DSNTemplates {
		t := &q.DSNTemplates[i]
		if err := t.open(ctx, repl); err != nil {
			return fmt.Errorf("dsn_template: %w", err)
		}
		switch {
		case t.Language != "":
			tags, ts.named = append(tags, t.Language), append(ts.named, t)
		case ts.others != nil:
			return errors.New("dsn_template: two files have no language")
		default:
			ts.others = t
		}
	}
	var err error
	if ts.languages, err = dsn.ParseLanguages(tags); err != nil {
		return fmt.Errorf("dsn_template: %w", err)
	}
	q.templates = ts
	return nil
}

// of is the template for whoever has sent a message.
func (ts *dsnTemplates) of(h *message.Header) *dsn.Template {
	if h != nil {
		if i := ts.languages.Of(h); i >= 0 {
			return ts.named[i].file.Value()
		}
	}
	if ts.others != nil {
		return ts.others.file.Value()
	}
	return nil
}

// provisionDSNs checks what the configuration says about DSNs.
func (a *App) provisionDSNs() error {
	q := &a.Queue
	if q.DSNContent > dsn.MaxReturned {
		return fmt.Errorf("queue: dsn_content is more than %d octets", dsn.MaxReturned)
	}
	switch q.DoubleFailure {
	case "", "drop":
	case "postmaster":
		q.double = a.postmaster()
	default:
		var err error
		if q.double, err = mail.ParseAddress(q.DoubleFailure); err != nil {
			return fmt.Errorf("queue: double_failure is drop, postmaster or an address: %w", err)
		}
	}
	if err := q.provisionTemplates(a.ctx); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// notices are what DSNs are like.
func (q *Queue) notices() queue.Notices {
	return queue.Notices{Template: q.templates.of, Returned: q.DSNContent, Double: q.double}
}
