package ldap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

// A server of the directory.
type server struct {
	network, addr      string
	implicit, startTLS bool // TLS
	private            bool // nobody reads along
	dial               upstream.Dialer
	tls                *tls.Config
}

func parseServer(text string, e *env.Env, roots *x509.CertPool) (server, error) {
	if path, ok := strings.CutPrefix(text, "ldapi://"); ok {
		if path, err := url.PathUnescape(path); err == nil && strings.HasPrefix(path, "/") {
			return server{network: "unix", addr: strings.TrimSuffix(path, "/"), private: true, dial: upstream.Dialer{Env: e}}, nil
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return server{}, fmt.Errorf("ldap: '%s' is not ldap://, ldaps:// or ldapi:// and a host", text)
	}
	s := server{network: "tcp", dial: upstream.Dialer{Env: e}}
	port := "389"
	switch u.Scheme {
	case "ldap":
		ip, _ := netip.ParseAddr(u.Hostname())
		s.private = ip.IsLoopback() || strings.EqualFold(u.Hostname(), "localhost")
	case "ldaps":
		s.implicit, s.private, port = true, true, "636"
	default:
		return server{}, fmt.Errorf("ldap: '%s' is not ldap://, ldaps:// or ldapi:// and a host", text)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	s.addr = net.JoinHostPort(u.Hostname(), port)
	s.tls = s.dial.TLS(u.Hostname())
	if roots != nil {
		s.tls.RootCAs = roots
	}
	return s, nil
}

// A conn is a connection that reads no more than it may before it is used
// again.
type conn struct {
	*goldap.Conn
	budget *budget
}

// maxAnswer is how many octets one operation may be answered with.
const maxAnswer = 1 << 20

var errAnswer = errors.New("the directory's answer is too long")

// A budget is a connection of which so much may be read.
type budget struct {
	net.Conn
	left atomic.Int64
}

// Read fails when the budget is spent.
func (b *budget) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.left.Add(int64(-n)) < 0 {
		return 0, errAnswer
	}
	return n, err
}

// connect opens a connection to the first server that answers.
func (s *Source) connect(ctx context.Context) (*conn, error) {
	var errs []error
	for i := range s.servers {
		c, err := s.servers[i].try(ctx, len(s.servers)-i)
		if err == nil {
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", s.servers[i].addr, err))
	}
	return nil, errors.Join(errs...)
}

// try leaves time for the servers that are left.
func (s *server) try(ctx context.Context, left int) (*conn, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	return s.connect(ctx)
}

func (s *server) connect(ctx context.Context) (*conn, error) {
	nc, err := s.dial.Dial(ctx, s.network, s.addr)
	if err != nil {
		return nil, err
	}
	b := &budget{Conn: nc}
	b.left.Store(maxAnswer)
	nc = b
	if s.implicit {
		tc := tls.Client(nc, s.tls)
		if err := tc.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, nc.Close())
		}
		nc = tc
	}
	c := &conn{goldap.NewConn(nc, s.implicit), b}
	c.Start()
	if s.startTLS {
		err := guard(ctx, c, func() error { return c.StartTLS(s.tls) })
		if err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// connectAs opens a connection for an account of our own.
func (s *Source) connectAs(ctx context.Context, dn, password string) (*conn, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := guard(ctx, c, func() error { return c.Bind(dn, password) }); err != nil {
		c.Close()
		return nil, fmt.Errorf("the search account: %w", err)
	}
	return c, nil
}

// guard breaks the connection off when ctx ends.
func guard(ctx context.Context, c *conn, fn func() error) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err := fn()
	if !stop() {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// bind reports whether a password is that of an entry.
func bind(c *conn, dn, password string) (bool, error) {
	err := c.Bind(dn, password)
	if e, ok := errors.AsType[*goldap.Error](err); ok {
		switch e.ResultCode {
		case goldap.LDAPResultInvalidCredentials, goldap.LDAPResultNoSuchObject, goldap.LDAPResultInvalidDNSyntax,
			goldap.LDAPResultInappropriateAuthentication, // he has no password
			goldap.LDAPResultConstraintViolation,         // locked, as some directories say
			goldap.LDAPResultUnwillingToPerform,          // disabled, as others do
			goldap.LDAPResultInsufficientAccessRights:
			return false, nil
		}
	}
	return err == nil, err
}

// search returns the entries that it finds, two if there are more.
func search(c *conn, base string, scope int, filter string, attributes []string) ([]*goldap.Entry, error) {
	if len(attributes) == 0 {
		attributes = []string{"1.1"} // none; RFC 4511, section 4.5.1.8
	}
	r, err := c.Search(goldap.NewSearchRequest(base, scope, goldap.NeverDerefAliases, 2, 0, false, filter, attributes, nil))
	switch {
	case goldap.IsErrorWithCode(err, goldap.LDAPResultNoSuchObject):
		return nil, nil
	case goldap.IsErrorWithCode(err, goldap.LDAPResultSizeLimitExceeded):
		return make([]*goldap.Entry, 2), nil
	case err != nil:
		return nil, err
	}
	return r.Entries, nil
}
