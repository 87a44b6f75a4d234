// Package rrvs tells since when mailboxes have their owners (RFC 7293).
package rrvs

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler offers RRVS (RFC 7293): a sender names the moment at which it knew the
// owner of a mailbox, and the message is refused if the mailbox has had another
// owner since. So what is meant for one person, such as the means to reset a
// password, does not come to the next who gets the address.
//
// A table says since when. Of these keys the first that the table has counts:
//
//	bob+tag@example.org
//	bob@example.org
//	@example.org
//
// and beside it "example.org", for since when the domain has its owner. Values
// are dates (2024-04-03, which begins in UTC) or times of RFC 3339. A mailbox that
// had another owner later than the sender knew it is refused with 550 5.7.17, that
// of a domain with 550 5.7.18, and one of which the table knows nothing with 550
// 5.7.19. While the table fails, the recipient is to come again (451).
//
// What is relayed is not looked up unless the table has it: the relay agent passes
// the demand on. Senders who say ";R" get the message back where the next host does
// not know RRVS; for the others the demand becomes a header field. Such fields
// (Require-Recipient-Valid-Since) of messages that come in are heeded for the
// recipients that they name; if one is refused for that, so is the message.
//
// The handler must stand before those that take the recipient, and before aliases:
// a demand is about the address that the sender has named. Where it is met for
// that, it is not made of the addresses that an alias leads to.
type Handler struct {
	// TableRaw is the table. Default: none, as on a server that only relays.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// TagSeparator is what parts the tag from the local part. Default: "+".
	TagSeparator string `json:"tag_separator,omitempty"`

	table table
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.rrvs", New: func() caddy.Module { return new(Handler) }}
}

// Provision loads the table.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if h.TagSeparator == "" {
		h.TagSeparator = "+"
	}
	h.table, err = caddyopt.LoadModule[table](ctx, h, "TableRaw")
	return err
}

// KnowsOwners has the server offer RRVS.
func (*Handler) KnowsOwners() {}

// HandleRcpt settles the demand of RCPT's RRVS, if the table can.
func (h *Handler) HandleRcpt(ctx context.Context, _ *session.Transaction, r *mail.Recipient) error {
	if r.RRVS.IsZero() || r.Expanded {
		return nil
	}
	known, err := h.check(ctx, r.Address, r.RRVS)
	if known {
		r.RRVS, r.RRVSReject = time.Time{}, false // it is met
	}
	return err
}

var (
	errMailbox = mail.Refuse(550, "5.7.17", "the mailbox has had another owner since")
	errDomain  = mail.Refuse(550, "5.7.18", "the domain has had another owner since")
	errUnknown = mail.Refuse(550, "5.7.19", "it is not known since when the mailbox has its owner")
)

// check reports whether a mailbox is known to have had one owner since then. What
// it is known not to have had is an error.
func (h *Handler) check(ctx context.Context, a mail.Address, then time.Time) (known bool, err error) {
	if h.table == nil {
		return false, nil
	}
	since, ok, err := h.since(ctx, a.Domain)
	if err != nil {
		return false, err
	}
	if ok && since.After(then) {
		return false, errDomain
	}
	keys := []string{a.String(), "@" + a.Domain}
	if base, tag := a.Tag(h.TagSeparator); tag != "" {
		keys = []string{keys[0], mail.Address{Local: base, Domain: a.Domain}.String(), keys[1]}
	}
	for _, key := range keys {
		since, ok, err := h.since(ctx, key)
		switch {
		case err != nil:
			return false, err
		case ok && since.After(then):
			return false, errMailbox
		case ok:
			return true, nil
		}
	}
	return false, nil
}

// since looks a key up.
func (h *Handler) since(ctx context.Context, key string) (t time.Time, ok bool, err error) {
	values, ok, err := h.table.Lookup(ctx, key)
	if err != nil || !ok {
		return t, false, err
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if len(values) == 1 {
			if t, err = time.Parse(layout, strings.ToUpper(strings.TrimSpace(values[0]))); err == nil {
				return t, true, nil
			}
		}
	}
	return t, false, fmt.Errorf("rrvs: %s: %q is not one date, nor a time of RFC 3339", key, values)
}

// HandleMessage heeds the header fields.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	if h.table == nil {
		return nil
	}
	for _, v := range m.Header.Values(field) {
		a, then, ok := parse(v)
		if !ok {
			continue
		}
		for _, r := range tx.Envelope.Recipients {
			if g := r.Given; g.Domain != a.Domain || !strings.EqualFold(g.Local, a.Local) {
				continue
			}
			known, err := h.check(ctx, a, then)
			if err == nil && !known && !tx.Session.PassesOn(r.Agent) {
				err = errUnknown
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	rrvs [<table...>]
//	rrvs {
//		table         <table...>
//		tag_separator <string>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	d.Next()
	if d.NextArg() {
		h.TableRaw, err = caddyopt.Guest(d, "smtp.tables", "table")
		return err
	}
	return caddyopt.Block(d, caddyopt.Table{
		"table":         caddyopt.Module("smtp.tables", "table", &h.TableRaw),
		"tag_separator": caddyopt.String(&h.TagSeparator),
	})
}

var (
	_ session.RcptHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
