// Package ldap is a source of credentials in a directory.
package ldap

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	goldap "github.com/go-ldap/ldap/v3"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func init() { caddy.RegisterModule(new(Source)) }

// Source is users in an LDAP directory (RFC 4511), whose passwords it checks by
// a bind. Either their names are in the DN of their entries (BindDN), or the
// entry is searched for first (Search).
//
// In DNs and filters {user} is the name that the client gave, in lower case,
// and {local} and {domain} are its parts before and behind the last "@". They
// are escaped there. Referrals are not followed. An empty password is refused
// without asking (RFC 4513, section 5.1.2).
//
// With BindDN, the directory does not say whether a user is unknown or his
// password wrong, and so the next source is asked.
type Source struct {
	// URLs are the servers, tried in order: ldap://host:port, ldaps:// or
	// ldapi:// with the path of a unix socket, its slashes written %2f.
	URLs []string `json:"urls,omitempty"`

	// BindDN is the DN of a user, such as uid={local},ou={domain},dc=example.
	BindDN string `json:"bind_dn,omitempty"`

	// Search finds the DN of a user.
	Search *Search `json:"search,omitempty"`

	// UserAttribute has the user's own name, where he may log in by others.
	// Default: the name that the client gave is his own.
	UserAttribute string `json:"user_attribute,omitempty"`

	// AddressAttributes have the addresses that he may send from.
	AddressAttributes []string `json:"address_attributes,omitempty"`

	// Attributes are those of his entry that others may look at. Where there is
	// more than one value, they are joined by commas.
	Attributes []string `json:"attributes,omitempty"`

	// StartTLS turns TLS on over ldap://. The certificate must be of the host.
	StartTLS bool `json:"start_tls,omitempty"`

	// Plaintext lets passwords go over the network in clear. Default: false, and
	// ldap:// to anything but the loopback interface is an error then.
	Plaintext bool `json:"plaintext,omitempty"`

	// CARaw is a Caddy CA pool module: the authorities to trust. Default: those
	// of the app.
	CARaw json.RawMessage `json:"ca,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// MaxConnections is how many connections for searches, and how many for
	// binds, are open at a time. Default: 4.
	MaxConnections int `json:"max_connections,omitempty"`

	// Timeout is for a login, with connecting. Default: 5 seconds.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	servers         []server
	searches, binds *pool
}

// A Search finds the one entry that is a user's.
type Search struct {
	// Base is the DN below which to look.
	Base string `json:"base,omitempty"`

	// Filter is that of RFC 4515, such as (|(uid={user})(mail={user})). If two
	// entries match, nobody can log in.
	Filter string `json:"filter,omitempty"`

	// Scope is sub, one or base. Default: sub.
	Scope string `json:"scope,omitempty"`

	// DN and Password are those of an account that may search. Default: the
	// search is anonymous. {env.*} and {file.*} in the password are put in when
	// the configuration is loaded.
	DN       string `json:"dn,omitempty"`
	Password string `json:"password,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.ldap", New: func() caddy.Module { return new(Source) }}
}

// Provision checks everything but the directory itself.
func (s *Source) Provision(ctx caddy.Context) error {
	if s.MaxConnections == 0 {
		s.MaxConnections = 4
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(5 * time.Second)
	}
	roots, err := caddyopt.LoadPool(ctx, s, "CARaw")
	if err != nil {
		return err
	}
	if err := s.locate(env.FromContext(ctx), roots); err != nil {
		return err
	}
	s.searches = newPool(s.MaxConnections, s.connect)
	s.binds = newPool(s.MaxConnections, s.connect)
	if s.Search == nil {
		return nil
	}
	password, err := caddy.NewReplacer().ReplaceOrErr(s.Search.Password, true, true)
	if err != nil {
		return fmt.Errorf("ldap: password: %w", err)
	}
	if s.Search.DN != "" {
		s.searches.dial = func(ctx context.Context) (*conn, error) { return s.connectAs(ctx, s.Search.DN, password) }
	}
	return nil
}

