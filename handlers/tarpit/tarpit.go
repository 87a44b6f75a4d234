// Package tarpit lets clients wait.
package tarpit

import (
	"context"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler lets the client wait for an answer, at the first stage at which its
// matcher can decide: for the greeting, for the reply to EHLO, MAIL, RCPT or the
// content. Without a matcher it is the greeting. It costs those who send in bulk
// more than it costs us, but each client that waits takes up room: see the
// limits of connections.
type Handler struct {
	// Delay is how long. Default: 5s; at most 1m, since servers that mean it
	// well wait for no reply longer than 5m (RFC 5321, section 4.5.3.2).
	Delay caddy.Duration `json:"delay,omitempty"`
}

const (
	defaultDelay = 5 * time.Second
	maxDelay     = time.Minute
)

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.tarpit", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the delay.
func (h *Handler) Provision(caddy.Context) error {
	if h.Delay == 0 {
		h.Delay = caddy.Duration(defaultDelay)
	}
	return h.valid()
}

func (h *Handler) valid() error {
	if d := time.Duration(h.Delay); d < 0 || d > maxDelay {
		return fmt.Errorf("tarpit: %v is more than clients wait for: at most %v", d, maxDelay)
	}
	return nil
}

// StartsAt is the stage at which the route can decide.
func (*Handler) StartsAt(route session.Stage, _ bool) session.Stage {
	if route == session.StageAuth {
		return session.StageMail
	}
	return route
}

// OnlyAnnotates says that it refuses nothing.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleConnect lets the client wait for the greeting.
func (h *Handler) HandleConnect(_ context.Context, s *session.Session) error { return h.wait(s) }

// HandleHello lets the client wait for the reply to EHLO.
func (h *Handler) HandleHello(_ context.Context, s *session.Session) error { return h.wait(s) }

// HandleMail lets the client wait for the reply to MAIL.
func (h *Handler) HandleMail(_ context.Context, tx *session.Transaction) error {
	return h.wait(tx.Session)
}

// HandleRcpt lets the client wait for the reply to RCPT.
func (h *Handler) HandleRcpt(_ context.Context, tx *session.Transaction, _ *mail.Recipient) error {
	return h.wait(tx.Session)
}

// HandleMessage lets the client wait for the reply to the content.
func (h *Handler) HandleMessage(_ context.Context, tx *session.Transaction, _ *message.Message) error {
	return h.wait(tx.Session)
}

func (h *Handler) wait(s *session.Session) error {
	s.Pause(time.Duration(h.Delay))
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	tarpit [<delay>]
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		d.Prev()
		if err := caddyopt.Duration(&h.Delay)(d); err != nil {
			return err
		}
		if err := h.valid(); err != nil {
			return d.WrapErr(err)
		}
	}
	return caddyopt.End(d)
}

var (
	_ session.ConnectHandler = (*Handler)(nil)
	_ session.HelloHandler   = (*Handler)(nil)
	_ session.MailHandler    = (*Handler)(nil)
	_ session.RcptHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Starter        = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
