// Package file is a source of credentials in a text file.
package file

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/userfile"
	"github.com/caddymail/caddy-smtp/smtpapp/watchfile"
)

func init() { caddy.RegisterModule(new(Source)) }

// Source is a text file of users, with a line for each secret:
//
//	alice@example.org:$argon2id$... SCRAM-SHA-256$... address=alice@example.org
//	alice@example.org:$argon2id$... name=phone created=2026-11-25T12:00:00Z
//	bob:$2a$14$...
//
// `caddy smtp user` writes such lines. Behind the colon stand, with spaces between
// them, forms of the secret: a hash of bcrypt or Argon2id, as `caddy
// hash-password` makes it, keys for SCRAM (RFC 5803), {PLAIN} and the password for
// CRAM-MD5; and key=value. A name makes the line an app password, or that of a
// device. An address is one that the user may send from (`sender_login`), *@domain
// for all of a domain; there may be several. Other keys than name, created and
// address are attributes, for {smtp.auth.attr.*}. A line may hold addresses and
// attributes alone. Lines that begin with "#" are comments, those that begin with
// a space go on with the line before. Users whose hashes cost less or more than
// most others' can be told from users that do not exist.
//
// The file is read again soon after it has changed; no reload is needed. While
// a new version has an error, the old one stays in force and the error is in the
// log. Replace the file by renaming another one over it, so that it is never
// read half written. A file that everybody may write is not read at all, nor one
// with a password as it is that everybody may read.
type Source struct {
	// Path is the file. It must exist when the configuration is loaded.
	Path string `json:"path,omitempty"`

	// Used is the file in which it is kept when each secret was used last: some
	// minutes after a login. It need not exist, but the server must be able to
	// write in its folder. "off": it is not kept. Default: the path with ".used"
	// behind it.
	Used string `json:"used,omitempty"`

	file *watchfile.File[contents]
	uses *userfile.Uses
}

type contents struct {
	users      login.Users
	sample     string
	every, any login.Forms
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.file", New: func() caddy.Module { return new(Source) }}
}

// Provision reads the file.
func (s *Source) Provision(ctx caddy.Context) (err error) {
	repl := caddy.NewReplacer()
	if s.Path, err = repl.ReplaceOrErr(s.Path, true, true); err != nil {
		return err
	}
	if s.Used, err = repl.ReplaceOrErr(s.Used, true, true); err != nil {
		return err
	}
	log := plainlog.New(ctx.Slogger())
	parse := func(b []byte) (contents, error) { return s.parse(b, log) }
	if s.file, err = watchfile.Open(s.Path, userfile.MaxSize, parse, log); err != nil {
		return err
	}
	switch s.Used {
	case "off":
		return nil
	case "":
		s.Used = s.Path + ".used"
	}
	s.uses = userfile.NewUses(s.Used, s.has, log)
	return nil
}

func (s *Source) parse(b []byte, log *slog.Logger) (c contents, err error) {
	f, err := userfile.Parse(b)
	if err != nil {
		return c, err
	}
	info, err := os.Stat(s.Path)
	if err != nil {
		return c, err
	}
	warning, err := userfile.CheckMode(info.Mode(), f.Plain())
	if err != nil {
		return c, err
	}
	if warning != "" {
		log.Warn("file of users: "+warning, "file", s.Path)
	}
	if c.users, err = f.Users(); err != nil {
		return c, fmt.Errorf("users: %w", err)
	}
	c.sample, c.every, c.any = c.users.Sample(), c.users.Forms(), c.users.AnyForms()
	return c, nil
}

// Account returns what a user may log in with.
func (s *Source) Account(_ context.Context, user string) (*login.Account, error) {
	return s.file.Value().users[user], nil
}

func (s *Source) has(u userfile.Use) bool {
	a := s.file.Value().users[u.User]
	if a == nil {
		return false
	}
	for i := range a.Secrets {
		if a.Secrets[i].Name == u.Name {
			return true
		}
	}
	return false
}

// LoggedIn notes that a secret was used.
func (s *Source) LoggedIn(id *login.Identity) {
	if s.uses != nil {
		s.uses.Note(userfile.Use{User: id.User, Name: id.Secret})
	}
}

// Cleanup writes down what is left to write.
func (s *Source) Cleanup() error {
	if s.uses != nil {
		s.uses.Close()
	}
	return nil
}

// Forms are those in which every user has a secret.
func (s *Source) Forms() login.Forms { return s.file.Value().every }

// AnyForms are those in which some user has a secret.
func (s *Source) AnyForms() login.Forms { return s.file.Value().any }

// SampleHash returns a secret of the kind that most users have.
func (s *Source) SampleHash() string { return s.file.Value().sample }

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	file <path> {
//		used <path>|off
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Path) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{"used": caddyopt.String(&s.Used)})
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.CleanerUpper    = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
