// Package execauth is a source of credentials that runs a program.
package execauth

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func init() { caddy.RegisterModule(new(Source)) }

// How a program gets the name and the password.
const (
	inputLines         = "lines"
	inputNull          = "null"
	inputCheckpassword = "checkpassword"
)

// Source is users that a program knows. It is run for each login, without a
// shell, with the arguments that are configured and nothing of the client's
// among them. Standard input has the name, the password, the client's address
// and the mechanism, each ended by a line feed. The exit code says what to do:
//
//	0        the password is right
//	1        it is wrong
//	2, 3     there is no such user; the next source is asked
//	75, 111  try again later, and so is any other
//
// If it writes something to standard output, that is who the user is, in JSON
// of which only the user must be there:
//
//	{"user": "alice@example.org", "addresses": ["*@example.org"], "attributes": {"quota": 100}}
//
// Its environment is PATH, SMTP_REMOTE_IP, SMTP_MECHANISM, TCPREMOTEIP, and what
// Env adds. What it writes to standard error is lost. It runs as the user that
// Caddy runs as; one that takes too long is killed with its process group.
type Source struct {
	// Command is the program, an absolute path, and its arguments. {env.*} and
	// {file.*} in them are put in when the configuration is loaded.
	Command []string `json:"command,omitempty"`

	// Input is lines; or null, where each value ends with a null byte in the
	// place of a line feed, so that passwords may have line breaks; or
	// checkpassword, for programs with that interface
	// (https://cr.yp.to/checkpwd/interface.html): file descriptor 3 has the
	// name, the password, and a time, each ended by a null byte. Default: lines,
	// and passwords with line breaks are wrong then.
	Input string `json:"input,omitempty"`

	// Env are further variables of its environment. {env.*} and {file.*} in the
	// values are put in when the configuration is loaded.
	Env map[string]string `json:"env,omitempty"`

	// Concurrency is how many may run at a time. Default: 4.
	Concurrency int `json:"concurrency,omitempty"`

	// Timeout is for a login, with waiting for others. Default: 10 seconds.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	command []string
	env     []string
	slots   chan struct{}
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.exec", New: func() caddy.Module { return new(Source) }}
}

// Provision fills in the command.
func (s *Source) Provision(caddy.Context) error {
	if s.Input == "" {
		s.Input = inputLines
	}
	if s.Concurrency == 0 {
		s.Concurrency = 4
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(10 * time.Second)
	}
	s.slots = make(chan struct{}, max(s.Concurrency, 1))
	r := caddy.NewReplacer()
	for _, arg := range s.Command {
		s.command = append(s.command, r.ReplaceKnown(arg, "")) // other braces may be the program's
	}
	s.env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for name, value := range s.Env {
		value, err := r.ReplaceOrErr(value, true, true)
		if err != nil {
			return fmt.Errorf("exec: env '%s': %w", name, err)
		}
		s.env = append(s.env, name+"="+value)
	}
	slices.Sort(s.env[1:])
	return nil
}

// Validate checks the options.
func (s *Source) Validate() error {
	switch {
	case len(s.command) == 0 || !filepath.IsAbs(s.command[0]):
		return errors.New("exec: the program is not an absolute path")
	case s.Input != inputLines && s.Input != inputNull && s.Input != inputCheckpassword:
		return fmt.Errorf("exec: input '%s' is none of %s, %s and %s", s.Input, inputLines, inputNull, inputCheckpassword)
	case s.Concurrency < 0:
		return errors.New("exec: concurrency is negative")
	case s.Timeout < 0:
		return errors.New("exec: timeout is negative")
	}
	for name := range s.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("exec: '%s' is not the name of a variable", name)
		}
	}
	return nil
}

// maxPassword keeps what a program gets within the buffer of a pipe.
const maxPassword = 2048

// CheckPassword runs the program.
func (s *Source) CheckPassword(ctx context.Context, user, password string) (*login.Identity, bool, error) {
	bad := "\x00"
	if s.Input == inputLines {
		bad = "\x00\r\n"
	}
	if user == "" || password == "" || len(password) > maxPassword || strings.ContainsAny(user+password, bad) {
		return nil, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, false, errors.Join(errors.New("exec: too many logins at a time"), ctx.Err())
	}
	code, out, err := s.run(ctx, user, password)
	if err != nil {
		return nil, false, fmt.Errorf("exec: %w", err)
	}
	return judge(user, code, out)
}

func judge(user string, code int, out []byte) (*login.Identity, bool, error) {
	switch code {
	case 0:
	case 1:
		return nil, true, nil
	case 2, 3:
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("exec: the program ends with %d", code)
	}
	if len(out) == 0 {
		return &login.Identity{User: user}, true, nil
	}
	id, err := login.ParseIdentity(user, out)
	if err != nil {
		return nil, true, fmt.Errorf("exec: %w", err)
	}
	return id, true, nil
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	exec <program> <args...> {
//		input       lines|null|checkpassword
//		env         <name> <value>
//		concurrency <number>
//		timeout     <duration>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if s.Command = d.RemainingArgs(); len(s.Command) == 0 {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"input":       caddyopt.String(&s.Input),
		"env":         s.parseEnv,
		"concurrency": caddyopt.Int(&s.Concurrency, 1),
		"timeout":     caddyopt.Duration(&s.Timeout),
	})
}

func (s *Source) parseEnv(d *caddyfile.Dispenser) error {
	var name, value string
	if !d.AllArgs(&name, &value) {
		return d.ArgErr()
	}
	if _, ok := s.Env[name]; ok {
		return d.Errf("variable '%s' is given twice", name)
	}
	if s.Env == nil {
		s.Env = map[string]string{}
	}
	s.Env[name] = value
	return nil
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.Validator       = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
