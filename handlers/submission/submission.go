// Package submission completes what mail programs submit.
package submission

import (
	"context"
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

// Handler does for submitted mail what RFC 6409 leaves to a submission server
// and other servers must not do. Addresses whose domain is a single label are
// refused: nobody elsewhere could answer (section 6.2). A message gets the
// fields that it must have and has not: Date, Message-ID (section 8), and From,
// which is then the reverse-path. Bcc, Resent-Bcc and Return-Path are removed:
// the first would tell each recipient of the others.
type Handler struct {
	// Local lets addresses have domains of one label, such as root@localhost.
	// Default: false.
	Local bool `json:"local,omitempty"`

	// KeepBcc leaves Bcc and Resent-Bcc in place. Default: false.
	KeepBcc bool `json:"keep_bcc,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.submission", New: func() caddy.Module { return new(Handler) }}
}

// OnlyAnnotates says that it refuses no message, only addresses.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleMail refuses a reverse-path that cannot be answered.
func (h *Handler) HandleMail(_ context.Context, tx *session.Transaction) error {
	return h.qualified(tx.Envelope.From, "5.1.8")
}

// HandleRcpt refuses a forward-path that only this network could know.
func (h *Handler) HandleRcpt(_ context.Context, _ *session.Transaction, r *mail.Recipient) error {
	if r.Expanded { // by our own configuration, which may know such names
		return nil
	}
	return h.qualified(r.Address, "5.1.2")
}

func (h *Handler) qualified(a mail.Address, enh string) error {
	if h.Local || a.Domain == "" || strings.ContainsAny(a.Domain, ".[") {
		return nil
	}
	return mail.Refuse(550, enh, "%s: the domain is not fully qualified", a.Path())
}

// HandleMessage adds the fields that are missing.
func (h *Handler) HandleMessage(_ context.Context, tx *session.Transaction, m *message.Message) error {
	hd := m.Header
	hd.Remove("Return-Path") // for final delivery alone (RFC 5321, section 4.4)
	if !h.KeepBcc {
		hd.Remove("Bcc")
		hd.Remove("Resent-Bcc")
	}
	if from := tx.Envelope.From; hd.Count("From") == 0 && !from.IsNull() {
		hd.Append("From", from.Path())
	}
	if hd.Count("Date") == 0 {
		hd.Append("Date", time.Now().Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	}
	if hd.Count("Message-ID") == 0 {
		hd.Append("Message-ID", fmt.Sprintf("<%s@%s>", tx.ID, tx.Session.Hostname()))
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	submission {
//		local
//		keep_bcc
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"local":    caddyopt.Flag(&h.Local),
		"keep_bcc": caddyopt.Flag(&h.KeepBcc),
	})
}

var (
	_ session.MailHandler    = (*Handler)(nil)
	_ session.RcptHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
