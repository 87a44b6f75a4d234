// Package dovecot is a source of credentials that asks Dovecot.
package dovecot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

func init() { caddy.RegisterModule(new(Source)) }

// Source is users that Dovecot knows. It asks Dovecot's auth server over its
// socket for clients, as a login process would, with the mechanism PLAIN:
//
//	service auth {
//	  unix_listener /run/dovecot/auth-smtp { mode = 0660 group = caddy }
//	}
//
// Dovecot is told the client's address, and whether it has TLS. It is to be
// trusted with passwords: over TCP they are not encrypted.
//
// Dovecot does not say whether a user is unknown or his password wrong, and so
// the next source is asked.
type Source struct {
	// Address is the socket: unix//run/dovecot/auth-smtp, or host:port.
	Address string `json:"address,omitempty"`

	// Service is what Dovecot is told that the login is for, %s in its
	// configuration. Default: smtp.
	Service string `json:"service,omitempty"`

	// Attributes are the names of extra fields in Dovecot's answer that others
	// may look at, as attributes of the user.
	Attributes []string `json:"attributes,omitempty"`

	// Timeout is for a login. Dovecot itself is slow to say no. Default: 30
	// seconds.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	client *client
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.dovecot", New: func() caddy.Module { return new(Source) }}
}

// Provision reads the address.
func (s *Source) Provision(ctx caddy.Context) error {
	if s.Service == "" {
		s.Service = "smtp"
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(30 * time.Second)
	}
	address, err := caddy.NewReplacer().ReplaceOrErr(s.Address, true, true)
	if err != nil {
		return fmt.Errorf("dovecot: %w", err)
	}
	network, addr, err := parseAddress(address)
	if err != nil {
		return err
	}
	d := upstream.Dialer{Env: env.FromContext(ctx)}
	s.client = newClient(func(ctx context.Context) (net.Conn, error) { return d.Dial(ctx, network, addr) })
	return nil
}

func parseAddress(s string) (network, addr string, err error) {
	a, err := caddy.ParseNetworkAddress(s)
	switch {
	case err != nil || s == "":
	case a.Network == "unix":
		return "unix", a.Host, nil
	case a.Network == "tcp" && a.StartPort != 0 && a.PortRangeSize() == 1 && a.Host != "":
		return "tcp", a.JoinHostPort(0), nil
	}
	return "", "", fmt.Errorf("dovecot: '%s' is neither unix/<path> nor <host>:<port>", s)
}

// Validate checks the options.
func (s *Source) Validate() error {
	if s.Timeout < 0 {
		return errors.New("dovecot: timeout is negative")
	}
	for _, a := range s.Attributes {
		if strings.HasPrefix(a, "pass") {
			return fmt.Errorf("dovecot: '%s' may be a password", a)
		}
	}
	return nil
}

// Cleanup closes the connection.
func (s *Source) Cleanup() error {
	if s.client != nil {
		s.client.close()
	}
	return nil
}

// maxPassword keeps a request within the lines that Dovecot reads.
const maxPassword = 4096

// CheckPassword asks Dovecot.
func (s *Source) CheckPassword(ctx context.Context, user, password string) (*login.Identity, bool, error) {
	if user == "" || password == "" || len(password) > maxPassword || strings.Contains(password, "\x00") {
		return nil, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	a, err := s.client.ask(ctx, s.params(login.ClientOf(ctx)), "\x00"+user+"\x00"+password)
	if err != nil {
		return nil, false, fmt.Errorf("dovecot: %w", err)
	}
	return s.judge(user, a)
}

func (s *Source) judge(user string, a answer) (*login.Identity, bool, error) {
	switch {
	case a.kind == "FAIL" && (a.has("temp") || a.fields["code"] == "temp_fail"):
		return nil, false, errors.New("dovecot: its user database cannot answer now")
	case a.kind == "FAIL":
		return nil, a.has("authz") || a.has("user_disabled") || a.has("pass_expired"), nil
	case a.kind != "OK":
		return nil, false, fmt.Errorf("dovecot: it answers PLAIN with %s", a.kind)
	case a.has("nologin"): // the password is right, but the user may not
		return nil, true, nil
	}
	attributes := map[string]string{}
	for _, name := range s.Attributes {
		if v, ok := a.fields[name]; ok {
			attributes[name] = v
		}
	}
	id, err := login.NewIdentity(user, a.fields["user"], nil, attributes)
	if err != nil {
		return nil, true, fmt.Errorf("dovecot: %w", err)
	}
	return id, true, nil
}

// params are those of a request that Dovecot makes use of in its log, its
// rules, and against guessing. "nologin" says that no login process follows.
func (s *Source) params(c login.Client) []string {
	p := []string{"service=" + s.Service, "nologin"}
	if c.TLS {
		p = append(p, "secured")
	}
	if c.Remote.IsValid() {
		p = append(p, "rip="+c.Remote.Addr().String(), "rport="+strconv.Itoa(int(c.Remote.Port())))
	}
	if c.Local.IsValid() {
		p = append(p, "lip="+c.Local.Addr().String(), "lport="+strconv.Itoa(int(c.Local.Port())))
	}
	return p
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	dovecot <address> {
//		service    <name>
//		attributes <name...>
//		timeout    <duration>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Address) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"service":    caddyopt.String(&s.Service),
		"attributes": caddyopt.Strings(&s.Attributes),
		"timeout":    caddyopt.Duration(&s.Timeout),
	})
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.Validator       = (*Source)(nil)
	_ caddy.CleanerUpper    = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
