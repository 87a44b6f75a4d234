// Package senderlogin holds users to the addresses that are theirs.
package senderlogin

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler lets users who logged in send only under addresses of their own. The
// reverse-path is checked at MAIL (553 5.7.1), and each address in From, Sender,
// Resent-From and Resent-Sender when the message is complete (550 5.7.1). A
// header that programs read differently, with two From fields or a group or
// encoded addresses, is refused whomever it names. Clients without a login are
// none of its business.
//
// An address is the user's own if one of these says so:
//
//   - his login is that address (see Login);
//   - Own, with his name put in, matches it;
//   - the table has it, or a pattern that matches it, under his name;
//   - the credential source that knows him lists it.
//
// Domains compare as A-labels and without case, local parts without case.
type Handler struct {
	// Login says that a user whose login is an address owns that. Default: true.
	Login *bool `json:"login,omitempty"`

	// Own are addresses or patterns with placeholders:
	// "{smtp.auth.user}@example.org", "*@{smtp.auth.attr.domain}".
	Own []string `json:"own,omitempty"`

	// TableRaw is a table from users to their addresses. "*@example.org" and
	// "@example.org" are all of a domain.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// DelegatesRaw is a table from users to addresses of others that they may
	// send for. From may be such a one if Sender is the user's own; Sender is
	// added if it is missing.
	DelegatesRaw json.RawMessage `json:"delegates,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// Subaddress, if not empty, parts tags from local parts: with "+", who owns
	// alice@example.org may send as alice+lists@example.org. Default: none.
	Subaddress string `json:"subaddress,omitempty"`

	// NullSender allows the null reverse-path, which mail programs use for read
	// receipts. Default: true.
	NullSender *bool `json:"null_sender,omitempty"`

	// Resent lets users resend the mail of others (RFC 5322, section 3.6.6): if
	// the latest block of Resent fields is theirs, From, Sender and older
	// blocks may be anybody's. Default: false.
	Resent bool `json:"resent,omitempty"`

	// Otherwise is what to do with other senders. "refuse" refuses. "rewrite"
	// puts the user's primary address into reverse-path and From, keeps what
	// From was as X-Original-From, and has answers go there by Reply-To.
	// "add_sender" leaves From, but says in reverse-path and Sender who it was.
	// The primary address is the login if it is one he owns, or else the first
	// full address of the credential source, of Own, or of the table. Who has
	// none is refused, and so are Resent fields of others. Default: "refuse".
	Otherwise string `json:"otherwise,omitempty"`

	// Annotate refuses and changes nothing: it logs what would have been
	// refused, and notes it as the result "x-sender-login" with the value "fail".
	// Default: false.
	Annotate bool `json:"annotate,omitempty"`

	table, delegates table
	log              *slog.Logger
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// What to do otherwise.
const (
	refuse    = "refuse"
	rewrite   = "rewrite"
	addSender = "add_sender"
)

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.sender_login", New: func() caddy.Module { return new(Handler) }}
}

// Provision loads the tables.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	h.log = plainlog.New(ctx.Slogger())
	if h.Otherwise == "" {
		h.Otherwise = refuse
	}
	if h.table, err = caddyopt.LoadModule[table](ctx, h, "TableRaw"); err != nil {
		return err
	}
	h.delegates, err = caddyopt.LoadModule[table](ctx, h, "DelegatesRaw")
	return err
}

// Validate checks the options.
func (h *Handler) Validate() error {
	switch h.Otherwise {
	case refuse, rewrite, addSender:
	default:
		return fmt.Errorf("sender_login: '%s' is not refuse, rewrite or add_sender", h.Otherwise)
	}
	if !on(h.Login) && len(h.Own) == 0 && h.table == nil && h.DelegatesRaw != nil {
		return fmt.Errorf("sender_login: delegates need an address of their own")
	}
	for _, p := range h.Own {
		if err := checkOwn(p); err != nil {
			return err
		}
	}
	return nil
}

// checkOwn checks what can be known of a pattern before a user is put into it.
func checkOwn(p string) error {
	if !strings.Contains(p, "{") {
		if _, err := prepare(p); err != nil {
			return fmt.Errorf("sender_login: %w", err)
		}
	}
	return nil
}

func on(b *bool) bool { return b == nil || *b }

// OnlyAnnotates says whether it refuses nothing.
func (h *Handler) OnlyAnnotates() bool { return h.Annotate }

// HandleMail checks the reverse-path.
func (h *Handler) HandleMail(ctx context.Context, tx *session.Transaction) error {
	user, from := tx.Session.User, tx.Envelope.From
	switch {
	case user == "":
		return nil
	case from.IsNull() && on(h.NullSender):
		return nil
	}
	r, err := h.rights(ctx, tx)
	if err != nil {
		return err
	}
	if r.owns(from) || r.mayUse(from) {
		return nil
	}
	if h.Otherwise != refuse && !r.primary.IsNull() && !from.IsNull() && !h.Annotate {
		h.log.Info("sender rewritten", "transaction", tx.ID, "user", user, "from", from.String(), "to", r.primary.String())
		tx.Envelope.From = r.primary
		return nil
	}
	return h.refuse(tx, r.faulty, 553, fmt.Sprintf("%s is not an address of %s", from.Path(), user))
}

// HandleMessage checks From, Sender and the Resent fields.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	if tx.Session.User == "" || tx.Session.Internal() {
		return nil
	}
	r, err := h.rights(ctx, tx)
	if err != nil {
		return err
	}
	c := h.check(m.Header, r)
	switch {
	case c.fault == "":
		if c.needsSender && !h.Annotate {
			m.Header.Append("Sender", r.primary.String())
		}
		return nil
	case h.Otherwise != refuse && c.curable && !r.primary.IsNull() && !h.Annotate:
		if h.cure(m.Header, r, c) {
			h.log.Info("originator rewritten", "transaction", tx.ID, "user", tx.Session.User, "fault", c.fault)
			return nil
		}
	}
	if !c.clear {
		r.faulty = nil // it would not matter
	}
	return h.refuse(tx, r.faulty, 550, c.fault)
}

// refuse returns the reply, or notes it. It may be our own fault, where a table
// has what is no address.
func (h *Handler) refuse(tx *session.Transaction, ours error, code int, why string) error {
	if h.Annotate {
		h.log.Info("would be refused", "transaction", tx.ID, "user", tx.Session.User, "fault", why)
		tx.Results = append(tx.Results, session.Result{Method: "x-sender-login", Value: "fail", Reason: why, Private: true})
		return nil
	}
	if ours != nil {
		return ours
	}
	return mail.Refuse(code, "5.7.1", "%s", why)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	sender_login [<own...>] {
//		own         <address|pattern...>
//		table       <table...>
//		delegates   <table...>
//		login       off
//		subaddress  <separator>
//		null_sender off
//		resent
//		otherwise   refuse|rewrite|add_sender
//		annotate
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	h.Own = d.RemainingArgs()
	err := caddyopt.Block(d, caddyopt.Table{
		"own":         caddyopt.Strings(&h.Own),
		"table":       caddyopt.Module("smtp.tables", "table", &h.TableRaw),
		"delegates":   caddyopt.Module("smtp.tables", "table", &h.DelegatesRaw),
		"login":       caddyopt.OnOffUnset(&h.Login),
		"subaddress":  caddyopt.String(&h.Subaddress),
		"null_sender": caddyopt.OnOffUnset(&h.NullSender),
		"resent":      caddyopt.Flag(&h.Resent),
		"otherwise":   caddyopt.String(&h.Otherwise),
		"annotate":    caddyopt.Flag(&h.Annotate),
	})
	if err != nil {
		return err
	}
	for _, p := range h.Own {
		if err := checkOwn(p); err != nil {
			return d.WrapErr(err)
		}
	}
	switch h.Otherwise {
	case "", refuse, rewrite, addSender:
		return nil
	}
	return d.Errf("'%s' is not refuse, rewrite or add_sender", h.Otherwise)
}

var (
	_ session.MailHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddy.Validator        = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