func (s *Source) locate(e *env.Env, roots *x509.CertPool) error {
	r := caddy.NewReplacer()
	for _, u := range s.URLs {
		u, err := r.ReplaceOrErr(u, true, true)
		if err != nil {
			return fmt.Errorf("ldap: %w", err)
		}
		srv, err := parseServer(u, e, roots)
		if err != nil {
			return err
		}
		if !srv.private && !s.StartTLS && !s.Plaintext {
			return fmt.Errorf("ldap: passwords would go to %s in clear; start_tls, or ldaps://, or plaintext", u)
		}
		srv.startTLS = s.StartTLS && !srv.implicit && srv.network != "unix"
		s.servers = append(s.servers, srv)
	}
	return nil
}

var scopes = map[string]int{"": goldap.ScopeWholeSubtree, "sub": goldap.ScopeWholeSubtree, "one": goldap.ScopeSingleLevel, "base": goldap.ScopeBaseObject}

// Validate checks the options.
func (s *Source) Validate() error {
	switch {
	case len(s.URLs) == 0:
		return errors.New("ldap: no server")
	case (s.BindDN == "") == (s.Search == nil):
		return errors.New("ldap: either bind_dn or search is wanted")
	case s.MaxConnections < 0:
		return errors.New("ldap: max_connections is negative")
	case s.Timeout < 0:
		return errors.New("ldap: timeout is negative")
	case s.Search == nil:
		return checkTemplate(s.BindDN, func(dn string) error { _, err := goldap.ParseDN(dn); return err })
	case s.Search.DN != "" && s.Search.Password == "":
		return errors.New("ldap: a search account without a password would be anonymous")
	}
	if _, ok := scopes[s.Search.Scope]; !ok {
		return fmt.Errorf("ldap: scope '%s' is none of sub, one and base", s.Search.Scope)
	}
	if err := checkTemplate(s.Search.Filter, func(f string) error { _, err := goldap.CompileFilter(f); return err }); err != nil {
		return err
	}
	base := s.Search.Base
	if _, err := goldap.ParseDN(fill(base, "user@domain")); err != nil || strings.ContainsAny(fill(base, "user@domain"), "{}") {
		return errors.New("ldap: base is not a DN")
	}
	return nil
}

// Cleanup closes all connections.
func (s *Source) Cleanup() error {
	for _, p := range []*pool{s.searches, s.binds} {
		if p != nil {
			p.close()
		}
	}
	return nil
}

// CheckPassword asks the directory.
func (s *Source) CheckPassword(ctx context.Context, user, password string) (*login.Identity, bool, error) {
	if user == "" || password == "" {
		return nil, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.Timeout))
	defer cancel()
	if s.Search == nil {
		id, err := s.direct(ctx, user, password)
		return id, id != nil, wrap(err)
	}
	e, err := s.find(ctx, user)
	if e == nil || err != nil {
		return nil, false, wrap(err)
	}
	if e.DN == "" {
		return nil, true, fmt.Errorf("ldap: the entry of user '%s' has no DN", user)
	}
	var right bool
	err = s.binds.do(ctx, func(c *conn) (err error) {
		right, err = bind(c, e.DN, password)
		return err
	})
	if err != nil || !right {
		return nil, true, wrap(err)
	}
	id, err := s.identity(user, e)
	return id, true, wrap(err)
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("ldap: %w", err)
	}
	return nil
}

// direct binds with the DN that the name gives, and reads the entry with the
// rights of its user.
func (s *Source) direct(ctx context.Context, user, password string) (*login.Identity, error) {
	dn, wanted := fill(s.BindDN, user), s.wanted()
	var right bool
	var found []*goldap.Entry
	err := s.binds.do(ctx, func(c *conn) (err error) {
		right, err = bind(c, dn, password)
		if right && len(wanted) > 0 {
			found, err = search(c, dn, goldap.ScopeBaseObject, "(objectClass=*)", wanted)
		}
		return err
	})
	switch {
	case err != nil || !right:
		return nil, err
	case len(wanted) == 0:
		return s.identity(user, &goldap.Entry{DN: dn})
	case len(found) != 1:
		return nil, fmt.Errorf("user '%s' cannot read his own entry", user)
	}
	return s.identity(user, found[0])
}

