package dsn

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

const dateFormat = "Mon, 2 Jan 2006 15:04:05 -0700" // RFC 5322, section 3.3

// maxText bounds what a remote host's words take up.
const maxText = 1000

// alphabet is what a notification may be written in.
type alphabet uint8

const (
	ascii alphabet = iota
	wide           // UTF-8, for which the next host must know SMTPUTF8
)

// header is that of the notification itself.
func (r *Report) header(w *reportWriter, ws words) *message.Header {
	h := new(message.Header)
	h.Append("Date", time.Now().Format(dateFormat))
	h.Append("From", "Mail Delivery System "+r.from().Path())
	h.Append("To", r.to().Path())
	h.Append("Subject", ws.subject)
	h.Append("Message-ID", "<"+rand.Text()+"@"+r.Hostname+">")
	if id := r.messageID(); id != "" {
		h.Append("In-Reply-To", id)
		h.Append("References", id)
	}
	h.Append("Auto-Submitted", "auto-replied") // RFC 3834, section 5
	if r.tlsOptional() {
		h.Append("TLS-Required", "No")
	}
	h.Append("MIME-Version", "1.0")
	if ws.language != "" {
		h.Append("Content-Language", ws.language) // RFC 3282
	}
	h.Append("Content-Type", w.contentType())
	if w.alphabet == wide {
		h.Append("Content-Transfer-Encoding", "8bit")
	}
	return h
}

// tlsOptional reports whether the sender would rather have the message delivered
// without TLS than not at all (RFC 8689, section 3), and so the notification. Who
// has said REQUIRETLS has not meant that.
func (r *Report) tlsOptional() bool {
	if r.Content == nil || r.Envelope.RequireTLS {
		return false
	}
	vs := r.Content.Header.Values("TLS-Required")
	return len(vs) == 1 && strings.EqualFold(strings.TrimSpace(vs[0]), "No")
}

// messageID is the failed message's, or "" where it is no msg-id (RFC 5322,
// section 3.6.4) that can be repeated.
func (r *Report) messageID() string {
	if r.Content == nil {
		return ""
	}
	id := r.Content.Header.Get("Message-ID")
	in, open := strings.CutPrefix(id, "<")
	in, closed := strings.CutSuffix(in, ">")
	left, right, at := strings.Cut(in, "@")
	bad := func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '@' }
	if !open || !closed || !at || left == "" || right == "" || len(id) > 500 || strings.ContainsFunc(left+right, bad) {
		return ""
	}
	return id
}

// fields are the groups of the delivery-status part: those of the message
// (RFC 3464, section 2.2) and then those of each recipient (section 2.3).
func (r *Report) fields(a alphabet) []*message.Header {
	h := new(message.Header)
	if id := r.Envelope.ID; id != "" {
		h.Append("Original-Envelope-Id", a.plain(id))
	}
	h.Append("Reporting-MTA", "dns; "+a.plain(r.Hostname))
	appendDate(h, "Arrival-Date", r.Arrived)
	appendDate(h, "Deliver-By-Date", r.Envelope.DeliverBy) // RFC 2852, section 5
	groups := []*message.Header{h}
	for i := range r.Recipients {
		groups = append(groups, r.Recipients[i].fields(a))
	}
	return groups
}

func (r *Recipient) fields(a alphabet) *message.Header {
	h := new(message.Header)
	if typ, addr, ok := strings.Cut(r.Original, ";"); ok {
		h.Append("Original-Recipient", a.typed(typ, addr))
	}
	h.Append("Final-Recipient", a.typed("rfc822", r.address().String()))
	h.Append("Action", r.Action.String())
	h.Append("Status", r.status())
	if r.RemoteMTA != "" {
		h.Append("Remote-MTA", "dns; "+a.plain(literal(r.RemoteMTA)))
	}
	if r.Reply != nil {
		h.Append("Diagnostic-Code", "smtp; "+a.plain(r.Reply.Error()))
	}
	appendDate(h, "Last-Attempt-Date", r.LastAttempt)
	if r.Action == Delayed {
		appendDate(h, "Will-Retry-Until", r.Until)
	}
	return h
}

// literal puts a host that is known by its address only into the form that such a
// domain has (RFC 5321, section 4.1.3).
func literal(host string) string {
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return host
	case ip.Is4():
		return "[" + host + "]"
	}
	return "[IPv6:" + host + "]"
}

func appendDate(h *message.Header, name string, t time.Time) {
	if !t.IsZero() {
		h.Append(name, t.Format(dateFormat))
	}
}

// status is the enhanced status code, of the remote host where it gave one that
// is well-formed (RFC 3463, section 2).
func (r *Recipient) status() string {
	if r.Reply != nil && isStatus(r.Reply.Status()) {
		return r.Reply.Status()
	}
	switch r.Action {
	case Failed:
		return "5.0.0"
	case Delayed:
		return "4.0.0"
	}
	return "2.0.0"
}

func isStatus(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[0] != "2" && parts[0] != "4" && parts[0] != "5" {
		return false
	}
	for _, p := range parts {
		if len(p) < 1 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}

// typed writes an address with its type. One that is not ASCII has the type
// utf-8 and, where only ASCII may be written, the form utf-8-addr-unitext
// (RFC 6533, section 3).
func (a alphabet) typed(typ, addr string) string {
	typ, addr = ascii.plain(strings.TrimSpace(typ)), wide.plain(addr)
	if isASCII(addr) {
		return typ + ";" + addr
	}
	if a == ascii {
		addr = unitext(addr)
	}
	return "utf-8;" + addr
}

func unitext(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c < utf8.RuneSelf && c != '\\' {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, `\x{%X}`, c)
		}
	}
	return b.String()
}

// plain makes one line of text from outside: of printing characters of the
// alphabet, and not too long.
func (a alphabet) plain(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "?")
	s = strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\r' || c == '\t':
			return ' '
		case !unicode.IsPrint(c), c >= utf8.RuneSelf && a == ascii:
			return '?'
		}
		return c
	}, s)
	return strings.TrimSpace(s)
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c >= utf8.RuneSelf })
}
