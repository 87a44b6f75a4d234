package relay

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/nexthop"
)

// settle fills in what is not given, and refuses what cannot be.
func (a *Agent) settle(hostname string) error {
	if a.Hello == "" {
		a.Hello = hostname
	}
	if _, err := mail.ParseDomain(a.Hello); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if a.ConnectTimeout == 0 {
		a.ConnectTimeout = caddy.Duration(30 * time.Second)
	}
	if a.IdleTimeout == 0 {
		a.IdleTimeout = caddy.Duration(5 * time.Second)
	}
	if a.Auth != nil && len(a.Hosts) == 0 {
		return errors.New("auth is for smarthosts: name one")
	}
	if err := a.settleHosts(); err != nil {
		return err
	}
	return a.settleTLS()
}

// settleHosts finds out the address of each smarthost, and from their ports
// whether they begin with TLS.
func (a *Agent) settleHosts() error {
	implicit := 0
	for _, given := range a.Hosts {
		addr, err := caddy.NewReplacer().ReplaceOrErr(given, true, true)
		if err != nil {
			return err
		}
		h, err := nexthop.FixedHost("tcp", a.withPort(addr))
		if err != nil {
			return fmt.Errorf("'%s' is not a host and a port: %w", given, err)
		}
		if strings.HasSuffix(h.String(), ":465") {
			implicit++
		}
		a.smarthosts = append(a.smarthosts, h)
	}
	if a.Port == 0 {
		a.Port = 25
	}
	switch {
	case a.TLS != "" || implicit == 0:
	case implicit < len(a.Hosts):
		return errors.New("port 465 begins with TLS, other ports do not: make them two agents, or say which tls")
	default:
		a.TLS = string(nexthop.TLSImplicit)
	}
	return nil
}

// withPort adds the default port to an address that has none.
func (a *Agent) withPort(addr string) string {
	if _, _, err := net.SplitHostPort(addr); err == nil {
		return addr
	}
	port := a.Port
	switch {
	case port != 0:
	case a.TLS == string(nexthop.TLSImplicit):
		port = 465
	case a.Auth != nil:
		port = 587
	default:
		port = 25
	}
	return net.JoinHostPort(strings.Trim(addr, "[]"), fmt.Sprint(port))
}

func (a *Agent) settleTLS() error {
	if a.TLS == "" {
		a.TLS = string(nexthop.TLSOpportunistic)
		if a.Auth != nil {
			a.TLS = string(nexthop.TLSRequired)
		}
	}
	if err := a.setTLS(a.TLS); err != nil {
		return err
	}
	verified := nexthop.TLSMode(a.TLS).Verified()
	if a.Auth != nil && !verified {
		return fmt.Errorf("tls %s would show the password to others: with auth, tls is required or implicit", a.TLS)
	}
	if a.InsecureSkipVerify && !verified {
		return fmt.Errorf("tls %s verifies nothing that insecure_skip_verify could skip", a.TLS)
	}
	return nil
}

func (a *Agent) setTLS(s string) error {
	_, err := nexthop.ParseTLSMode(s)
	if err == nil {
		a.TLS = s
	}
	return err
}

// credentials are those of the configuration, their placeholders replaced.
func (a *Agent) credentials() (*client.Credentials, error) {
	if a.Auth == nil {
		return nil, nil
	}
	c := &client.Credentials{}
	for _, f := range []struct {
		name, in string
		out      *string
	}{{"username", a.Auth.Username, &c.Username}, {"password", a.Auth.Password, &c.Password}} {
		s, err := caddy.NewReplacer().ReplaceOrErr(f.in, true, true)
		if err != nil || s == "" || strings.ContainsRune(s, 0) {
			return nil, fmt.Errorf("no usable %s", f.name) // the error would show it
		}
		*f.out = s
	}
	return c, nil
}

func (a *Agent) readAuth(d *caddyfile.Dispenser) error {
	a.Auth = new(Credentials)
	if !d.AllArgs(&a.Auth.Username, &a.Auth.Password) {
		return d.ArgErr()
	}
	return nil
}
