// Package rewrite changes addresses of the envelope.
package rewrite

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler changes the reverse-path, or the address of each recipient. It leaves
// the null reverse-path and the header alone.
type Handler struct {
	// What is the address to change: "from" or "rcpt".
	What string `json:"what,omitempty"`

	// Rules are tried in order; the first that fits is applied.
	Rules []*Rule `json:"rules,omitempty"`

	// TableRaw is a table that is asked when no rule fits: for the address, then
	// for "@" and its domain. The first value is the new address, as in a rule.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	table table
}

// Rule replaces addresses.
type Rule struct {
	// Find is a pattern such as "*@old.example", in which "*" stands for any run
	// of characters.
	Find string `json:"find,omitempty"`

	// Replace is the new address. "*" in the place of the local part or of the
	// domain keeps that of the old one: "*@new.example".
	Replace string `json:"replace,omitempty"`
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.rewrite", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the rules and loads the table.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	for _, r := range h.Rules {
		find := []string{r.Find}
		if err := pattern.Addresses(find); err != nil {
			return fmt.Errorf("rewrite: %w", err)
		}
		r.Find = find[0]
		if _, err := replace(mail.Address{Local: "x", Domain: "x.example"}, r.Replace); err != nil {
			return fmt.Errorf("rewrite: '%s': %w", r.Replace, err)
		}
	}
	h.table, err = caddyopt.LoadModule[table](ctx, h, "TableRaw")
	return err
}

// Validate checks that there is something to do.
func (h *Handler) Validate() error {
	if h.What != "from" && h.What != "rcpt" {
		return fmt.Errorf("rewrite: '%s' is neither from nor rcpt", h.What)
	}
	if len(h.Rules) == 0 && h.table == nil {
		return fmt.Errorf("rewrite: neither a rule nor a table")
	}
	return nil
}

// StartsAt is the one stage at which it acts.
func (h *Handler) StartsAt(session.Stage, bool) session.Stage {
	if h.What == "from" {
		return session.StageMail
	}
	return session.StageRcpt
}

// HandleMail rewrites the reverse-path.
func (h *Handler) HandleMail(ctx context.Context, tx *session.Transaction) error {
	if h.What != "from" || tx.Envelope.From.IsNull() {
		return nil
	}
	a, ok, err := h.rewrite(ctx, tx.Envelope.From)
	if ok {
		tx.Envelope.From = a
	}
	return err
}

// HandleRcpt rewrites the recipient.
func (h *Handler) HandleRcpt(ctx context.Context, _ *session.Transaction, r *mail.Recipient) error {
	if h.What != "rcpt" {
		return nil
	}
	a, ok, err := h.rewrite(ctx, r.Address)
	if ok {
		r.Rewrite(a)
	}
	return err
}

// rewrite returns what a becomes, and whether that is something else.
func (h *Handler) rewrite(ctx context.Context, a mail.Address) (mail.Address, bool, error) {
	to, err := h.replacement(ctx, a)
	if to == "" || err != nil {
		return a, false, err
	}
	b, err := replace(a, to)
	if err != nil {
		return a, false, fmt.Errorf("rewrite %s to '%s': %w", a, to, err)
	}
	return b, a != b, nil
}

func (h *Handler) replacement(ctx context.Context, a mail.Address) (string, error) {
	for _, r := range h.Rules {
		if pattern.HasAddress([]string{r.Find}, a) {
			return r.Replace, nil
		}
	}
	if h.table == nil {
		return "", nil
	}
	for _, k := range []string{a.String(), "@" + a.Domain} {
		if v, ok, err := h.table.Lookup(ctx, k); err != nil || ok && len(v) > 0 {
			return strings.Join(v[:min(len(v), 1)], ""), err
		}
	}
	return "", nil
}

// replace returns the address that to makes of a.
func replace(a mail.Address, to string) (mail.Address, error) {
	i := strings.LastIndexByte(to, '@')
	if i < 0 {
		return a, fmt.Errorf("%w: no domain", mail.ErrSyntax)
	}
	local, dom := to[:i], to[i+1:]
	b := a
	var err error
	if dom != "*" {
		if b.Domain, err = mail.ParseDomain(dom); err != nil {
			return a, err
		}
	}
	if local != "*" {
		p, err := mail.ParseAddress(local + "@x.example")
		if err != nil {
			return a, err
		}
		b.Local = p.Local
	}
	_, err = mail.ParseAddress(b.String()) // they may be too long together
	return b, err
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. What holds an
// "@" is a rule, anything else a table. Syntax:
//
//	rewrite <from|rcpt> <find> <replace>
//	rewrite <from|rcpt> <table...>
//	rewrite <from|rcpt> {
//		<find> <replace>
//		table  <table...>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	d.Next()
	if !d.Args(&h.What) {
		return d.ArgErr()
	}
	if h.What != "from" && h.What != "rcpt" {
		return d.Errf("'%s' is neither from nor rcpt", h.What)
	}
	switch {
	case !d.NextArg():
		return h.block(d)
	case strings.Contains(d.Val(), "@"):
		if err := h.rule(d); err != nil {
			return err
		}
		return caddyopt.End(d)
	}
	h.TableRaw, err = caddyopt.Guest(d, "smtp.tables", "table")
	return err
}

func (h *Handler) block(d *caddyfile.Dispenser) error {
	err := caddyopt.Block(d, caddyopt.Table{
		"table": caddyopt.Module("smtp.tables", "table", &h.TableRaw),
		"":      h.rule,
	})
	if err == nil && len(h.Rules) == 0 && h.TableRaw == nil {
		err = d.ArgErr()
	}
	return err
}

func (h *Handler) rule(d *caddyfile.Dispenser) error {
	r := &Rule{Find: d.Val()}
	if !strings.Contains(r.Find, "@") {
		return d.Errf("unrecognized option '%s'", r.Find)
	}
	if !d.AllArgs(&r.Replace) {
		return d.ArgErr()
	}
	h.Rules = append(h.Rules, r)
	return nil
}

var (
	_ session.MailHandler   = (*Handler)(nil)
	_ session.RcptHandler   = (*Handler)(nil)
	_ session.Starter       = (*Handler)(nil)
	_ caddy.Provisioner     = (*Handler)(nil)
	_ caddy.Validator       = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
