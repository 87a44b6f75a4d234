package client

import (
	"context"
	"crypto/tls"
	"slices"
	"strconv"
	"strings"
)

// Extensions are the keywords that a peer announced, in upper case, with
// their parameters (RFC 5321, section 4.1.1.1).
type Extensions map[string][]string

// Has reports whether the peer announced keyword, which is in upper case.
func (x Extensions) Has(keyword string) bool {
	_, ok := x[keyword]
	return ok
}

// HasParam reports whether keyword was announced with param, in upper case.
func (x Extensions) HasParam(keyword, param string) bool {
	return slices.ContainsFunc(x[keyword], func(p string) bool { return strings.EqualFold(p, param) })
}

// Size returns the largest message that the peer says it takes, in octets, and
// 0 if it says nothing of it (RFC 1870, section 4).
func (x Extensions) Size() int64 {
	if p := x["SIZE"]; len(p) > 0 {
		if n, err := strconv.ParseInt(p[0], 10, 64); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// Limit returns a number of RFC 9422: RCPTMAX, MAILMAX or RCPTDOMAINMAX.
func (x Extensions) Limit(name string) (n int, ok bool) {
	for _, p := range x["LIMITS"] {
		if k, v, _ := strings.Cut(p, "="); strings.EqualFold(k, name) {
			if n, err := strconv.Atoi(v); err == nil && n > 0 {
				return n, true
			}
		}
	}
	return 0, false
}

// parseExtensions reads the lines after the first of a reply to EHLO. Lines
// that are no announcement are skipped.
func parseExtensions(text string) Extensions {
	x := make(Extensions)
	_, lines, _ := strings.Cut(text, "\n")
	for line := range strings.SplitSeq(lines, "\n") {
		if len(line) > 5 && strings.EqualFold(line[:5], "AUTH=") { // older than RFC 4954, and still about
			line = "AUTH " + line[5:]
		}
		f := strings.Fields(line)
		if len(f) == 0 || !isKeyword(f[0]) {
			continue
		}
		k := strings.ToUpper(f[0])
		x[k] = append(x[k], f[1:]...)
	}
	return x
}

func isKeyword(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if !digit(s[i]) && (c < 'a' || c > 'z') && (s[i] != '-' || i == 0) {
			return false
		}
	}
	return s != ""
}

// Hello reads the greeting, if it was not yet, and says EHLO or LHLO. A peer
// that refuses EHLO for good is tried with HELO (RFC 5321, section 3.2).
func (c *Conn) Hello(ctx context.Context) error {
	defer c.watch(ctx)()
	if !c.greeted {
		r, err := c.reply(ctx, PhaseGreeting, c.opts.Timeouts.Greeting)
		if err != nil {
			return err
		}
		if r.Code != 220 {
			c.Close()
			return &RefusedError{PhaseGreeting, r}
		}
		c.greeted = true
	}
	return c.hello(ctx)
}

func (c *Conn) hello(ctx context.Context) error {
	c.ext, c.ready = nil, false
	if err := c.quiet(ctx, PhaseHello); err != nil {
		return err
	}
	verb := "EHLO "
	if c.opts.LMTP {
		verb = "LHLO "
	}
	r, err := c.exchange(ctx, PhaseHello, c.opts.Timeouts.Command, verb+c.opts.Hello)
	if err == nil && r.Permanent() && !c.opts.LMTP {
		verb = "HELO "
		r, err = c.exchange(ctx, PhaseHello, c.opts.Timeouts.Command, verb+c.opts.Hello)
	}
	if err != nil {
		return err
	}
	if r.Code != 250 {
		c.Close()
		return &RefusedError{PhaseHello, r}
	}
	if verb != "HELO " {
		c.ext = parseExtensions(r.Text)
	}
	for k := range c.ext {
		if c.ignored(k) {
			delete(c.ext, k)
		}
	}
	first, _, _ := strings.Cut(r.Text, "\n")
	c.peer, _, _ = strings.Cut(strings.TrimSpace(first), " ")
	c.ready = true
	return nil
}

// Peer returns the name by which the peer has said hello (RFC 5321, section
// 4.1.1.1). It may say anything.
func (c *Conn) Peer() string { return c.peer }

// StartTLS turns TLS on (RFC 3207) and says hello again. What the peer said
// before is forgotten; a byte that it sent after its 220 and before the
// handshake is an injection, and the end of the connection. A *RefusedError
// leaves the connection usable as it was.
func (c *Conn) StartTLS(ctx context.Context, config *tls.Config) error {
	defer c.watch(ctx)()
	if _, on := c.TLS(); on || !c.ext.Has("STARTTLS") {
		return &Error{Phase: PhaseStartTLS, Err: ErrNotOffered}
	}
	if err := c.quiet(ctx, PhaseStartTLS); err != nil {
		return err
	}
	r, err := c.exchange(ctx, PhaseStartTLS, c.opts.Timeouts.Command, "STARTTLS")
	if err != nil {
		return err
	}
	if r.Code != 220 {
		return &RefusedError{PhaseStartTLS, r}
	}
	if c.r.Buffered() > 0 {
		return c.fail(ctx, PhaseStartTLS, ErrUnsolicited)
	}
	if err := c.handshake(ctx, config); err != nil {
		return err
	}
	return c.hello(ctx)
}

// handshake puts TLS on the connection.
func (c *Conn) handshake(ctx context.Context, config *tls.Config) error {
	c.arm(ctx, c.opts.Timeouts.TLS)
	hctx, cancel := context.WithTimeout(ctx, c.opts.Timeouts.TLS)
	defer cancel()
	t := tls.Client(c.raw, config)
	if err := t.HandshakeContext(hctx); err != nil {
		return c.fail(ctx, PhaseStartTLS, err)
	}
	c.layer(t)
	return nil
}
