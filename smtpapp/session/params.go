package session

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Limits of RFC 3461, section 4, and RFC 4954, section 5, in octets.
const (
	maxEnvID = 100
	maxORCPT = 500
	maxAUTH  = 500
)

var (
	errParam     = mail.Refuse(501, "5.5.4", "malformed parameter")
	errDuplicate = mail.Refuse(501, "5.5.4", "parameter given twice")
	errNoParam   = mail.Refuse(555, "5.5.4", "parameter not recognized")
	errSize      = mail.Refuse(552, "5.3.4", "message too large")
	errNotASCII  = mail.Refuse(553, "5.6.7", "this address needs SMTPUTF8")
)

// parseMail parses what follows MAIL.
func (s *Session) parseMail(arg string) (*mail.Envelope, *mail.Reply) {
	path, rest, ok := cutPath(arg, "FROM:")
	if !ok {
		return nil, mail.Refuse(501, "5.1.7", "MAIL FROM:<reverse-path> is wanted")
	}
	env := new(mail.Envelope)
	r := s.params(rest, func(name, value string, given bool) *mail.Reply {
		p, ok := mailParams[name]
		if !ok {
			return errNoParam
		}
		return p(s, env, value, given)
	})
	if r == nil {
		r = s.reconcile(env)
	}
	if r != nil || path == "" {
		return env, r
	}
	env.From, r = parsePath(path, env.UTF8, "5.1.7")
	return env, r
}

// parseRcpt parses what follows RCPT.
func (s *Session) parseRcpt(arg string) (*mail.Recipient, *mail.Reply) {
	path, rest, ok := cutPath(arg, "TO:")
	if !ok || path == "" {
		return nil, mail.Refuse(501, "5.1.3", "RCPT TO:<forward-path> is wanted")
	}
	var a mail.Address
	var r *mail.Reply
	if strings.EqualFold(path, "postmaster") { // RFC 5321, section 4.5.1
		a.Local = path
	} else if a, r = parsePath(path, s.tx.Envelope.UTF8, "5.1.3"); r != nil {
		return nil, r
	}
	rc := mail.NewRecipient(a)
	r = s.params(rest, func(name, value string, given bool) *mail.Reply {
		p, ok := rcptParams[name]
		if !ok {
			return errNoParam
		}
		return p(s, rc, value, given)
	})
	return rc, r
}

// cutPath cuts a path without its angle brackets off the argument of MAIL or
// RCPT. A space before the path is against the RFC and common.
func cutPath(arg, keyword string) (path, rest string, ok bool) {
	if len(arg) < len(keyword) || !strings.EqualFold(arg[:len(keyword)], keyword) {
		return "", "", false
	}
	arg = strings.TrimLeft(arg[len(keyword):], " ")
	if !strings.HasPrefix(arg, "<") {
		return "", "", false
	}
	end := closingBracket(arg)
	if end < 0 {
		return "", "", false
	}
	path, rest = arg[1:end], arg[end+1:]
	return path, rest, rest == "" || rest[0] == ' '
}

// closingBracket finds the first > outside of a quoted string.
func closingBracket(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			quoted = !quoted
		case '\\':
			if quoted {
				i++
			}
		case '>':
			if !quoted {
				return i
			}
		}
	}
	return -1
}

// parsePath parses a path that is not null. A source route is dropped (RFC
// 5321, appendix F.2); enh is the status of a syntax error.
func parsePath(path string, utf8ok bool, enh string) (mail.Address, *mail.Reply) {
	if strings.HasPrefix(path, "@") {
		route, mailbox, ok := strings.Cut(path, ":")
		for hop := range strings.SplitSeq(route, ",") {
			d, at := strings.CutPrefix(hop, "@")
			if _, err := mail.ParseDomain(d); !at || err != nil {
				ok = false
			}
		}
		if !ok {
			return mail.Address{}, mail.Refuse(501, enh, "malformed source route")
		}
		path = mailbox
	}
	if !utf8ok && !isASCII(path) {
		return mail.Address{}, errNotASCII
	}
	a, err := mail.ParseAddress(path)
	switch {
	case err == nil:
		return a, nil
	case errors.Is(err, mail.ErrNotUTF8):
		return a, mail.Refuse(501, "5.5.2", "%s", err)
	case errors.Is(err, mail.ErrScript):
		return a, mail.Refuse(553, "5.1.7", "%s", err)
	}
	return a, mail.Refuse(501, enh, "%s", err)
}

