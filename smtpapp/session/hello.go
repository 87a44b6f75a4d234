package session

import (
	"fmt"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// ehlo is EHLO (RFC 5321, section 4.1.1.1).
func (s *Session) ehlo(arg string) (string, *mail.Reply) {
	if r := s.hello(arg, true); r != nil {
		return "", r
	}
	lines := append([]string{s.cfg.Hostname + " at your service"}, s.extensions()...)
	return s.resets(&mail.Reply{Code: 250, Text: strings.Join(lines, "\n")})
}

// helo is HELO: no extensions, and one line (RFC 5321, section 4.1.1.1).
func (s *Session) helo(arg string) (string, *mail.Reply) {
	if r := s.hello(arg, false); r != nil {
		return "", r
	}
	return s.resets(&mail.Reply{Code: 250, Text: s.cfg.Hostname})
}

// hello takes the client's name, unless a handler refuses it.
func (s *Session) hello(name string, esmtp bool) *mail.Reply {
	if !validHello(name) {
		return mail.Refuse(501, "5.5.4", "a domain or an address literal is wanted")
	}
	was, wasESMTP, results := s.Hello, s.ESMTP, s.Results
	s.Hello, s.ESMTP = name, esmtp
	if s.User == "" {
		s.Results = s.Results[:s.base:s.base]
	}
	if err := s.stageHello(s.ctx); err != nil {
		s.Hello, s.ESMTP, s.Results = was, wasESMTP, results
		r := mail.ReplyFor(err)
		s.Log.Info("refused", "helo", name, "reply", r.Error())
		return r
	}
	return nil
}

// validHello is a little more tolerant than the RFC: the name may end in a
// dot. What it says is for handlers to judge.
func validHello(name string) bool {
	_, err := mail.ParseDomain(strings.TrimSuffix(name, "."))
	return err == nil
}

// extensions are the lines of the EHLO reply: what this client can have now.
func (s *Session) extensions() []string {
	l := &s.cfg.Limits
	ext := []string{"PIPELINING"}
	if l.MessageSize > 0 {
		ext = append(ext, fmt.Sprintf("SIZE %d", l.MessageSize))
	} else {
		ext = append(ext, "SIZE")
	}
	ext = append(ext, "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "SMTPUTF8", "DSN")
	if s.cfg.TLS != nil && s.TLS == nil {
		ext = append(ext, "STARTTLS")
	}
	if s.authAllowed() && s.User == "" {
		if ms := s.mechanisms(); len(ms) > 0 {
			ext = append(ext, "AUTH "+strings.Join(ms, " "))
		}
	}
	limits := "LIMITS" // RFC 9422
	if l.Messages > 0 {
		limits += fmt.Sprintf(" MAILMAX=%d", l.Messages)
	}
	if l.Recipients > 0 {
		limits += fmt.Sprintf(" RCPTMAX=%d", l.Recipients)
	}
	if limits != "LIMITS" {
		ext = append(ext, limits)
	}
	return ext
}

// starttls is STARTTLS (RFC 3207).
func (s *Session) starttls(arg string) (string, *mail.Reply) {
	switch {
	case arg != "":
		return "", errNoArg
	case s.TLS != nil:
		return "", mail.Refuse(503, "5.5.1", "TLS is in use already")
	case s.cfg.TLS == nil:
		return "", mail.Refuse(502, "5.5.1", "STARTTLS is not offered")
	}
	return "", s.conn.StartTLS(s.cfg.TLS)
}
