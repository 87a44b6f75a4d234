// Package tls is a source of credentials that are client certificates.
package tls

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func init() { caddy.RegisterModule(new(Source)) }

// Source tells users by their TLS client certificates, for the mechanism
// EXTERNAL. The server must ask for these in its tls option, with client_auth in
// one of the modes verify_if_given and require_and_verify, and a trust_pool: the
// CA whose certificates name your users. One that was not verified is nobody's.
//
// Where the CA also issues certificates for other purposes, as Caddy's internal
// one does for hosts, a table keeps these from being users.
type Source struct {
	// By says where in a certificate its user is named, in order of preference:
	// "email", "dns" and "uri" are subject alternative names of that kind, "cn"
	// is the common name of the subject, and "fingerprint" the SHA-256 of the
	// certificate in lower case hexadecimal digits, which needs a table.
	// Default: email, cn.
	By []string `json:"by,omitempty"`

	// TableRaw has the user for each such name; one that it has not is no user.
	// A table of the kind regexp makes users of names by a pattern. Default:
	// the name is the user.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// Issuers are CAs one of which must stand in the certificate's chain: each
	// a common name, or the fingerprint of the CA's certificate. Default: any
	// that the server trusts.
	Issuers []string `json:"issuers,omitempty"`

	table table
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// kinds of names, and how to find them in a certificate.
var kinds = map[string]func(c *x509.Certificate) []string{
	"email": func(c *x509.Certificate) []string { return c.EmailAddresses },
	"dns":   func(c *x509.Certificate) []string { return c.DNSNames },
	"uri": func(c *x509.Certificate) []string {
		names := make([]string, 0, len(c.URIs))
		for _, u := range c.URIs {
			names = append(names, u.String())
		}
		return names
	},
	"cn":          func(c *x509.Certificate) []string { return []string{c.Subject.CommonName} },
	"fingerprint": func(c *x509.Certificate) []string { return []string{fingerprint(c)} },
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.tls", New: func() caddy.Module { return new(Source) }}
}

// Provision loads the table.
func (s *Source) Provision(ctx caddy.Context) (err error) {
	if len(s.By) == 0 {
		s.By = []string{"email", "cn"}
	}
	s.table, err = caddyopt.LoadModule[table](ctx, s, "TableRaw")
	return err
}

// Validate checks the options.
func (s *Source) Validate() error {
	for i, kind := range s.By {
		switch {
		case kinds[kind] == nil:
			return fmt.Errorf("auth tls: '%s' is not email, dns, uri, cn or fingerprint", kind)
		case slices.Contains(s.By[:i], kind):
			return fmt.Errorf("auth tls: '%s' is given twice", kind)
		case kind == "fingerprint" && s.table == nil:
			return errors.New("auth tls: fingerprints need a table of their users")
		}
	}
	if slices.Contains(s.Issuers, "") {
		return errors.New("auth tls: an issuer has no name")
	}
	return nil
}

// CheckCertificate returns the user of the client's certificate, nil if there is
// none.
func (s *Source) CheckCertificate(ctx context.Context, st *tls.ConnectionState) (*login.Identity, error) {
	if st == nil || !s.issued(st.VerifiedChains) {
		return nil, nil
	}
	leaf := st.VerifiedChains[0][0]
	for _, kind := range s.By {
		for _, name := range kinds[kind](leaf) {
			user, err := s.user(ctx, name)
			if err != nil {
				return nil, err
			}
			if user != "" {
				return &login.Identity{User: user}, nil
			}
		}
	}
	return nil, nil
}

// issued reports whether a chain has one of the issuers.
func (s *Source) issued(chains [][]*x509.Certificate) bool {
	for _, chain := range chains {
		if len(s.Issuers) == 0 && len(chain) > 0 {
			return true
		}
		for _, ca := range chain[min(1, len(chain)):] {
			if slices.ContainsFunc(s.Issuers, func(i string) bool {
				return i == ca.Subject.CommonName || strings.EqualFold(strings.ReplaceAll(i, ":", ""), fingerprint(ca))
			}) {
				return true
			}
		}
	}
	return false
}

// user is the one that a name in a certificate stands for, "" for none.
func (s *Source) user(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if s.table == nil {
		user, err := login.Name(name)
		if err != nil {
			return "", nil // the CA may have its reasons
		}
		return user, nil
	}
	values, ok, err := s.table.Lookup(ctx, name)
	if err != nil || !ok || len(values) == 0 {
		return "", err
	}
	user, err := login.Name(values[0])
	if err != nil {
		return "", fmt.Errorf("table of certificates: %w", err)
	}
	return user, nil
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	tls [<email|dns|uri|cn|fingerprint...>] {
//		by     <email|dns|uri|cn|fingerprint...>
//		table  <table...>
//		issuer <name|fingerprint...>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	s.By = d.RemainingArgs()
	return caddyopt.Block(d, caddyopt.Table{
		"by":     caddyopt.Strings(&s.By),
		"table":  caddyopt.Module("smtp.tables", "table", &s.TableRaw),
		"issuer": caddyopt.Strings(&s.Issuers),
	})
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.Validator       = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
