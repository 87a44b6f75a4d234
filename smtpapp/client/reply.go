package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Bounds of a reply. RFC 5321, section 4.5.3.1.5 has lines of 512 octets; some
// send longer ones, nobody honest as long as these.
const (
	maxReplyLine  = 4096    // octets with the line end; also the read buffer
	keptLines     = 100     // what is over is read and dropped
	keptOctets    = 8 << 10 // of text
	maxReplyLines = 1000    // what is over is an error
	maxReply      = 64 << 10
)

// readReply reads one reply of any number of lines. Its text is fit for logs
// and DSNs. Lines end with CRLF: with a bare LF for an end, a server that
// quotes a stranger's words would give replies of the stranger's making.
func readReply(r *bufio.Reader) (*mail.Reply, error) {
	var reply mail.Reply
	var text []string
	kept, total := 0, 0
	for n := 1; ; n++ {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		code, rest, more, err := parseReplyLine(line)
		if err != nil {
			return nil, err
		}
		if reply.Code == 0 {
			reply.Code = code
			reply.Enh, _ = cutEnhanced(rest, code)
		}
		total += len(line)
		switch {
		case code != reply.Code:
			return nil, fmt.Errorf("%w: a reply with codes %d and %d", ErrProtocol, reply.Code, code)
		case n > maxReplyLines || total > maxReply:
			return nil, fmt.Errorf("%w: reply too long", ErrProtocol)
		}
		if enh, after := cutEnhanced(rest, code); enh == reply.Enh {
			rest = after
		}
		if rest = clean(rest); n <= keptLines && kept+len(rest) <= keptOctets {
			text = append(text, rest)
			kept += len(rest) + 1
		}
		if !more {
			reply.Text = strings.Join(text, "\n")
			return &reply, nil
		}
	}
}

// readLine returns a line without its CRLF.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("%w: reply line too long", ErrProtocol)
	case err == io.EOF:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	s, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok {
		return "", fmt.Errorf("%w: reply line ends without CR", ErrProtocol)
	}
	return s, nil
}

// parseReplyLine splits a line (RFC 5321, section 4.2). A code alone will do.
func parseReplyLine(s string) (code int, text string, more bool, err error) {
	if len(s) < 3 || s[0] < '2' || s[0] > '5' || !digit(s[1]) || !digit(s[2]) ||
		len(s) > 3 && s[3] != ' ' && s[3] != '-' {
		return 0, "", false, fmt.Errorf("%w: not a reply: %q", ErrProtocol, clean(s[:min(len(s), 80)]))
	}
	code = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	if len(s) == 3 {
		return code, "", false, nil
	}
	return code, s[4:], s[3] == '-', nil
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// cutEnhanced splits an enhanced status code of the same class as code off
// the text (RFC 2034, section 4).
func cutEnhanced(text string, code int) (enh, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	part := strings.Split(word, ".")
	if len(part) != 3 || part[0] != string(rune('0'+code/100)) {
		return "", text
	}
	for _, p := range part[1:] {
		if p == "" || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return "", text
		}
	}
	return word, rest
}

// clean replaces what a log or a person could be misled by: control and format
// characters (direction overrides among them), line and paragraph separators,
// and what is not UTF-8.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029', r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, s)
}

// reply waits for a reply for as long as d.
func (c *Conn) reply(ctx context.Context, p Phase, d time.Duration) (*mail.Reply, error) {
	c.arm(ctx, d)
	r, err := readReply(c.r)
	if err != nil {
		return nil, c.fail(ctx, p, err)
	}
	r.Text = c.discreet(r.Text)
	c.log(ctx, "S", r.Error())
	if r.Code == 421 { // RFC 5321, section 3.8: it closes the connection
		c.broken = true
	}
	return r, nil
}

// exchange sends one command and waits for its reply.
func (c *Conn) exchange(ctx context.Context, p Phase, d time.Duration, line string) (*mail.Reply, error) {
	if c.broken {
		return nil, &Error{Phase: p, Err: ErrUnusable}
	}
	if strings.ContainsAny(line, "\r\n\x00") {
		return nil, &Error{Phase: p, Err: ErrLine}
	}
	c.say(ctx, d, line)
	if err := c.flush(ctx, p); err != nil {
		return nil, err
	}
	return c.reply(ctx, p, d)
}

// quiet makes sure that the peer has not said anything that it was not asked
// for: what comes next would be taken for the reply to our next command. If
// it said that it is going (421), that is what the error wraps.
func (c *Conn) quiet(ctx context.Context, p Phase) error {
	if c.broken {
		return &Error{Phase: p, Err: ErrUnusable}
	}
	spoke, err := c.pending(ctx)
	if err != nil {
		return c.fail(ctx, p, err)
	}
	if !spoke {
		return nil
	}
	r, err := c.reply(ctx, p, time.Second)
	if err != nil {
		return err
	}
	if r.Code == 421 {
		c.Close()
		return &RefusedError{p, r}
	}
	return c.fail(ctx, p, ErrUnsolicited)
}

// pending reports whether there are bytes to read now.
func (c *Conn) pending(ctx context.Context) (bool, error) {
	if c.r.Buffered() > 0 {
		return true, nil
	}
	if _, ok := c.conn.(*tls.Conn); ok {
		// With the deadline over, this sees what TLS has at hand and no more.
		c.raw.SetReadDeadline(past())
		if spoke, err := c.peek(); spoke || err != nil {
			return spoke, err
		}
	}
	wait := time.Millisecond // not a socket: a moment is all we can do
	if ready, ok := readable(c.raw); ok {
		if !ready {
			return false, nil
		}
		wait = 100 * time.Millisecond // TLS may have a record that is no data
	}
	c.raw.SetReadDeadline(time.Now().Add(wait))
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return c.peek()
}

func (c *Conn) peek() (bool, error) {
	_, err := c.r.Peek(1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return false, nil
	}
	return err == nil, err
}
