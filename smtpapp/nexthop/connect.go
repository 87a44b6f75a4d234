package nexthop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
)

// A TLSMode says when a connection has TLS.
type TLSMode string

// The modes.
const (
	// TLSOpportunistic takes STARTTLS where it is offered and works, whoever
	// the certificate is of (RFC 7435).
	TLSOpportunistic TLSMode = "opportunistic"
	// TLSRequired wants STARTTLS with a certificate for the host's name.
	TLSRequired TLSMode = "required"
	// TLSImplicit wants TLS from the first byte, with a certificate for the
	// host's name (RFC 8314, section 3).
	TLSImplicit TLSMode = "implicit"
	// TLSOff never uses TLS.
	TLSOff TLSMode = "off"
)

// ParseTLSMode reads the word that a mode is.
func ParseTLSMode(s string) (TLSMode, error) {
	switch m := TLSMode(s); m {
	case TLSOpportunistic, TLSRequired, TLSImplicit, TLSOff:
		return m, nil
	}
	return "", fmt.Errorf("'%s' is none of opportunistic, required, implicit, off", s)
}

// Verified reports whether the mode wants a certificate for the host's name.
func (m TLSMode) Verified() bool { return m == TLSRequired || m == TLSImplicit }

// TLS is the policy for connections.
type TLS struct {
	Mode  TLSMode
	Roots *x509.CertPool // nil for the system's
	// Unverified takes any certificate where one must be verified.
	Unverified bool
}

// config returns the configuration towards a host.
func (p TLS) config(h Host) *tls.Config {
	c := &tls.Config{ServerName: strings.Trim(h.Name, "[]"), RootCAs: p.Roots, MinVersion: tls.VersionTLS12}
	if ip, ok := addressLiteral(h.Name); ok {
		c.ServerName = ip.String()
	}
	switch {
	case p.Mode == TLSOpportunistic:
		c.InsecureSkipVerify = true
		c.MinVersion = tls.VersionTLS10 //nolint:gosec // the alternative is clear text
	case p.Unverified:
		c.InsecureSkipVerify = true
	}
	return c
}

// open connects, and keeps hold of what lies beneath the client.
func (s *Sender) open(ctx context.Context, policy TLS, h Host, addr string) (*kept, error) {
	k, tapped := new(kept), *s
	tapped.Client.Dial = func(ctx context.Context, network, addr string) (nc net.Conn, err error) {
		k.raw, err = s.dial(ctx, network, addr)
		return k.raw, err
	}
	var err error
	k.conn, err = tapped.connect(ctx, policy, h, addr)
	return k, err
}

// connect dials, turns TLS on and logs in.
func (s *Sender) connect(ctx context.Context, policy TLS, h Host, addr string) (*client.Conn, error) {
	opts := s.Client
	if policy.Mode == TLSImplicit {
		opts.TLS = policy.config(h)
	}
	c, err := client.Dial(ctx, h.network, addr, opts)
	if err != nil {
		return nil, judgedTLS(err)
	}
	if h.named(c.Peer()) {
		s.Pool.quit(c)
		return nil, errSelf
	}
	if policy.Mode == TLSRequired || policy.Mode == TLSOpportunistic {
		if c, err = s.startTLS(ctx, c, policy, h, addr); err != nil {
			return nil, err
		}
	}
	if s.Auth != nil {
		if err := c.Auth(ctx, *s.Auth); err != nil {
			s.Pool.quit(c)
			return nil, err
		}
	}
	return c, nil
}

// startTLS turns TLS on. Where it is a mere opportunity and doesn't work, the
// connection that it returns has none.
func (s *Sender) startTLS(ctx context.Context, c *client.Conn, policy TLS, h Host, addr string) (*client.Conn, error) {
	optional := policy.Mode == TLSOpportunistic
	if !c.Extensions().Has("STARTTLS") {
		if optional {
			return c, nil
		}
		s.Pool.quit(c)
		return nil, errNoTLS
	}
	err := c.StartTLS(ctx, policy.config(h))
	switch {
	case err == nil:
		return c, nil
	case !optional:
		s.Pool.quit(c)
		return nil, judgedTLS(err)
	case c.Usable(): // it was refused politely
		return c, nil
	case ctx.Err() != nil:
		return nil, err
	}
	s.Log.Info("TLS fails, going on without", "host", h.String(), "address", addr, "error", err)
	opts := s.Client
	opts.Ignore = append(opts.Ignore[:len(opts.Ignore):len(opts.Ignore)], "STARTTLS")
	return client.Dial(ctx, h.network, addr, opts)
}

// judgedTLS marks an error as one of TLS, if it is.
func judgedTLS(err error) error {
	refused, isRefused := errors.AsType[*client.RefusedError](err)
	broken, isBroken := errors.AsType[*client.Error](err)
	if isRefused && refused.Phase == client.PhaseStartTLS || isBroken && broken.Phase == client.PhaseStartTLS {
		return fmt.Errorf("%w: %w", errHandshake, err)
	}
	return err
}
