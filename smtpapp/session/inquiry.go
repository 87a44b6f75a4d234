package session

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

var (
	errNoEXPN   = mail.Refuse(502, "5.5.1", "EXPN is not offered")
	errWho      = mail.Refuse(501, "5.1.3", "a user or a mailbox is wanted")
	errWideWord = mail.Refuse(550, "5.6.8", "the answer needs SMTPUTF8") // RFC 6531, section 3.7.4.2

	noncommittal = &mail.Reply{Code: 252, Enh: "2.0.0", Text: "send some mail, we'll try our best"}
)

// help is HELP (RFC 5321, section 4.1.1.8).
func (s *Session) help(string) (string, *mail.Reply) {
	return "", &mail.Reply{Code: 214, Enh: "2.0.0", Text: cmp.Or(s.cfg.Help, "see RFC 5321")}
}

// vrfy is VRFY (RFC 5321, section 3.5).
func (s *Session) vrfy(arg string) (string, *mail.Reply) {
	if !s.cfg.Offers.VRFY.has(s) {
		return "", noncommittal
	}
	a, wide, no := s.inquired(arg)
	if no != nil {
		return "", no
	}
	found, err := s.inquire(a)
	if err != nil {
		return "", mail.ReplyFor(err)
	}
	switch {
	case !wide && !a.IsASCII():
		return "", noncommittal
	case len(found) == 1 && !found[0].Expanded && s.PassesOn(found[0].Agent):
		return "", &mail.Reply{Code: 252, Enh: "2.1.5", Text: "mail for " + a.Path() + " is passed on, where it may be known"}
	}
	return "", &mail.Reply{Code: 250, Enh: "2.1.5", Text: a.Path(), UTF8: wide}
}

// expn is EXPN: where an alias leads to, one address a line (RFC 5321, section 3.5).
func (s *Session) expn(arg string) (string, *mail.Reply) {
	if !s.cfg.Offers.EXPN.has(s) {
		return "", errNoEXPN
	}
	a, wide, no := s.inquired(arg)
	if no != nil {
		return "", no
	}
	found, err := s.inquire(a)
	if err != nil {
		return "", mail.ReplyFor(err)
	}
	var lines []string
	for _, r := range found {
		if !r.Expanded {
			return "", mail.Refuse(550, "5.2.4", "%s is a mailbox and no list", a.Path())
		}
		if !wide && !r.Address.IsASCII() {
			return "", errWideWord
		}
		lines = append(lines, r.Address.Path())
	}
	return "", &mail.Reply{Code: 250, Enh: "2.1.5", Text: strings.Join(lines, "\n"), UTF8: wide}
}

// inquired parses the argument of VRFY and EXPN: a mailbox, in brackets or not,
// or the local part of one of ours; and whether SMTPUTF8 follows (RFC 6531,
// section 3.7.4.2).
func (s *Session) inquired(arg string) (a mail.Address, wide bool, no *mail.Reply) {
	if name, param, ok := cutLast(arg, " "); ok && strings.EqualFold(param, "SMTPUTF8") {
		arg, wide = name, true
	}
	arg = strings.TrimSpace(arg)
	if in, ok := strings.CutPrefix(arg, "<"); ok {
		if arg, ok = strings.CutSuffix(in, ">"); !ok {
			return a, wide, errWho
		}
	}
	switch own := s.cfg.Postmaster; {
	case strings.EqualFold(arg, "postmaster"):
		return own, wide, nil
	case !strings.Contains(arg, "@"):
		arg += "@" + cmp.Or(own.Domain, s.cfg.Hostname)
	}
	a, err := mail.ParseAddress(arg)
	if err != nil {
		return a, wide, errWho
	}
	return a, wide, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// inquire takes an address through the RCPT handlers as that of a message which
// is never sent.
func (s *Session) inquire(a mail.Address) ([]*mail.Recipient, error) {
	q := *s
	q.tx = &Transaction{ID: s.ID, Session: &q, Envelope: new(mail.Envelope), Began: time.Now(), Results: slices.Clone(s.Results), dns: dns.NewBudget(dnsTime), ends: new([]func(bool))}
	q.engine = engine{decided: map[*mail.Recipient]decisions{}}
	cs, err := q.claim(dns.WithBudget(s.ctx, q.tx.dns), mail.NewRecipient(a))
	if err != nil {
		return nil, err
	}
	rs := make([]*mail.Recipient, len(cs))
	for i, c := range cs {
		rs[i] = c.r
	}
	return rs, nil
}