// params hands the ESMTP parameters on, each once (RFC 5321, section 4.1.2).
func (s *Session) params(rest string, each func(name, value string, given bool) *mail.Reply) *mail.Reply {
	var seen []string
	for f := range strings.FieldsFuncSeq(rest, func(r rune) bool { return r == ' ' }) {
		if !s.ESMTP {
			return errNoParam
		}
		name, value, given := strings.Cut(f, "=")
		name = strings.ToUpper(name)
		for _, o := range seen {
			if o == name {
				return errDuplicate
			}
		}
		seen = append(seen, name)
		if given && !isValue(value) {
			return errParam
		}
		if r := each(name, value, given); r != nil {
			return r
		}
	}
	return nil
}

// isValue reports whether v is an esmtp-value, with the characters that RFC
// 6531 adds.
func isValue(v string) bool {
	if v == "" || !utf8.ValidString(v) {
		return false
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] == '=' || v[i] == 0x7f {
			return false
		}
	}
	return true
}

// mailParams are the parameters of MAIL that we announce.
var mailParams = map[string]func(s *Session, env *mail.Envelope, v string, given bool) *mail.Reply{
	"SIZE": func(s *Session, env *mail.Envelope, v string, _ bool) *mail.Reply { // RFC 1870
		if v == "" || len(v) > 20 || strings.Trim(v, "0123456789") != "" {
			return errParam
		}
		n, err := strconv.ParseInt(v, 10, 64)
		if limit := s.cfg.Limits.MessageSize; err != nil || limit > 0 && n > limit {
			return errSize
		}
		env.Size = n
		return nil
	},
	"BODY": func(_ *Session, env *mail.Envelope, v string, _ bool) *mail.Reply { // RFC 6152, RFC 3030
		switch b := mail.Body(strings.ToUpper(v)); b {
		case mail.Body7Bit, mail.Body8Bit, mail.BodyBinary:
			env.Body = b
			return nil
		}
		return errParam
	},
	"SMTPUTF8": func(_ *Session, env *mail.Envelope, _ string, given bool) *mail.Reply { // RFC 6531
		env.UTF8 = true
		return flag(given)
	},
	"RET": func(s *Session, env *mail.Envelope, v string, _ bool) *mail.Reply { // RFC 3461, 4.3
		if !s.cfg.Offers.dsn(s) {
			return errNoParam
		}
		switch r := mail.Return(strings.ToUpper(v)); r {
		case mail.ReturnFull, mail.ReturnHeaders:
			env.Return = r
			return nil
		}
		return errParam
	},
	"ENVID": func(s *Session, env *mail.Envelope, v string, _ bool) (r *mail.Reply) { // RFC 3461, 4.4
		if !s.cfg.Offers.dsn(s) {
			return errNoParam
		}
		env.ID, r = xtext(v, maxEnvID)
		return r
	},
	"AUTH":        (*Session).authParam,
	"MT-PRIORITY": (*Session).priorityParam,
	"BY":          (*Session).deliverBy,
	"HOLDFOR":     (*Session).holdFor,
	"HOLDUNTIL":   (*Session).holdUntil,
	"REQUIRETLS": func(s *Session, env *mail.Envelope, _ string, given bool) *mail.Reply { // RFC 8689, section 4.1
		if s.TLS == nil {
			return errNoParam
		}
		env.RequireTLS = true
		return flag(given)
	},
}

// authParam is MAIL's AUTH (RFC 4954, section 5). A user is believed about
// himself, and our own hosts about their users; of anyone else's word nobody is
// known to have submitted the message.
func (s *Session) authParam(env *mail.Envelope, v string, _ bool) *mail.Reply {
	id, r := xtext(v, maxAUTH)
	if r != nil {
		return r
	}
	if id != "<>" {
		if _, err := mail.ParseAddress(id); err != nil {
			return errParam
		}
	}
	if !s.fromTrusted() && (s.User == "" || id != s.User) {
		id = "<>"
	}
	env.Auth = id
	return nil
}

