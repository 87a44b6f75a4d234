package session

import (
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// A state is what was said before. Each is a bit, so that commands can name
// several.
type state uint8

const (
	inNew    state = 1 << iota // nothing
	inReady                    // EHLO or HELO
	inMail                     // MAIL
	inRcpt                     // RCPT, and a recipient was accepted
	inChunks                   // BDAT, and more of them to come

	inOpen     = inReady | inMail | inRcpt
	betweenAny = inNew | inOpen
	anywhere   = betweenAny | inChunks
)

func (s *Session) state() state {
	switch {
	case s.Hello == "":
		return inNew
	case s.tx == nil:
		return inReady
	case s.chunking:
		return inChunks
	case len(s.tx.Envelope.Recipients) == 0:
		return inMail
	}
	return inRcpt
}

// A command is a row: when it may be said, and what it does. See wire.Handler
// for what run returns.
type command struct {
	in    state
	bare  bool // takes no argument
	other bool // does nothing for a message: there are limits to that
	run   func(s *Session, arg string) (forward string, r *mail.Reply)
}

// commands are those of RFC 5321, section 4.1.1, and of the extensions.
var commands = map[string]command{
	"EHLO":     {in: betweenAny, other: true, run: (*Session).ehlo},
	"HELO":     {in: betweenAny, other: true, run: (*Session).helo},
	"LHLO":     {in: betweenAny, other: true, run: (*Session).lhlo},
	"XCLIENT":  {in: inNew | inReady, other: true, run: (*Session).xclient},
	"XFORWARD": {in: inNew | inReady, other: true, run: (*Session).xforward},
	"ETRN":     {in: inReady, other: true, run: (*Session).etrn},
	"STARTTLS": {in: inReady, other: true, run: (*Session).starttls},
	"AUTH":     {in: inReady, other: true, run: (*Session).auth},
	"MAIL":     {in: inReady, run: (*Session).mailCommand},
	"RCPT":     {in: inMail | inRcpt, run: (*Session).rcptCommand},
	"DATA":     {in: inRcpt, bare: true, run: (*Session).data},
	"BDAT":     {in: inRcpt | inChunks, run: (*Session).bdat},
	"RSET":     {in: anywhere, bare: true, other: true, run: (*Session).rset},
	"NOOP":     {in: anywhere, other: true, run: says(250, "2.0.0", "nothing done")},
	"QUIT":     {in: anywhere, bare: true, run: quit},
	"VRFY":     {in: betweenAny, other: true, run: (*Session).vrfy},
	"EXPN":     {in: betweenAny, other: true, run: (*Session).expn},
	"HELP":     {in: betweenAny, other: true, run: (*Session).help},
	// A web page that was made to post to us (cross-protocol scripting).
	"GET":     {in: anywhere, run: http},
	"POST":    {in: anywhere, run: http},
	"PUT":     {in: anywhere, run: http},
	"HEAD":    {in: anywhere, run: http},
	"OPTIONS": {in: anywhere, run: http},
	"CONNECT": {in: anywhere, run: http},
	"HOST:":   {in: anywhere, run: http},
}

func says(code int, enh, text string) func(*Session, string) (string, *mail.Reply) {
	r := &mail.Reply{Code: code, Enh: enh, Text: text}
	return func(*Session, string) (string, *mail.Reply) { return "", r }
}

// etrn is ETRN (RFC 1985). Of the nodes that it can name, only a domain is one
// here.
func (s *Session) etrn(arg string) (string, *mail.Reply) {
	if s.cfg.Flush == nil {
		return "", errNoETRN
	}
	domain, err := mail.ParseDomain(arg)
	if err != nil || strings.HasPrefix(domain, "[") {
		return "", errNode
	}
	if r := s.cfg.Flush(domain); r != nil {
		return "", r
	}
	return "", &mail.Reply{Code: 250, Enh: "2.0.0", Text: "queuing for " + domain + " started"}
}

func quit(s *Session, _ string) (string, *mail.Reply) {
	return "", &mail.Reply{Code: 221, Enh: "2.0.0", Text: s.cfg.Hostname + " closing connection", Close: true}
}

func http(*Session, string) (string, *mail.Reply) {
	return "", &mail.Reply{Code: 500, Enh: "5.5.1", Text: "this is not HTTP", Close: true}
}

// Replies to what is no command, or not at this moment.
var (
	errNoETRN    = mail.Refuse(502, "5.5.1", "ETRN is not offered")
	errNode      = mail.Refuse(501, "5.5.4", "a domain is wanted")
	errUnknown   = mail.Refuse(500, "5.5.1", "command not recognized")
	errNoArg     = mail.Refuse(501, "5.5.4", "command takes no argument")
	errHello     = mail.Refuse(503, "5.5.1", "EHLO first")
	errNested    = mail.Refuse(503, "5.5.1", "a transaction is open")
	errMail      = mail.Refuse(503, "5.5.1", "MAIL first")
	errRcpt      = mail.Refuse(503, "5.5.1", "RCPT first")
	errNobody    = mail.Refuse(554, "5.5.1", "no valid recipients")
	errNotBinary = mail.Refuse(503, "5.5.1", "BODY=BINARYMIME wants BDAT, not DATA")
	errHeaderNUL = mail.Refuse(550, "5.6.0", "header has a NUL octet")
	errChunking  = mail.Refuse(503, "5.5.1", "content has begun: BDAT or RSET")
)

// Command does what a row of commands says.
func (d dialogue) Command(verb, arg string) (forward string, r *mail.Reply) {
	s := d.s
	p := s.guarded(func() *mail.Reply {
		forward, r = s.command(verb, arg)
		return nil
	})
	if p != nil {
		return "", p
	}
	if forward == "" {
		r = s.judged(r)
	}
	return forward, r
}

func (s *Session) command(verb, arg string) (string, *mail.Reply) {
	c, ok := commands[verb]
	if !ok {
		return "", errUnknown
	}
	if c.other {
		if s.counts.nonMail++; over(s.counts.nonMail, s.forgiven(s.cfg.Limits.NonMail)) {
			return "", errManyOthers
		}
	}
	if st := s.state(); c.in&st == 0 {
		return "", s.misplaced(verb, st)
	}
	if c.bare && arg != "" {
		return "", errNoArg
	}
	return c.run(s, arg)
}

// misplaced is the reply to a command that may not be said now.
func (s *Session) misplaced(verb string, st state) *mail.Reply {
	switch st {
	case inNew:
		return errHello
	case inChunks:
		return errChunking
	case inReady:
		return errMail
	}
	if verb != "DATA" && verb != "BDAT" {
		return errNested
	}
	if s.refused && !s.cfg.LMTP { // RFC 2033, section 4.2: 503
		return errNobody
	}
	return errRcpt
}

// Malformed hears from wire of lines that are no commands, nor responses.
func (d dialogue) Malformed(r *mail.Reply) *mail.Reply { return d.s.abandon(r) }

// judged counts errors for good among the replies. Some are answered late, and
// too many are answered with the end of the session.
func (s *Session) judged(r *mail.Reply) *mail.Reply {
	if !r.Permanent() {
		return r
	}
	s.counts.errors++
	switch {
	case r.Close:
	case over(s.counts.errors, s.forgiven(s.cfg.Limits.HardErrors)):
		return errManyErrors
	case over(s.counts.errors, s.cfg.Limits.SoftErrors):
		s.Pause(s.cfg.Limits.ErrorDelay)
	}
	return r
}

// forgiven is a limit, or a tenth of it where there is little room left for
// others.
func (s *Session) forgiven(limit int) int {
	if limit > 0 && s.cfg.Admission != nil && s.cfg.Admission.Crowded() {
		return max(limit/10, 1)
	}
	return limit
}

// Pause lets the client wait for its next reply. Those that it has coming to it
// are sent before. It ends early when the session has to.
func (s *Session) Pause(d time.Duration) {
	s.conn.Flush()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

// over reports whether n is more than a limit, if there is one.
func over(n, limit int) bool { return limit > 0 && n > limit }
