package session

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// trace puts the fields of our own on top: Received (RFC 5321, section 4.4)
// above Authentication-Results (RFC 8601, section 5).
func (s *Session) trace(g *group) {
	if v := authResults(s.cfg.Hostname, g.tx.Results); v != "" {
		g.m.Header.Prepend("Authentication-Results", v)
	}
	g.m.Header.Prepend("Received", s.received(g))
}

func (s *Session) received(g *group) string {
	var b strings.Builder
	ip := s.RemoteIP()
	switch {
	case !ip.IsValid():
		fmt.Fprintf(&b, "from %s", s.Hello)
	case ip.Is4():
		fmt.Fprintf(&b, "from %s ([%s])", s.Hello, ip)
	default:
		fmt.Fprintf(&b, "from %s ([IPv6:%s])", s.Hello, ip.WithZone(""))
	}
	fmt.Fprintf(&b, " by %s with %s id %s", s.cfg.Hostname, s.protocolName(g), g.tx.ID)
	if s.TLS != nil {
		fmt.Fprintf(&b, " (%s %s)", tls.VersionName(s.TLS.Version), tls.CipherSuiteName(s.TLS.CipherSuite))
	}
	if to := g.tx.Envelope.Recipients; len(to) == 1 { // of several, none may learn of the others
		fmt.Fprintf(&b, " for %s", to[0].Given.Path())
	}
	b.WriteString("; " + time.Now().Format("Mon, 2 Jan 2006 15:04:05 -0700 (MST)"))
	return b.String()
}

// protocolName is the "with" of RFC 3848 and RFC 6531, section 4.3.
func (s *Session) protocolName(g *group) string {
	if !s.ESMTP {
		return "SMTP"
	}
	p := "ESMTP"
	if g.tx.Envelope.UTF8 {
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
		id, _, _ := strings.Cut(strings.TrimSpace(value), ";")
		id, _, _ = strings.Cut(strings.TrimSpace(id), " ")
		return strings.EqualFold(strings.Trim(id, `"`), s.cfg.Hostname)
	})
}

// authResults writes the value of an Authentication-Results field, "" if there
// is nothing to say. Nothing from outside gets into it unquoted.
func authResults(host string, rs []Result) string {
	var b strings.Builder
	for _, r := range rs {
		if r.Private {
			continue
		}
		fmt.Fprintf(&b, "; %s=%s", r.Method, r.Value)
		if r.Reason != "" {
			b.WriteString(" reason=" + quoted(r.Reason))
		}
		for _, p := range r.Props {
			fmt.Fprintf(&b, " %s.%s=%s", p.Type, p.Name, value(p.Value))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return host + b.String()
}

// value quotes what is neither a token nor an address.
func value(s string) string {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>,;:\"/[]?=`, c) >= 0 {
			return quoted(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r < ' ' || r == 0x7f:
			r = ' '
		case r == '"' || r == '\\':
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	b.WriteByte('"')
	return b.String()
}
