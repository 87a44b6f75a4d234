// Package lookup matches what a table has.
package lookup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches if a table has what it is asked for, as a key with values or
// without. While the table fails, so does the command, for the time being.
type Matcher struct {
	// Subject is what to look up: remote_ip, helo, user, mail_from,
	// mail_from_domain, rcpt or rcpt_domain. An address is looked up as itself.
	// Of domains the parents are looked up too, with a dot in front:
	// a.example.org, .example.org, .org. Internationalised ones are looked up
	// as A-labels. The null reverse-path is "<>".
	Subject string `json:"subject,omitempty"`

	// TableRaw is the table.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	table table
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// subjects are what can be looked up.
var subjects = map[string]struct {
	stage session.Stage
	keys  func(at *session.Point) []string
}{
	"remote_ip": {session.StageConnect, func(at *session.Point) []string {
		if ip := at.Session.RemoteIP(); ip.IsValid() {
			return []string{ip.WithZone("").String()}
		}
		return nil
	}},
	"helo":             {session.StageHello, func(at *session.Point) []string { return domains(at.Session.Hello) }},
	"user":             {session.StageMail, func(at *session.Point) []string { return one(at.Session.User) }},
	"mail_from":        {session.StageMail, func(at *session.Point) []string { return address(at.Transaction.Envelope.From) }},
	"mail_from_domain": {session.StageMail, func(at *session.Point) []string { return domains(at.Transaction.Envelope.From.Domain) }},
	"rcpt":             {session.StageRcpt, func(at *session.Point) []string { return address(at.Recipient.Address) }},
	"rcpt_domain":      {session.StageRcpt, func(at *session.Point) []string { return domains(at.Recipient.Address.Domain) }},
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func address(a mail.Address) []string {
	if a.IsNull() {
		return []string{"<>"}
	}
	return []string{a.String()}
}

// domains are a domain and its parents. An address literal has none.
func domains(d string) []string {
	keys := one(d)
	if strings.HasPrefix(d, "[") {
		return keys
	}
	for {
		_, parent, ok := strings.Cut(d, ".")
		if !ok || len(keys) > 32 {
			return keys
		}
		keys, d = append(keys, "."+parent), parent
	}
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.lookup", New: func() caddy.Module { return new(Matcher) }}
}

// Provision loads the table.
func (m *Matcher) Provision(ctx caddy.Context) (err error) {
	if _, ok := subjects[m.Subject]; !ok {
		return fmt.Errorf("lookup: '%s' cannot be looked up", m.Subject)
	}
	if m.table, err = caddyopt.LoadModule[table](ctx, m, "TableRaw"); err == nil && m.table == nil {
		err = errors.New("lookup: no table")
	}
	return err
}

// Stage is that of its subject.
func (m *Matcher) Stage() session.Stage { return subjects[m.Subject].stage }

// PerRecipient says whether the subject is the recipient.
func (m *Matcher) PerRecipient() bool { return m.Stage() == session.StageRcpt }

// Match reports whether the table has the subject.
func (m *Matcher) Match(ctx context.Context, at *session.Point) (bool, error) {
	for _, k := range subjects[m.Subject].keys(at) {
		if _, ok, err := m.table.Lookup(ctx, k); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	lookup <subject> <table...>
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if m.Subject != "" {
			return d.Err("lookup is given twice; make it two named matchers, or use a table that is a chain")
		}
		if !d.Args(&m.Subject) {
			return d.ArgErr()
		}
		if _, ok := subjects[m.Subject]; !ok {
			return d.Errf("'%s' cannot be looked up", m.Subject)
		}
		if err := caddyopt.Module("smtp.tables", "table", &m.TableRaw)(d); err != nil {
			return err
		}
	}
	return nil
}

var (
	_ session.Matcher          = (*Matcher)(nil)
	_ session.RecipientMatcher = (*Matcher)(nil)
	_ caddy.Provisioner        = (*Matcher)(nil)
	_ caddyfile.Unmarshaler    = (*Matcher)(nil)
)
