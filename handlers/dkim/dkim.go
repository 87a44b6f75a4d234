// Package dkim verifies the signatures of messages.
package dkim

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dkim"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// defaultSignatures is how many signatures are checked if nothing is said.
const defaultSignatures = 5

// Handler verifies the signatures of a message (DomainKeys Identified Mail, RFC
// 6376). The results are "dkim", one for each signature: pass; fail, if header
// or body are not what was signed; policy, if the signature does not count: its
// RSA key has fewer than 1024 or more than 4096 bits, it has expired or is of
// the future, or its l= leaves a part of the body unsigned; neutral, if it
// cannot be read, or fails under a key that says t=y; permerror, if it can
// never be checked; and temperror. Without a signature it is none. The
// properties are header.d, header.i, header.s, header.a and header.b.
//
// It refuses nothing: a signature that fails is worth as much as none (RFC
// 6376, section 6.3). It comes before handlers that change the message. Messages
// of our own users, and of clients that the server trusts, are not checked.
type Handler struct {
	// Signatures is how many are checked at most, from the top, 1 to 8.
	// Default: 5.
	Signatures int `json:"signatures,omitempty"`

	resolver dns.Resolver
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.dkim", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the options and takes the resolver of the configuration.
func (h *Handler) Provision(ctx caddy.Context) error {
	if h.Signatures == 0 {
		h.Signatures = defaultSignatures
	}
	if h.Signatures < 1 || h.Signatures > dkim.MaxSignatures {
		return fmt.Errorf("dkim: signatures is from 1 to %d", dkim.MaxSignatures)
	}
	h.resolver = env.FromContext(ctx).Resolver
	return nil
}

// OnlyAnnotates says that it refuses nothing.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleMessage verifies the signatures. Their results hold the dkim.Verdict.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	if tx.Session.Trusted() {
		return nil
	}
	vs, err := dkim.Verify(ctx, h.resolver, m, h.Signatures)
	if err != nil {
		return err
	}
	if len(vs) == 0 {
		tx.Results = append(tx.Results, session.Result{Method: "dkim", Value: dkim.None})
		return nil
	}
	prefixes := dkim.Prefixes(vs)
	for i, v := range vs {
		tx.Results = append(tx.Results, result(v, prefixes[i]))
	}
	return nil
}

func result(v dkim.Verdict, b string) session.Result {
	r := session.Result{Method: "dkim", Value: v.Value, Detail: v}
	if v.Err != nil {
		r.Reason = v.Err.Error()
	}
	switch {
	case v.Key != nil && v.Key.Testing:
		r.Comment = "test mode"
	case v.Weak():
		r.Comment = "weak key"
	}
	s := v.Signature
	for _, p := range []session.Property{
		{Type: "header", Name: "d", Value: s.Domain},
		{Type: "header", Name: "i", Value: s.Identity},
		{Type: "header", Name: "s", Value: s.Selector},
		{Type: "header", Name: "a", Value: string(s.Algorithm)},
		{Type: "header", Name: "b", Value: b},
	} {
		if p.Value != "" {
			r.Props = append(r.Props, p)
		}
	}
	return r
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	dkim {
//		signatures <n>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	err := caddyopt.Block(d, caddyopt.Table{"signatures": caddyopt.Int(&h.Signatures, 1)})
	if err == nil && h.Signatures > dkim.MaxSignatures {
		err = d.Errf("option 'signatures': no more than %d", dkim.MaxSignatures)
	}
	return err
}

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
