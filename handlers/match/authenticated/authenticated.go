// Package authenticated matches clients that have logged in.
package authenticated

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches clients that have logged in.
type Matcher struct {
	// Users are names, one of which it has to be; "*" in them stands for any run
	// of characters. Default: any user.
	Users []string `json:"users,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.authenticated", New: func() caddy.Module { return new(Matcher) }}
}

// Stage is MAIL, from which on nobody can log in any more.
func (*Matcher) Stage() session.Stage { return session.StageMail }

// Match reports whether the client is a user that is wanted.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	user := at.Session.User
	if user == "" || len(m.Users) == 0 {
		return user != "", nil
	}
	for _, p := range m.Users {
		if pattern.Glob(p, user) {
			return true, nil
		}
	}
	return false, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	authenticated [<user...>]
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		m.Users = append(m.Users, d.RemainingArgs()...)
		if err := caddyopt.End(d); err != nil {
			return err
		}
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
