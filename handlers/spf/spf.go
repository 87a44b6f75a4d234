// Package spf checks whether the sender's domain lets the client send its mail.
package spf

import (
	"context"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/refusal"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
	"github.com/caddymail/caddy-smtp/smtpapp/spf"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler checks at MAIL whether the domain of the reverse-path, and that of
// the name in EHLO, let the client send their mail (Sender Policy Framework,
// RFC 7208). The results are "spf": none, neutral, pass, fail, softfail,
// temperror or permerror, with the property smtp.helo, and then another with
// smtp.mailfrom. With the null reverse-path the first one is all there is.
//
// Unless told otherwise it only notes the results, as forwarding breaks SPF:
// what DMARC makes of them is better grounds for a refusal. Our own users, and
// clients that the server trusts, are not checked.
type Handler struct {
	// Reject are results that refuse MAIL for good, with 550 5.7.23, and 550
	// 5.7.24 for permerror (RFC 7372). Defer are those that refuse for now,
	// with 451 4.7.23 and 4.7.24. Default: none. Both look at both identities.
	refusal.Options

	// HELO is whether the name in EHLO is checked beside the reverse-path: "on"
	// or "off". Default: on.
	HELO string `json:"helo,omitempty"`

	// ReceivedSPF puts the result into a field Received-SPF (RFC 7208, section
	// 9.1) too, beside Authentication-Results. Default: false.
	ReceivedSPF bool `json:"received_spf,omitempty"`

	resolver dns.Resolver
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.spf", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the options and takes the resolver of the configuration.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.resolver = env.FromContext(ctx).Resolver
	return h.valid()
}

func (h *Handler) valid() error {
	if h.HELO != "" && h.HELO != "on" && h.HELO != "off" {
		return fmt.Errorf("spf: helo is on or off, not '%s'", h.HELO)
	}
	if err := h.Check(spf.Values); err != nil {
		return fmt.Errorf("spf: %w", err)
	}
	return nil
}

// HandleMail checks the client's name and the reverse-path. Their results hold
// the spf.Result.
func (h *Handler) HandleMail(ctx context.Context, tx *session.Transaction) error {
	ip := tx.Session.RemoteIP()
	if tx.Session.Trusted() || !ip.IsValid() {
		return nil
	}
	c := spf.Client{IP: ip, Hello: tx.Session.Hello}
	from := tx.Envelope.From
	if h.HELO != "off" || from.IsNull() {
		if err := h.note(tx, spf.CheckHELO(ctx, h.resolver, c)); err != nil {
			return err
		}
	}
	if from.IsNull() {
		return nil
	}
	return h.note(tx, spf.CheckMailFrom(ctx, h.resolver, c, from))
}

// note appends a result, and refuses if it is one to refuse.
func (h *Handler) note(tx *session.Transaction, r spf.Result) error {
	p := session.Property{Type: "smtp", Name: string(r.Identity), Value: r.Domain}
	if r.Identity == spf.MailFrom {
		p.Value = tx.Envelope.From.String()
	}
	tx.Results = append(tx.Results, session.Result{Method: "spf", Value: r.Value, Reason: r.Reason, Props: []session.Property{p}, Detail: r})
	class, detail := h.Class(r.Value), 23
	if class == 0 {
		return nil
	}
	text := fmt.Sprintf("SPF: %s says that %s may not send its mail", r.Domain, tx.Session.RemoteIP())
	if r.Value != spf.Fail && r.Value != spf.SoftFail {
		text = fmt.Sprintf("SPF: %s for %s", r.Value, r.Domain)
	}
	if r.Reason != "" {
		text, detail = text+": "+r.Reason, 24
	}
	return mail.Refuse(map[int]int{4: 451, 5: 550}[class], fmt.Sprintf("%d.7.%d", class, detail), "%s", text)
}

// OnlyAnnotates says that it refuses nothing when the content is there.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleMessage writes Received-SPF, if it is to.
func (h *Handler) HandleMessage(_ context.Context, tx *session.Transaction, m *message.Message) error {
	rs := tx.Find("spf")
	if !h.ReceivedSPF || len(rs) == 0 {
		return nil
	}
	if r, ok := rs[len(rs)-1].Detail.(spf.Result); ok {
		m.Header.Prepend("Received-SPF", received(tx, r))
	}
	return nil
}

// received is the value of a Received-SPF field.
func received(tx *session.Transaction, r spf.Result) string {
	v := []string{
		"client-ip=" + quoted(tx.Session.RemoteIP().String()), "envelope-from=" + quoted(tx.Envelope.From.String()),
		"helo=" + quoted(tx.Session.Hello), "identity=" + string(r.Identity), "receiver=" + quoted(tx.Session.Hostname()),
	}
	if r.Reason != "" {
		v = append(v, "problem="+quoted(r.Reason))
	}
	return r.Value + " " + strings.Join(v, "; ")
}

// quoted quotes what is not a dot-atom.
func quoted(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	}) < 0
	if plain && s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	spf {
//		reject <results...>
//		defer  <results...>
//		helo   on|off
//		received_spf
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	err := caddyopt.Block(d, caddyopt.Table{
		"reject":       caddyopt.Strings(&h.Reject),
		"defer":        caddyopt.Strings(&h.Defer),
		"helo":         caddyopt.String(&h.HELO),
		"received_spf": caddyopt.Flag(&h.ReceivedSPF),
	})
	if err != nil {
		return err
	}
	if err := h.valid(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

var (
	_ session.MailHandler    = (*Handler)(nil)
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
