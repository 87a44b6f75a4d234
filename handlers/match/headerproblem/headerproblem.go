// Package headerproblem matches messages whose author depends on the reader.
package headerproblem

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/originator"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches messages whose header has one of these kinds of problems, in
// the words of the strict_header handler; without any, those over which mail
// programs disagree. It reads the header itself, and does not need that handler.
// Its JSON is a list of kinds.
type Matcher []string

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.header_problem", New: func() caddy.Module { return new(Matcher) }}
}

// Provision checks the kinds.
func (m *Matcher) Provision(caddy.Context) error {
	known := map[string]bool{}
	for _, k := range originator.Kinds() {
		known[string(k)] = true
	}
	for _, k := range *m {
		if !known[k] {
			return fmt.Errorf("header_problem: '%s' is no kind of problem", k)
		}
	}
	return nil
}

// Stage is that of the message.
func (*Matcher) Stage() session.Stage { return session.StageMessage }

// Match reports whether the header has one of the problems.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	o := originator.Read(at.Message.Header)
	if len(*m) == 0 {
		_, bad := o.Ambiguous()
		return bad, nil
	}
	for _, k := range *m {
		k := originator.Kind(k)
		if o.Has(k) && (k != originator.EightBit || !at.Transaction.Envelope.UTF8) {
			return true, nil
		}
	}
	return false, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	header_problem [<kinds...>]
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		*m = append(*m, d.RemainingArgs()...)
		if d.NextBlock(0) {
			return d.ArgErr()
		}
		if err := m.Provision(caddy.Context{}); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddy.Provisioner     = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
