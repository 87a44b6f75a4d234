// Package inline is a source of credentials within the configuration.
package inline

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func init() { caddy.RegisterModule(new(Source)) }

// Source is users that are written in the configuration. Where they change often
// a file is better, since each change of the configuration reloads all of it.
type Source struct {
	// Users are the password hashes of users by their names, as `caddy
	// hash-password` makes them: bcrypt or Argon2id. Placeholders such as
	// {env.HASH} are put in when the configuration is loaded.
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
	for name, hash := range s.Users {
		hash, err := caddy.NewReplacer().ReplaceOrErr(hash, true, true)
		if err != nil {
			return fmt.Errorf("user '%s': %w", name, err)
		}
		if err := s.users.Add(name, hash); err != nil {
			return err
		}
	}
	s.sample = s.users.Sample()
	return nil
}

// PasswordHashes returns the hash of a user's password.
func (s *Source) PasswordHashes(_ context.Context, user string) ([]string, bool, error) {
	h, ok := s.users[user]
	return []string{h}, ok, nil
}

// SampleHash returns a hash of the kind that most users have.
func (s *Source) SampleHash() string { return s.sample }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	inline {
//		<user> <hash>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	s.Users = map[string]string{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, hash := d.Val(), ""
		if !d.AllArgs(&hash) {
			return d.ArgErr()
		}
		if _, ok := s.Users[name]; ok {
			return d.Errf("user '%s' is given twice", name)
		}
		s.Users[name] = hash
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
