// Package size matches messages by their size.
package size

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches messages whose content, header and body as received, has a
// size within bounds. What a client declared does not count.
type Matcher struct {
	// Min is the least size in octets. Default: 0.
	Min int64 `json:"min,omitempty"`

	// Max is the greatest size in octets. Default: 0, which is no bound.
	Max int64 `json:"max,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.size", New: func() caddy.Module { return new(Matcher) }}
}

// Stage is when the content is complete.
func (*Matcher) Stage() session.Stage { return session.StageMessage }

// Match reports whether the size is within the bounds.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	n := at.Message.Size()
	return n >= m.Min && (m.Max == 0 || n <= m.Max), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	size {
//		min <size>
//		max <size>
//	}
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.ArgErr()
		}
		err := caddyopt.Block(d, caddyopt.Table{"min": caddyopt.Size(&m.Min), "max": caddyopt.Size(&m.Max)})
		if err != nil {
			return err
		}
	}
	if m.Min == 0 && m.Max == 0 {
		return d.Err("size needs min or max")
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
