package session

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

var (
	errNotLMTP = mail.Refuse(500, "5.5.1", "this is SMTP, not LMTP: say EHLO")
	errNotSMTP = mail.Refuse(500, "5.5.1", "this is LMTP, not SMTP: say LHLO")
)

// ehlo is EHLO (RFC 5321, section 4.1.1.1).
func (s *Session) ehlo(arg string) (string, *mail.Reply) {
	if s.cfg.LMTP {
		return "", errNotSMTP
	}
	return s.extended(arg)
}

// lhlo is LHLO, which is EHLO by another name (RFC 2033, section 4.1).
func (s *Session) lhlo(arg string) (string, *mail.Reply) {
	if !s.cfg.LMTP {
		return "", errNotLMTP
	}
	return s.extended(arg)
}

func (s *Session) extended(arg string) (string, *mail.Reply) {
	if r := s.hello(arg, true); r != nil {
		return "", r
	}
	lines := append([]string{s.cfg.Hostname + " at your service"}, s.extensions()...)
	return s.resets(&mail.Reply{Code: 250, Text: strings.Join(lines, "\n")})
}

// helo is HELO: no extensions, and one line (RFC 5321, section 4.1.1.1).
func (s *Session) helo(arg string) (string, *mail.Reply) {
	if s.cfg.LMTP {
		return "", errNotSMTP
	}
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
	if h := s.announced.helo; h != "" {
		name = h
	}
	was, wasESMTP, results := s.Hello, s.ESMTP, s.Results
	s.Hello, s.ESMTP = name, esmtp
	if s.Method == "" {
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
	ext = append(ext, "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME", "SMTPUTF8")
	if s.cfg.TLS != nil && s.TLS == nil {
		ext = append(ext, "STARTTLS")
	}
	if s.authAllowed() && s.Method == "" {
		if ms := s.mechanisms(); len(ms) > 0 {
			ext = append(ext, "AUTH "+strings.Join(ms, " "))
		}
	}
	if s.TLS != nil {
		ext = append(ext, "REQUIRETLS") // RFC 8689, section 2
	}
	if d := s.cfg.FutureRelease; d > 0 && s.authAllowed() && (s.User != "" || len(s.mechanisms()) > 0) {
		ext = append(ext, fmt.Sprintf("FUTURERELEASE %d %s", int(d.Seconds()), time.Now().Add(d).UTC().Format(time.RFC3339)))
	}
	ext = append(ext, s.offers()...)
	if s.cfg.Flush != nil {
		ext = append(ext, "ETRN")
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
	if allowed(s.cfg.Proxies.XCLIENT, s.peer) {
		ext = append(ext, xclientLine)
	}
	if allowed(s.cfg.Proxies.XFORWARD, s.peer) {
		ext = append(ext, xforwardLine)
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
