// Package arc verifies Authenticated Received Chains (RFC 8617).
package arc

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/arc"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler verifies the Authenticated Received Chain of messages (RFC 8617), by
// which those who forwarded a message say what they found when they got it. It
// refuses nothing, and asks nothing of clients that logged in or whose network is
// trusted: its result is "arc", with the value none, pass or fail, as
// section 4.4 has them. A chain that passes says who forwarded the message, and
// nothing of whether that is true which he says; it is good for the dmarc
// handler, which lets mail pass that somebody on the trust list received with a
// passing DMARC result.
type Handler struct {
	// Trust are the domains whose seals are believed, if the message signature
	// beside them covers From; *.example.org is every domain below example.org.
	// Default: none.
	Trust []string `json:"trust,omitempty"`

	// Timeout bounds the verification of one message. What DNS does not tell by
	// then makes the chain fail, as every error does (RFC 8617, section 5.2.1).
	// Default: 20s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	resolver dns.Resolver
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.arc", New: func() caddy.Module { return new(Handler) }}
}

// Provision takes the resolver of the configuration.
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := pattern.Domains(h.Trust); err != nil {
		return fmt.Errorf("arc: trust: %w", err)
	}
	if h.Timeout < 0 {
		return fmt.Errorf("arc: negative timeout")
	}
	if h.Timeout == 0 {
		h.Timeout = caddy.Duration(20 * time.Second)
	}
	h.resolver = env.FromContext(ctx).Resolver
	return nil
}

// OnlyAnnotates says that it refuses nothing.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleMessage verifies the chain. Its result holds the *arc.Result.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	if tx.Session.Trusted() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(h.Timeout))
	defer cancel()
	r := arc.Verify(ctx, h.resolver, m)
	for _, s := range r.Sets {
		s.Trusted = pattern.HasDomain(h.Trust, s.Sealer) && s.SignsAuthor()
	}
	res := session.Result{Method: "arc", Value: r.Value, Detail: r}
	switch {
	case r.Temporary():
		res.Reason = "temporary failure of DNS"
	case r.Err != nil:
		res.Reason = r.Err.Error()
	}
	if ip := tx.Session.RemoteIP(); ip.IsValid() && r.Value != arc.None {
		res.Props = append(res.Props, session.Property{Type: "smtp", Name: "remote-ip", Value: ip.String()})
	}
	if r.Value == arc.Pass {
		res.Props = append(res.Props, session.Property{Type: "header", Name: "oldest-pass", Value: strconv.Itoa(r.OldestPass)})
	}
	tx.Results = append(tx.Results, res)
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	arc {
//		trust   <domains...>
//		timeout <duration>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"trust":   caddyopt.Strings(&h.Trust),
		"timeout": caddyopt.Duration(&h.Timeout),
	})
}

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
