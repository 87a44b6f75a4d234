package client

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// preflight refuses in the peer's stead what the peer could not be asked for,
// and reports whether any recipient is left.
func (s *sending) preflight() (proceed bool) {
	r := s.unsendable()
	if r == nil {
		r = s.untimely()
	}
	if r != nil {
		s.rest(Result{Reply: r, Phase: PhaseMail, Local: true})
		return false
	}
	utf8 := s.c.ext.Has("SMTPUTF8")
	for i, rcpt := range s.tx.Recipients {
		var r *mail.Reply
		switch {
		case !oneLine(rcpt.Address.Path()):
			r = mail.Refuse(553, "5.1.3", "recipient address has a control character")
		case !utf8 && !rcpt.Address.IsASCII():
			r = noUTF8()
		case !rcpt.RRVS.IsZero() && rcpt.RRVSReject && !s.c.ext.Has("RRVS"): // RFC 7293, section 3
			r = mail.Refuse(550, "5.7.19", "next hop cannot tell since when the mailbox has its owner")
		}
		if r != nil {
			s.results[i] = Result{Reply: r, Phase: PhaseRcpt, Local: true}
		} else {
			proceed = true
		}
	}
	return proceed
}

func noUTF8() *mail.Reply {
	return mail.Refuse(550, "5.6.7", "next hop does not support SMTPUTF8") // RFC 6531, section 3.5
}

// unsendable returns the reply for a message that the peer can't be given
// whoever its recipients are, or nil.
func (s *sending) unsendable() *mail.Reply {
	env, ext := s.tx.Envelope, s.c.ext
	_, onTLS := s.c.TLS()
	limit := ext.Size()
	switch {
	case !oneLine(env.From.Path()):
		return mail.Refuse(553, "5.1.7", "sender address has a control character")
	case env.RequireTLS && !s.c.opts.LMTP && (!onTLS || !ext.Has("REQUIRETLS")): // RFC 8689, section 4.2.1
		return mail.Refuse(550, "5.7.30", "next hop does not support REQUIRETLS")
	case !ext.Has("SMTPUTF8") && (env.UTF8 || !env.From.IsASCII()):
		return noUTF8()
	case env.Body == mail.Body8Bit && !ext.Has("8BITMIME"): // RFC 6152, section 3
		return mail.Refuse(554, "5.6.3", "next hop does not take 8-bit content")
	case env.Body == mail.BodyBinary && (!ext.Has("BINARYMIME") || !ext.Has("CHUNKING")): // RFC 3030, section 3
		return mail.Refuse(554, "5.6.3", "next hop does not take binary content")
	case limit > 0 && s.tx.Content.Size() > limit: // RFC 1870, section 6.1
		return mail.Refuse(552, "5.3.4", "message of %d octets is over the next hop's limit of %d", s.tx.Content.Size(), limit)
	}
	return nil
}

func oneLine(s string) bool { return !strings.ContainsAny(s, "\r\n\x00") }

// mailLine returns MAIL with those parameters that the peer announced.
func (s *sending) mailLine() string {
	env, ext := s.tx.Envelope, s.c.ext
	var b strings.Builder
	b.WriteString("MAIL FROM:" + env.From.Path())
	if ext.Has("SIZE") {
		b.WriteString(" SIZE=" + strconv.FormatInt(s.tx.Content.Size(), 10))
	}
	if env.Body != "" && ext.Has("8BITMIME") || env.Body == mail.BodyBinary {
		b.WriteString(" BODY=" + string(env.Body))
	}
	if s.utf8 {
		b.WriteString(" SMTPUTF8")
	}
	if env.RequireTLS && ext.Has("REQUIRETLS") {
		b.WriteString(" REQUIRETLS")
	}
	b.WriteString(s.timeParam() + s.priorityParam() + s.authParam())
	if ext.Has("DSN") {
		if env.Return != "" {
			b.WriteString(" RET=" + string(env.Return))
		}
		if x := xtext(env.ID); x != "" && len(x) <= 100 && printable(env.ID) { // RFC 3461, section 4.4
			b.WriteString(" ENVID=" + x)
		}
	}
	return b.String()
}

// needsUTF8 reports whether MAIL must say SMTPUTF8.
func (s *sending) needsUTF8() bool {
	need := s.tx.Envelope.UTF8 || !s.tx.Envelope.From.IsASCII()
	for _, r := range s.tx.Recipients {
		need = need || !r.Address.IsASCII()
	}
	return need && s.c.ext.Has("SMTPUTF8")
}

func (s *sending) rcptLine(r *mail.Recipient) string {
	line := "RCPT TO:" + r.Address.Path() + s.ownerParam(r)
	if !s.c.ext.Has("DSN") {
		return line
	}
	if n := notify(s.notifyFor(r)); n != "" {
		line += " NOTIFY=" + n
	}
	if o := orcpt(r.Original, s.utf8); o != "" && len(o) <= 500 { // RFC 3461, section 4.2
		line += " ORCPT=" + o
	}
	return line
}

// notify writes NOTIFY's value (RFC 3461, section 4.1), where NEVER stands alone.
func notify(n mail.Notify) string {
	if n&mail.NotifyNever != 0 {
		return "NEVER"
	}
	var words []string
	for _, w := range []struct {
		bit  mail.Notify
		word string
	}{{mail.NotifySuccess, "SUCCESS"}, {mail.NotifyFailure, "FAILURE"}, {mail.NotifyDelay, "DELAY"}} {
		if n&w.bit != 0 {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ",")
}

// orcpt encodes an original recipient, "type;address": in xtext, and a
// "utf-8" one, or one that must be, as RFC 6533, section 3 has it. It is ""
// for one that can't be said.
func orcpt(original string, utf8 bool) string {
	typ, addr, ok := strings.Cut(original, ";")
	if !ok || addr == "" || !isKeyword(typ) {
		return ""
	}
	if strings.EqualFold(typ, "utf-8") || !ascii(addr) {
		return "utf-8;" + utf8Addr(addr, utf8)
	}
	return typ + ";" + xtext(addr)
}

// xtext encodes s (RFC 3461, section 4).
func xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '+' || c == '=' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// utf8Addr encodes s as utf-8-addr-unitext, or where that can't be sent as
// utf-8-addr-xtext.
func utf8Addr(s string, unitext bool) string {
	var b strings.Builder
	for _, r := range s {
		if r > ' ' && r < 0x7f && r != '+' && r != '=' && r != '\\' || r >= 0xa0 && unitext {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\x{%02X}`, r)
		}
	}
	return b.String()
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}
