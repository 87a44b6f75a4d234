package auth

import (
	"slices"
	"strings"

	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/scram"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// A mechanism is a SASL mechanism: what it needs, and how it begins.
type mechanism struct {
	name  string
	needs need
	fits  func(s *session.Session) bool // whether the connection is worth it; nil for all
	named bool                          // offered only if the configuration names it
	begin func(x *exchange) sasl.Server
}

// mechanisms are all there are, best first.
var mechanisms = []mechanism{
	{name: "EXTERNAL", needs: certificates, fits: certified, begin: func(x *exchange) sasl.Server { return &external{exchange: x} }},
	scramMechanism(login.SHA256, true),
	scramMechanism(login.SHA1, true),
	scramMechanism(login.SHA256, false),
	scramMechanism(login.SHA1, false),
	{name: "OAUTHBEARER", needs: tokens, begin: func(x *exchange) sasl.Server { return &bearer{exchange: x, parse: parseOAuthBearer} }},
	{name: "XOAUTH2", needs: tokens, begin: func(x *exchange) sasl.Server { return &bearer{exchange: x, parse: parseXOAuth2} }},
	{name: "PLAIN", needs: passwordChecks, begin: func(x *exchange) sasl.Server { return &plain{exchange: x} }},
	{name: "LOGIN", needs: passwordChecks, begin: func(x *exchange) sasl.Server { return &loginServer{exchange: x} }},
	{name: "CRAM-MD5", needs: secrets(login.Plain), named: true, begin: func(x *exchange) sasl.Server { return &cram{exchange: x} }},
	{name: "ANONYMOUS", needs: nothing, named: true, begin: func(x *exchange) sasl.Server { return &anonymous{exchange: x} }},
}

func find(name string) *mechanism {
	i := slices.IndexFunc(mechanisms, func(m mechanism) bool { return strings.EqualFold(m.name, name) })
	if i < 0 {
		return nil
	}
	return &mechanisms[i]
}

// A need says whether sources can serve a mechanism: any of them if the
// configuration names it, and if not all whose users might try it.
type need func(sources []any, named bool) bool

func nothing([]any, bool) bool { return true }

func passwordChecks(sources []any, _ bool) bool { return slices.ContainsFunc(sources, servesPasswords) }

func tokens(sources []any, _ bool) bool { return slices.ContainsFunc(sources, is[TokenChecker]) }

func certificates(sources []any, _ bool) bool {
	return slices.ContainsFunc(sources, is[CertificateChecker])
}

func is[T any](source any) bool {
	_, ok := source.(T)
	return ok
}

// secrets is a need of secrets in a form. A client takes the best mechanism that
// it knows, and must then not find that its user has none of that form.
func secrets(form login.Forms) need {
	return func(sources []any, named bool) bool {
		some, all := false, true
		for _, src := range sources {
			has := forms(src)&form != 0
			some = some || has || named && anyForms(src)&form != 0
			all = all && (has || !servesPasswords(src))
		}
		return some && (all || named)
	}
}

// certified reports whether the client has shown a certificate that TLS has
// verified.
func certified(s *session.Session) bool { return s.TLS != nil && len(s.TLS.VerifiedChains) > 0 }

// bindable reports whether a channel can be bound to: one that ends at the client.
func bindable(s *session.Session) bool {
	return !s.SpokenFor() && scram.Bindable(s.TLS, s.Certificate())
}

// Mechanisms are those that the sources can serve and the connection is worth,
// best first.
func (h *Handler) Mechanisms(s *session.Session) []string {
	var names []string
	for _, m := range mechanisms {
		if h.offers(&m) && (m.fits == nil || m.fits(s)) {
			names = append(names, m.name)
		}
	}
	return names
}

// offers reports whether a mechanism is offered to connections that it fits.
func (h *Handler) offers(m *mechanism) bool {
	named := slices.ContainsFunc(h.Offer, func(o string) bool { return strings.EqualFold(o, m.name) })
	return (named || len(h.Offer) == 0 && !m.named) && m.needs(h.sources, named)
}

// NotOffered tells the client of a mechanism that the configuration leaves out
// for a better one (RFC 4954, section 6).
func (h *Handler) NotOffered(s *session.Session, name string) *mail.Reply {
	offered := h.Mechanisms(s)
	m := find(name)
	if m == nil || len(offered) == 0 || h.offers(m) || !m.needs(h.sources, true) {
		return nil
	}
	for i := range mechanisms {
		switch mechanisms[i].name {
		case offered[0]:
			return mail.Refuse(534, "5.7.9", "authentication mechanism is too weak")
		case m.name:
			return nil
		}
	}
	return nil
}
