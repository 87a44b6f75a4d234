package session

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/authres"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// trace puts the fields of our own on top: Received (RFC 5321, section 4.4)
// above Authentication-Results (RFC 8601, section 5).
func (s *Session) trace(g *group) {
	if f := g.tx.AuthResults(); len(f.Results) > 0 { // one that checks nothing need not say so
		g.m.Header.Prepend("Authentication-Results", f.String())
	}
	g.m.Header.Prepend("Received", s.received(g))
}

func (s *Session) received(g *group) string {
	var b strings.Builder
	ip, name := s.RemoteIP(), s.announced.name
	if _, err := mail.ParseDomain(name); err == nil {
		name += " "
	} else {
		name = ""
	}
	switch {
	case !ip.IsValid():
		fmt.Fprintf(&b, "from %s", s.Hello)
	case ip.Is4():
		fmt.Fprintf(&b, "from %s (%s[%s])", s.Hello, name, ip)
	default:
		fmt.Fprintf(&b, "from %s (%s[IPv6:%s])", s.Hello, name, ip.WithZone(""))
	}
	fmt.Fprintf(&b, " by %s with %s id %s", s.cfg.Hostname, s.protocolName(g), g.tx.ID)
	if s.TLS != nil {
		fmt.Fprintf(&b, " (%s %s)", tls.VersionName(s.TLS.Version), tls.CipherSuiteName(s.TLS.CipherSuite))
	}
	if to := g.tx.Envelope.Recipients; len(to) == 1 { // of several, none may learn of the others
		fmt.Fprintf(&b, " for %s", to[0].Given.Path())
	}
	if env := g.tx.Envelope; env.Prioritized { // RFC 6710, section 4.1
		fmt.Fprintf(&b, " PRIORITY %d", env.Priority)
	}
	b.WriteString("; " + time.Now().Format("Mon, 2 Jan 2006 15:04:05 -0700 (MST)"))
	return b.String()
}

// protocolName is the "with" of RFC 3848 and RFC 6531, section 4.3.
func (s *Session) protocolName(g *group) string {
	if !s.ESMTP || strings.EqualFold(s.announced.proto, "SMTP") {
		return "SMTP"
	}
	p := "ESMTP"
	switch {
	case s.cfg.LMTP && g.tx.Envelope.UTF8:
		p = "UTF8LMTP"
	case s.cfg.LMTP:
		p = "LMTP"
	case g.tx.Envelope.UTF8:
		p = "UTF8SMTP"
	}
	if s.TLS != nil {
		p += "S"
	}
	if s.User != "" {
		p += "A"
	}
	return p
}

// forgeries removes the Authentication-Results fields that claim to be ours
// (RFC 8601, section 5).
func (s *Session) forgeries(h *message.Header) {
	h.RemoveFunc("Authentication-Results", func(value string) bool {
		return authres.Claims(value, s.cfg.Hostname) || s.cfg.AuthservID != "" && authres.Claims(value, s.cfg.AuthservID)
	})
}

// AuthservID is what the server calls itself in Authentication-Results.
func (s *Session) AuthservID() string {
	if s.cfg == nil { // in a handler's own tests
		return "localhost"
	}
	return cmp.Or(s.cfg.AuthservID, s.cfg.Hostname)
}

// AuthResults is the Authentication-Results field of the results so far.
func (tx *Transaction) AuthResults() *authres.Field {
	f := &authres.Field{ID: tx.Session.AuthservID()}
	for _, r := range tx.Results {
		if !r.Private {
			f.Results = append(f.Results, authres.Result{Method: r.Method, Value: r.Value, Comment: r.Comment, Reason: r.Reason, Props: r.Props})
		}
	}
	return f
}
