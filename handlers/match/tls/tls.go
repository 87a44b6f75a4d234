// Package tls matches connections by what protects them.
package tls

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches connections with TLS, be it by STARTTLS or from the start.
// Every option that is given has to hold.
type Matcher struct {
	// Min is the least version, "tls1.2" or "tls1.3". Default: any.
	Min string `json:"min,omitempty"`

	// ServerNames are patterns, one of which the name has to fit that the client
	// asked for (SNI). Default: any, or none.
	ServerNames []string `json:"server_names,omitempty"`

	// ClientCertificate wants a certificate of the client that the server has
	// verified. Default: false.
	ClientCertificate bool `json:"client_certificate,omitempty"`

	min uint16
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.tls", New: func() caddy.Module { return new(Matcher) }}
}

// Provision looks up the version.
func (m *Matcher) Provision(caddy.Context) error {
	v, ok := caddytls.SupportedProtocols[m.Min]
	if !ok && m.Min != "" {
		return fmt.Errorf("'%s' is not a version of TLS that is supported", m.Min)
	}
	m.min = v
	return nil
}

// Stage is AUTH, before which STARTTLS may still come.
func (*Matcher) Stage() session.Stage { return session.StageAuth }

// Match reports whether the connection has TLS as it is wanted.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	st := at.Session.TLS
	if st == nil || st.Version < m.min || m.ClientCertificate && len(st.VerifiedChains) == 0 {
		return false, nil
	}
	for _, p := range m.ServerNames {
		if pattern.Glob(p, st.ServerName) {
			return true, nil
		}
	}
	return len(m.ServerNames) == 0, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	tls {
//		min <tls1.2|tls1.3>
//		server_name <pattern...>
//		client_certificate
//	}
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.ArgErr()
		}
		err := caddyopt.Block(d, caddyopt.Table{
			"min":                caddyopt.String(&m.Min),
			"server_name":        caddyopt.Strings(&m.ServerNames),
			"client_certificate": caddyopt.Flag(&m.ClientCertificate),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddy.Provisioner     = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
