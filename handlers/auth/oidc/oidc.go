// Package oidc checks access tokens of an OpenID Connect issuer.
package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
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

// Source is users of an OpenID Connect issuer, who log in with access tokens
// (OAUTHBEARER, XOAUTH2). A token is a JWT that the issuer has signed (RFC 9068),
// or, with Introspection, whatever the issuer says is active (RFC 7662).
//
// Signatures are those of public keys: RS*, PS*, ES* and EdDSA, with RSA of 2048
// bits or more. The issuer's metadata (OpenID Connect Discovery 1.0) and keys
// are fetched when they are needed first, and after an hour. A key that is not
// known has them fetched again, at most once in 30 seconds. While the issuer
// cannot be asked, keys are good for a day, and then clients are told to try
// again. Redirects are not followed.
type Source struct {
	// Issuer is its URL, which tokens name as theirs. {env.*} and {file.*} in it
	// are put in when the configuration is loaded.
	Issuer string `json:"issuer,omitempty"`

	// Audience is what tokens must be for, one of these. A token for another
	// service is refused. It must be given, but for introspection with Scopes.
	Audience []string `json:"audience,omitempty"`

	// Scopes are those that a token must have, all of them. Default: none.
	Scopes []string `json:"scopes,omitempty"`

	// UserClaim is the claim that names the user. An email that the issuer says
	// is not verified is none. Default: email.
	UserClaim string `json:"user_claim,omitempty"`

	// AddressClaims have addresses that he may send from, one or a list. An email
	// that is not verified is none. Default: none.
	AddressClaims []string `json:"address_claims,omitempty"`

	// Attributes are claims that others may look at, as
	// {smtp.auth.attr.<name>}. Default: none.
	Attributes []string `json:"attributes,omitempty"`

	// Introspection asks the issuer about each token. Default: nil, tokens are
	// JWTs.
	Introspection *Introspection `json:"introspection,omitempty"`

	// Skew is by how much clocks may differ, up to 10 minutes. Default: 1 minute.
	Skew caddy.Duration `json:"skew,omitempty"`

	// CARaw is a Caddy CA pool module: the authorities to trust. Default: those
	// of the app.
	CARaw json.RawMessage `json:"ca,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// Timeout is for a request to the issuer. Default: 10 seconds.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	issuer *issuer
}

// Introspection is how to ask about tokens. {env.*} and {file.*} are put in when
// the configuration is loaded.
type Introspection struct {
	ClientID     string `json:"client_id,omitempty"`
	ClientSecret string `json:"client_secret,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.oidc", New: func() caddy.Module { return new(Source) }}
}

// Provision makes the client.
func (s *Source) Provision(ctx caddy.Context) (err error) {
	if s.UserClaim == "" {
		s.UserClaim = "email"
	}
	if s.Skew == 0 {
		s.Skew = caddy.Duration(time.Minute)
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(10 * time.Second)
	}
	d := upstream.Dialer{Env: env.FromContext(ctx)}
	s.issuer = &issuer{
		client:      d.HTTP(10, time.Duration(s.Timeout)),
		introspects: s.Introspection != nil, now: time.Now, turn: make(chan struct{}, 1),
	}
	r := caddy.NewReplacer()
	if s.issuer.name, err = r.ReplaceOrErr(s.Issuer, true, true); err != nil {
		return fmt.Errorf("oidc: issuer: %w", err)
	}
	if i := s.Introspection; i != nil {
		if s.issuer.id, err = r.ReplaceOrErr(i.ClientID, true, true); err != nil {
			return fmt.Errorf("oidc: client: %w", err)
		}
		if s.issuer.secret, err = r.ReplaceOrErr(i.ClientSecret, true, true); err != nil {
			return fmt.Errorf("oidc: client secret: %w", err)
		}
	}
	roots, err := caddyopt.LoadPool(ctx, s, "CARaw")
	if roots != nil {
		s.issuer.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	}
	return err
}

// Validate checks the options.
func (s *Source) Validate() error {
	switch {
	case !secure(s.issuer.name):
		return errors.New("oidc: the issuer is not an https:// URL (http:// for loopback)")
	case len(s.Audience) == 0 && (s.Introspection == nil || len(s.Scopes) == 0):
		return errors.New("oidc: an audience is wanted, or tokens for any service would do")
	case s.Introspection != nil && s.issuer.id == "":
		return errors.New("oidc: introspection is without a client ID")
	case s.Skew < 0 || time.Duration(s.Skew) > maxSkew:
		return fmt.Errorf("oidc: skew is not 0 to %s", maxSkew)
	case s.Timeout < 0:
		return errors.New("oidc: timeout is negative")
	}
	return nil
}

// secure reports whether what goes to a URL is not read on the way.
func secure(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return false
	}
	ip, _ := netip.ParseAddr(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && (ip.IsLoopback() || strings.EqualFold(u.Hostname(), "localhost"))
}

// Cleanup closes connections that are kept.
func (s *Source) Cleanup() error {
	if s.issuer != nil {
		s.issuer.client.CloseIdleConnections()
	}
	return nil
}

const (
	maxToken = 16 << 10 // octets
	maxSkew  = 10 * time.Minute
)

// CheckToken checks a token. No error has anything of it.
func (s *Source) CheckToken(ctx context.Context, user, token string) (*login.Identity, error) {
	if token == "" || len(token) > maxToken {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	var c claims
	var err error
	if s.Introspection != nil {
		c, err = s.issuer.introspect(ctx, token)
	} else {
		c, err = s.issuer.verify(ctx, token)
	}
	if err != nil {
		return nil, fmt.Errorf("oidc: %w", err)
	}
	if c == nil || !s.valid(c, s.issuer.now()) {
		return nil, nil
	}
	id := s.identity(c)
	if id == nil || user != "" && user != id.User {
		return nil, nil
	}
	return id, nil
}

// Discovery tells clients where to get a token, and for what.
func (s *Source) Discovery() (openIDConfiguration, scope string) {
	return s.issuer.configuration(), strings.Join(s.Scopes, " ")
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	oidc <issuer> {
//		audience       <name...>
//		scopes         <name...>
//		user_claim     <name>
//		address_claims <name...>
//		attributes     <name...>
//		introspection  <client id> <client secret>
//		skew           <duration>
//		ca             <provider> ...
//		timeout        <duration>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Issuer) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"audience":       caddyopt.Strings(&s.Audience),
		"scopes":         caddyopt.Strings(&s.Scopes),
		"user_claim":     caddyopt.String(&s.UserClaim),
		"address_claims": caddyopt.Strings(&s.AddressClaims),
		"attributes":     caddyopt.Strings(&s.Attributes),
		"introspection": caddyopt.Once(func(d *caddyfile.Dispenser) error {
			s.Introspection = new(Introspection)
			if !d.AllArgs(&s.Introspection.ClientID, &s.Introspection.ClientSecret) {
				return d.ArgErr()
			}
			return nil
		}),
		"skew":    caddyopt.Duration(&s.Skew),
		"ca":      caddyopt.Module("tls.ca_pool.source", "provider", &s.CARaw),
		"timeout": caddyopt.Duration(&s.Timeout),
	})
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.Validator       = (*Source)(nil)
	_ caddy.CleanerUpper    = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
