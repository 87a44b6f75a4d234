package wire

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

const (
	maxReplyLine = 512 // with its CRLF (RFC 5321, 4.5.3.1.5)
	gather       = 4 << 10
)

// output is replies that have not been sent: those to commands that came in
// one go leave in one go (RFC 2920, section 3.2).
type output struct {
	buf       []byte
	final     bool // a reply that ends the session is in it, or was sent
	permanent bool // it was a 5xx: there may be more input that nobody reads
	err       error
}

// add appends a reply, and those that follow it.
func (o *output) add(r *mail.Reply) {
	for ; r != nil && !o.final; r = r.Next {
		o.one(r)
	}
}

// one appends a reply, of which nothing can break its lines.
func (o *output) one(r *mail.Reply) {
	o.final = r.Close || r.Code == 421
	o.permanent = o.final && r.Permanent()
	code := r.Code
	if code < 200 || code > 599 {
		code = 451
	}
	lines := replyLines(r, code)
	for i, l := range lines {
		o.buf = strconv.AppendInt(o.buf, int64(code), 10)
		sep := byte(' ')
		if i < len(lines)-1 {
			sep = '-'
		}
		o.buf = append(o.buf, sep)
		o.buf = append(o.buf, l...)
		o.buf = append(o.buf, "\r\n"...)
	}
}

// replyLines returns the lines of a reply without their codes. Each bears the
// enhanced status code (RFC 2034, section 4), but for 3xx.
func replyLines(r *mail.Reply, code int) []string {
	enh := ""
	if r.Enh != "" && code/100 != 3 {
		enh = r.Enh + " "
	}
	room := maxReplyLine - len("250 \r\n") - len(enh)
	var lines []string
	for t := range strings.SplitSeq(r.Text, "\n") {
		t = printable(strings.TrimSuffix(t, "\r"), r.UTF8)
		for code != 334 && len(t) > room {
			cut := strings.LastIndexByte(t[:room], ' ') + 1
			if cut == 0 {
				for cut = room; !utf8.RuneStart(t[cut]); {
					cut--
				}
			}
			lines = append(lines, enh+t[:cut])
			t = t[cut:]
		}
		lines = append(lines, enh+t)
	}
	return lines
}

// printable puts a question mark in the place of what a reply cannot have:
// controls, and anything but ASCII where the client has not asked for it.
func printable(s string, wide bool) string {
	clean := func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && (!wide || !unicode.IsPrint(r)) {
			return '?'
		}
		return r
	}
	return strings.Map(clean, s)
}
