// Package file is a source of credentials in a text file.
package file

import (
	"context"
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/watchfile"
)

func init() { caddy.RegisterModule(new(Source)) }

const maxSize = 64 << 20

// Source is a text file of users, one on each line:
//
//	alice@example.org:$2a$14$...
//
// The hash is one that `caddy hash-password` makes: bcrypt or Argon2id. Lines
// that begin with "#" and empty ones are skipped. Users whose hashes cost less
// or more than most others' can be told from users that do not exist.
//
// The file is read again soon after it has changed; no reload is needed. While
// a new version has an error, the old one stays in force and the error is in the
// log. Replace the file by renaming another one over it, so that it is never
// read half written.
type Source struct {
	// Path is the file. It must exist when the configuration is loaded.
	Path string `json:"path,omitempty"`

	file *watchfile.File[contents]
}

type contents struct {
	users  login.Users
	sample string
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.file", New: func() caddy.Module { return new(Source) }}
}

// Provision reads the file.
func (s *Source) Provision(ctx caddy.Context) (err error) {
	if s.Path, err = caddy.NewReplacer().ReplaceOrErr(s.Path, true, true); err != nil {
		return err
	}
	s.file, err = watchfile.Open(s.Path, maxSize, parse, ctx.Slogger())
	return err
}

func parse(b []byte) (contents, error) {
	c := contents{users: login.Users{}}
	err := watchfile.Lines(b, func(_ int, line string) error {
		name, hash, ok := strings.Cut(line, ":")
		if !ok {
			return errors.New("not user:hash")
		}
		return c.users.Add(name, hash)
	})
	c.sample = c.users.Sample()
	return c, err
}

// PasswordHashes returns the hash of a user's password.
func (s *Source) PasswordHashes(_ context.Context, user string) ([]string, bool, error) {
	h, ok := s.file.Value().users[user]
	return []string{h}, ok, nil
}

// SampleHash returns a hash of the kind that most users have.
func (s *Source) SampleHash() string { return s.file.Value().sample }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	file <path>
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Path) {
		return d.ArgErr()
	}
	return caddyopt.End(d)
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
