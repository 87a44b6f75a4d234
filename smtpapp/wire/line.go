package wire

import (
	"bytes"
	"io"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Replies to lines that are no commands. RFC 5321, section 2.3.8: only CRLF
// ends a line.
var (
	errLineLF    = &mail.Reply{Code: 500, Enh: "5.5.2", Text: "line does not end in CRLF"}
	errLineCR    = &mail.Reply{Code: 500, Enh: "5.5.2", Text: "line has a CR in it"}
	errLineNUL   = &mail.Reply{Code: 500, Enh: "5.5.2", Text: "line has a NUL octet in it", Close: true}
	errLineASCII = &mail.Reply{Code: 500, Enh: "5.5.2", Text: "line is not ASCII"}
	errLineLong  = &mail.Reply{Code: 500, Enh: "5.5.2", Text: "line too long", Close: true}
	errAuthLong  = &mail.Reply{Code: 500, Enh: "5.5.6", Text: "authentication exchange line is too long", Close: true}
	errLineTLS   = &mail.Reply{Code: 500, Enh: "5.5.2", Text: "TLS begins with STARTTLS here", Close: true}
)

// readLine reads a line without its end. It returns a reply if there is none
// to be had, or sets c.broken, or has the dispatcher leave.
func (c *Conn) readLine() (string, *mail.Reply) {
	wait, r := c.patience()
	if r != nil {
		return "", r
	}
	began := time.Now()
	if !c.turn.since.IsZero() { // it is the dispatcher that left, not the client that spoke
		began, c.turn.since = c.turn.since, time.Time{}
	}
	deadline := began.Add(wait)
	for scanned := 0; ; {
		b := c.in.bytes()
		end := bytes.IndexByte(b[scanned:], '\n')
		if end < 0 {
			scanned = len(b)
		} else {
			b = b[:scanned+end+1]
		}
		limit := c.lineLimit(b)
		switch {
		case !c.secure && len(b) > 0 && b[0] == 0x16: // a handshake record (RFC 8446, 5.1)
			return "", errLineTLS
		case len(b) > limit, end < 0 && len(b) == limit:
			return "", c.tooLong(b)
		case end >= 0:
			defer c.in.skip(len(b))
			return checkLine(b, c.cfg.BareLF)
		}
		until := deadline
		if c.turn.present && len(b) == 0 && c.leave.phase != InTransaction {
			until = began.Add(min(idleAfter, wait))
		}
		err := c.wait(began, until, len(b) == 0)
		if until != deadline && c.silent(err) {
			c.turn.dismissed, c.turn.since = true, began
			return "", nil
		}
		if err != nil {
			return "", c.lost(err, io.EOF)
		}
	}
}

// wait reads more of a line that the client has owed since it began. Where
// there is a hurry, it looks now and then whether that has become too long.
func (c *Conn) wait(began, until time.Time, idle bool) error {
	for {
		look := time.Now().Add(hurryCheck)
		if c.cfg.Hurry == nil || !look.Before(until) {
			return c.fill(until, idle)
		}
		err := c.fill(look, idle)
		if !c.silent(err) {
			return err
		}
		if c.cfg.Hurry() && time.Since(began) >= hurried {
			return errTimeout
		}
	}
}

func (c *Conn) lineLimit(b []byte) int {
	if c.isAuth(b) {
		return c.cfg.AuthLineLength
	}
	return c.cfg.LineLength
}

// isAuth reports whether a line that begins with b is of a SASL exchange.
func (c *Conn) isAuth(b []byte) bool {
	return c.turn.responding || len(b) >= 5 && strings.EqualFold(string(b[:5]), "AUTH ")
}

// tooLong is the reply to a line that is (RFC 4954, section 6, for AUTH).
func (c *Conn) tooLong(b []byte) *mail.Reply {
	if c.isAuth(b) {
		return errAuthLong
	}
	return errLineLong
}

// checkLine returns b without its end, if its octets are those of a line. The end
// may be a LF alone where that is said to be enough.
func checkLine(b []byte, bareLF bool) (string, *mail.Reply) {
	if bytes.IndexByte(b, 0) >= 0 {
		return "", errLineNUL
	}
	line, ok := bytes.CutSuffix(b, []byte("\r\n"))
	if !ok && !bareLF {
		return "", errLineLF
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	if bytes.IndexByte(line, '\r') >= 0 {
		return "", errLineCR
	}
	s := string(line)
	if !isASCII(s) && !mayBeUTF8(s) {
		return "", errLineASCII
	}
	return s, nil
}

// mayBeUTF8 reports whether a line is of one of the commands that have
// addresses (RFC 6531, section 3.1).
func mayBeUTF8(s string) bool {
	switch verb, _ := splitLine(s); verb {
	case "MAIL", "RCPT", "VRFY":
		return true
	}
	return false
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// splitLine parts a command line at its first space.
func splitLine(s string) (verb, arg string) {
	verb, arg, _ = strings.Cut(s, " ")
	return strings.ToUpper(verb), strings.Trim(arg, " ")
}
