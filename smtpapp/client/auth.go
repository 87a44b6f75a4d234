package client

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Credentials are what Auth proves the client's identity with.
type Credentials struct {
	Username, Password string
}

// Auth authenticates by the first of PLAIN (RFC 4616) and LOGIN that the peer
// offers. A refusal is a *RefusedError, and the connection can still be used
// without. Both mechanisms show the password to the peer, so without TLS the
// error wraps ErrPlaintext, unless the options allow it; if neither is
// offered it wraps ErrNotOffered.
func (c *Conn) Auth(ctx context.Context, cred Credentials) error {
	if _, on := c.TLS(); !on && !c.opts.InsecureAuth {
		return &Error{Phase: PhaseAuth, Err: ErrPlaintext}
	}
	var steps []string
	switch {
	case c.ext.HasParam("AUTH", "PLAIN"):
		steps = []string{"AUTH PLAIN " + encode("\x00"+cred.Username+"\x00"+cred.Password)}
	case c.ext.HasParam("AUTH", "LOGIN"):
		steps = []string{"AUTH LOGIN", encode(cred.Username), encode(cred.Password)}
	default:
		return &Error{Phase: PhaseAuth, Err: fmt.Errorf("%w: AUTH PLAIN or LOGIN", ErrNotOffered)}
	}
	c.secrets = append(steps[:len(steps):len(steps)], cred.Password)
	for _, s := range steps {
		c.secrets = append(c.secrets, strings.TrimPrefix(s, "AUTH PLAIN "))
	}
	defer c.watch(ctx)()
	if err := c.quiet(ctx, PhaseAuth); err != nil {
		return err
	}
	return c.authenticate(ctx, steps)
}

// discreet is text without the secrets that the peer was told: a peer that
// repeats them would put them into logs and DSNs.
func (c *Conn) discreet(text string) string {
	for _, s := range c.secrets {
		if len(s) >= leastSecret && s != "AUTH LOGIN" {
			text = strings.ReplaceAll(text, s, "(secret)")
		}
	}
	return text
}

// leastSecret is the shortest that is looked for: what is shorter is in any text.
const leastSecret = 4

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// authenticate sends the lines of an exchange, each but the first on a 334.
func (c *Conn) authenticate(ctx context.Context, steps []string) error {
	var r *mail.Reply
	for i, step := range steps {
		var err error
		if r, err = c.secret(ctx, step); err != nil {
			return err
		}
		if r.Code != 334 {
			break
		}
		if i == len(steps)-1 { // it wants more than there is: call it off
			if r, err = c.secret(ctx, "*"); err != nil {
				return err
			}
		}
	}
	if r.Code == 235 {
		c.loggedIn = true
		return nil
	}
	if r.Code/100 < 4 {
		return c.fail(ctx, PhaseAuth, fmt.Errorf("%w: %d in answer to AUTH", ErrProtocol, r.Code))
	}
	return &RefusedError{PhaseAuth, r}
}

// secret sends a line that is not logged and waits for its reply.
func (c *Conn) secret(ctx context.Context, line string) (*mail.Reply, error) {
	c.log(ctx, "C", "(authentication)")
	c.out.ctx, c.out.timeout = ctx, c.opts.Timeouts.Command
	c.w.WriteString(line + "\r\n")
	if err := c.flush(ctx, PhaseAuth); err != nil {
		return nil, err
	}
	return c.reply(ctx, PhaseAuth, c.opts.Timeouts.Command)
}