// flag is the reply to the value of a parameter that has none.
func flag(given bool) *mail.Reply {
	if given {
		return errParam
	}
	return nil
}

// rcptParams are the parameters of RCPT that we announce.
var rcptParams = map[string]func(s *Session, rc *mail.Recipient, v string, given bool) *mail.Reply{
	"NOTIFY": func(s *Session, rc *mail.Recipient, v string, _ bool) *mail.Reply { // RFC 3461, 4.1
		if !s.cfg.Offers.dsn(s) {
			return errNoParam
		}
		n, ok := notify(v)
		if !ok {
			return errParam
		}
		rc.Notify = n
		return nil
	},
	"ORCPT": func(s *Session, rc *mail.Recipient, v string, _ bool) (r *mail.Reply) { // RFC 3461, 4.2
		if !s.cfg.Offers.dsn(s) {
			return errNoParam
		}
		rc.Original, r = orcpt(v, s.tx.Envelope.UTF8)
		return r
	},
	"RRVS": (*Session).validSince,
}

func notify(v string) (mail.Notify, bool) {
	words := map[string]mail.Notify{
		"NEVER": mail.NotifyNever, "SUCCESS": mail.NotifySuccess, "FAILURE": mail.NotifyFailure, "DELAY": mail.NotifyDelay,
	}
	var n mail.Notify
	for w := range strings.SplitSeq(strings.ToUpper(v), ",") {
		bit, ok := words[w]
		if !ok || n&bit != 0 {
			return 0, false
		}
		n |= bit
	}
	return n, n&mail.NotifyNever == 0 || n == mail.NotifyNever
}

// orcpt decodes the value of ORCPT.
func orcpt(v string, utf8ok bool) (string, *mail.Reply) {
	typ, addr, ok := strings.Cut(v, ";")
	if !ok || !isAtom(typ) || len(v) > maxORCPT {
		return "", errParam
	}
	var r *mail.Reply
	if strings.EqualFold(typ, "utf-8") {
		addr, r = utf8Addr(addr, utf8ok)
	} else {
		addr, r = xtext(addr, maxORCPT)
	}
	return typ + ";" + addr, r
}

// xtext decodes xtext (RFC 3461, section 4). Controls have no business in what
// will be written into DSNs and logs.
func xtext(v string, limit int) (string, *mail.Reply) {
	if v == "" || len(v) > limit {
		return "", errParam
	}
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		c := v[i]
		if c == '+' {
			hi, ok1 := hexDigit(v, i+1)
			lo, ok2 := hexDigit(v, i+2)
			if !ok1 || !ok2 {
				return "", errParam
			}
			c = hi<<4 | lo
			i += 2
		}
		if c < ' ' || c >= 0x7f {
			return "", errParam
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// hexDigit is the digit at v[i], in upper case as xtext wants it.
func hexDigit(v string, i int) (byte, bool) {
	if i >= len(v) {
		return 0, false
	}
	d := strings.IndexByte("0123456789ABCDEF", v[i])
	return byte(max(d, 0)), d >= 0
}

// utf8Addr decodes a utf-8-addr-xtext or -unitext (RFC 6533, section 3).
func utf8Addr(v string, utf8ok bool) (string, *mail.Reply) {
	if v == "" || !utf8ok && !isASCII(v) {
		return "", errParam
	}
	var b strings.Builder
	for v != "" {
		before, esc, found := strings.Cut(v, `\x{`)
		b.WriteString(before)
		if !found {
			break
		}
		digits, after, closed := strings.Cut(esc, "}")
		n, err := strconv.ParseUint(digits, 16, 21)
		if !closed || err != nil || !utf8.ValidRune(rune(n)) {
			return "", errParam
		}
		b.WriteRune(rune(n))
		v = after
	}
	s := b.String()
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 }) {
		return "", errParam
	}
	return s, nil
}

func isAtom(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != ""
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
