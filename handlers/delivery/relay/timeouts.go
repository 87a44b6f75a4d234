package relay

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/client"
)

// Timeouts are how long to wait for a peer, in each step. Zero is the default,
// which is that of RFC 5321, section 4.5.3.2, where it has one.
type Timeouts struct {
	// Handshake is for TLS. Default: 1m.
	Handshake caddy.Duration `json:"handshake,omitempty"`

	// Greeting is for the first reply. Default: 5m.
	Greeting caddy.Duration `json:"greeting,omitempty"`

	// Command is for the replies to EHLO, AUTH, MAIL and RCPT, each. Default: 5m.
	Command caddy.Duration `json:"command,omitempty"`

	// Data is for the reply to DATA. Default: 2m.
	Data caddy.Duration `json:"data,omitempty"`

	// Block is for each write of content, and the reply to each chunk but the
	// last. Default: 3m.
	Block caddy.Duration `json:"block,omitempty"`

	// Dot is for the reply to the content. Default: 10m, and not less: who gives
	// up earlier sends messages twice that the peer has taken (RFC 1047).
	Dot caddy.Duration `json:"dot,omitempty"`

	// Reset is for the reply to RSET. Default: 20s.
	Reset caddy.Duration `json:"reset,omitempty"`

	// Quit is for the reply to QUIT. Default: 5s.
	Quit caddy.Duration `json:"quit,omitempty"`
}

// leastDot is RFC 5321's, section 4.5.3.2.6.
const leastDot = 10 * time.Minute

// mostTimeout is for any step: a longer one would be a peer that is never given
// up.
const mostTimeout = time.Hour

// client returns what they mean to package client, or says what would not work.
func (t *Timeouts) client(connect caddy.Duration) (client.Timeouts, error) {
	if d := time.Duration(t.Dot); d != 0 && d < leastDot {
		return client.Timeouts{}, fmt.Errorf("timeouts: dot: %v is less than 10m: messages that the peer has taken would be sent again", d)
	}
	for name, d := range map[string]caddy.Duration{
		"connect_timeout": connect, "handshake": t.Handshake, "greeting": t.Greeting, "command": t.Command,
		"data": t.Data, "block": t.Block, "dot": t.Dot, "reset": t.Reset, "quit": t.Quit,
	} {
		if d < 0 || time.Duration(d) > mostTimeout {
			return client.Timeouts{}, fmt.Errorf("timeouts: %s: %v is not up to %v", name, time.Duration(d), mostTimeout)
		}
	}
	return client.Timeouts{
		Connect: time.Duration(connect), TLS: time.Duration(t.Handshake),
		Greeting: time.Duration(t.Greeting), Command: time.Duration(t.Command),
		Data: time.Duration(t.Data), Block: time.Duration(t.Block), Dot: time.Duration(t.Dot),
		Reset: time.Duration(t.Reset), Quit: time.Duration(t.Quit),
	}, nil
}

func (t *Timeouts) read(d *caddyfile.Dispenser) error {
	return caddyopt.Block(d, caddyopt.Table{
		"handshake": caddyopt.Duration(&t.Handshake),
		"greeting":  caddyopt.Duration(&t.Greeting),
		"command":   caddyopt.Duration(&t.Command),
		"data":      caddyopt.Duration(&t.Data),
		"block":     caddyopt.Duration(&t.Block),
		"dot":       caddyopt.Duration(&t.Dot),
		"reset":     caddyopt.Duration(&t.Reset),
		"quit":      caddyopt.Duration(&t.Quit),
	})
}