// find returns the entry of a user, nil if there is none.
func (s *Source) find(ctx context.Context, user string) (*goldap.Entry, error) {
	var found []*goldap.Entry
	err := s.searches.do(ctx, func(c *conn) (err error) {
		found, err = search(c, fill(s.Search.Base, user), scopes[s.Search.Scope], fill(s.Search.Filter, user), s.wanted())
		return err
	})
	switch {
	case err != nil || len(found) == 0:
		return nil, err
	case len(found) > 1:
		return nil, fmt.Errorf("more than one entry is that of user '%s'", user)
	}
	return found[0], nil
}

// wanted are the attributes to ask for.
func (s *Source) wanted() []string {
	var names []string
	if s.UserAttribute != "" {
		names = append(names, s.UserAttribute)
	}
	return append(append(names, s.AddressAttributes...), s.Attributes...)
}

func (s *Source) identity(user string, e *goldap.Entry) (*login.Identity, error) {
	name := ""
	if s.UserAttribute != "" {
		name = e.GetEqualFoldAttributeValue(s.UserAttribute)
	}
	var addresses []string
	for _, a := range s.AddressAttributes {
		for _, v := range e.GetEqualFoldAttributeValues(a) {
			scheme, rest, ok := strings.Cut(v, ":")
			if ok && strings.EqualFold(scheme, "smtp") { // as proxyAddresses of Active Directory has them
				v = rest
			}
			addresses = append(addresses, v)
		}
	}
	attributes := map[string]string{}
	for _, a := range s.Attributes {
		if v := e.GetEqualFoldAttributeValues(a); len(v) > 0 {
			attributes[a] = strings.Join(v, ", ")
		}
	}
	return login.NewIdentity(user, name, addresses, attributes)
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	ldap <url...> {
//		bind_dn <dn>
//		search <base> <filter> {
//			scope sub|one|base
//			bind  <dn> <password>
//		}
//		user_attribute     <name>
//		address_attributes <name...>
//		attributes         <name...>
//		start_tls
//		plaintext
//		ca                 <provider> ...
//		max_connections    <number>
//		timeout            <duration>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if s.URLs = d.RemainingArgs(); len(s.URLs) == 0 {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"bind_dn":            caddyopt.String(&s.BindDN),
		"search":             caddyopt.Once(s.parseSearch),
		"user_attribute":     caddyopt.String(&s.UserAttribute),
		"address_attributes": caddyopt.Strings(&s.AddressAttributes),
		"attributes":         caddyopt.Strings(&s.Attributes),
		"start_tls":          caddyopt.Flag(&s.StartTLS),
		"plaintext":          caddyopt.Flag(&s.Plaintext),
		"ca":                 caddyopt.Module("tls.ca_pool.source", "provider", &s.CARaw),
		"max_connections":    caddyopt.Int(&s.MaxConnections, 1),
		"timeout":            caddyopt.Duration(&s.Timeout),
	})
}

func (s *Source) parseSearch(d *caddyfile.Dispenser) error {
	s.Search = new(Search)
	if !d.AllArgs(&s.Search.Base, &s.Search.Filter) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"scope": caddyopt.String(&s.Search.Scope),
		"bind": caddyopt.Once(func(d *caddyfile.Dispenser) error {
			if !d.AllArgs(&s.Search.DN, &s.Search.Password) {
				return d.ArgErr()
			}
			return nil
		}),
	})
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.Validator       = (*Source)(nil)
	_ caddy.CleanerUpper    = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
