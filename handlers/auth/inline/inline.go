// Package inline is a source of credentials within the configuration.
package inline

import (
	"context"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func init() { caddy.RegisterModule(new(Source)) }

// Source is users that are written in the configuration. Where they change often
// a file is better, since each change of the configuration reloads all of it.
type Source struct {
	// Users are the secrets of users by their names: password hashes as `caddy
	// hash-password` makes them (bcrypt or Argon2id), keys for SCRAM as
	// PostgreSQL and RFC 5803 write them (SCRAM-SHA-256$...), the password
	// itself for CRAM-MD5 ({PLAIN}...), or several of these with spaces between
	// them. Placeholders such as {env.HASH} are put in when the configuration is
	// loaded.
	Users map[string]string `json:"users,omitempty"`

	users  login.Users
	sample string
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.inline", New: func() caddy.Module { return new(Source) }}
}

// Provision checks names and hashes.
func (s *Source) Provision(caddy.Context) error {
	s.users = login.Users{}
	r := caddy.NewReplacer()
	r.Map(func(key string) (any, bool) { return "{" + key + "}", login.IsMark(key) }) // {PLAIN} is no placeholder
	for name, secret := range s.Users {
		secret, err := r.ReplaceOrErr(secret, true, true)
		if err != nil {
			return fmt.Errorf("user '%s': %w", name, err)
		}
		if err := s.users.Add(name, "", secret); err != nil {
			return err
		}
	}
	s.sample = s.users.Sample()
	return nil
}

// Account returns what a user may log in with.
func (s *Source) Account(_ context.Context, user string) (*login.Account, error) {
	return s.users[user], nil
}

// Forms are those in which every user has a secret.
func (s *Source) Forms() login.Forms { return s.users.Forms() }

// AnyForms are those in which some user has a secret.
func (s *Source) AnyForms() login.Forms { return s.users.AnyForms() }

// SampleHash returns a hash of the kind that most users have.
func (s *Source) SampleHash() string { return s.sample }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	inline {
//		<user> <secret...>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	s.Users = map[string]string{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, secret := d.Val(), strings.Join(d.RemainingArgs(), " ")
		if secret == "" {
			return d.ArgErr()
		}
		if _, ok := s.Users[name]; ok {
			return d.Errf("user '%s' is given twice", name)
		}
		s.Users[name] = secret
	}
	if len(s.Users) == 0 {
		return d.Err("no users")
	}
	return nil
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
