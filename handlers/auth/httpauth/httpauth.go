// Package httpauth is a source of credentials behind an HTTP endpoint.
package httpauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

func init() { caddy.RegisterModule(new(Source)) }

// Source is users that an application of your own knows. For each login it
// gets a POST with JSON,
//
//	{"user": "alice@example.org", "password": "...", "mechanism": "PLAIN",
//	 "remote_ip": "192.0.2.1", "local_port": 587, "tls": true}
//
// and answers by its status: 200 with who it is, of which only the user must be
// there,
//
//	{"user": "alice@example.org", "addresses": ["*@example.org"], "attributes": {"quota": 100}}
//
// 401 or 403 for a password that is wrong, 404 for a user that it does not know.
// After any other status, or a 200 that is not such JSON, the client is told to
// try again. Redirects are not followed.
type Source struct {
	// URL is the endpoint. {env.*} and {file.*} in it are put in when the
	// configuration is loaded.
	URL string `json:"url,omitempty"`

	// Headers are sent with each request, by their names. {env.*} and {file.*}
	// in their values are put in when the configuration is loaded.
	Headers map[string]string `json:"headers,omitempty"`

	// Plaintext lets passwords go over the network in clear. Default: false, and
	// http:// to anything but the loopback interface is an error then.
	Plaintext bool `json:"plaintext,omitempty"`

	// CARaw is a Caddy CA pool module: the authorities to trust. Default: those
	// of the app.
	CARaw json.RawMessage `json:"ca,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// MaxConnections is how many requests there are at a time. Default: 10.
	MaxConnections int `json:"max_connections,omitempty"`

	// Timeout is for a request. Default: 10 seconds.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	url     string
	headers http.Header
	client  *http.Client
}

// CaddyModule returns the Caddy module information.
func (*Source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.http", New: func() caddy.Module { return new(Source) }}
}

// Provision makes the client.
func (s *Source) Provision(ctx caddy.Context) error {
	if s.MaxConnections == 0 {
		s.MaxConnections = 10
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(10 * time.Second)
	}
	r := caddy.NewReplacer()
	var err error
	if s.url, err = r.ReplaceOrErr(s.URL, true, true); err != nil {
		return fmt.Errorf("http: url: %w", err)
	}
	s.headers = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}, "User-Agent": {"caddy-smtp"}}
	for name, value := range s.Headers {
		if value, err = r.ReplaceOrErr(value, true, true); err != nil {
			return fmt.Errorf("http: header '%s': %w", name, err)
		}
		s.headers.Set(name, strings.TrimSpace(value))
	}
	// Asking twice is no harm, so do it if a connection that was kept is dead.
	// A header without values is not sent, but net/http looks for it.
	s.headers["Idempotency-Key"] = nil
	d := upstream.Dialer{Env: env.FromContext(ctx)}
	s.client = d.HTTP(s.MaxConnections, time.Duration(s.Timeout))
	roots, err := caddyopt.LoadPool(ctx, s, "CARaw")
	if roots != nil {
		s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = roots
	}
	return err
}

// Validate checks the options.
func (s *Source) Validate() error {
	u, err := url.Parse(s.url)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("http: not the URL of an endpoint")
	case u.Scheme == "http" && !s.Plaintext && !isLoopback(u.Hostname()):
		return errors.New("http: passwords would go to the endpoint in clear; https://, or plaintext")
	case s.MaxConnections < 0:
		return errors.New("http: max_connections is negative")
	case s.Timeout < 0:
		return errors.New("http: timeout is negative")
	}
	return nil
}

func isLoopback(host string) bool {
	ip, _ := netip.ParseAddr(host)
	return ip.IsLoopback() || strings.EqualFold(host, "localhost")
}

// Cleanup closes connections that are kept.
func (s *Source) Cleanup() error {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	return nil
}

// A request is what the endpoint is asked.
type request struct {
	User       string `json:"user"`
	Password   string `json:"password"`
	Mechanism  string `json:"mechanism,omitempty"`
	RemoteIP   string `json:"remote_ip,omitempty"`
	RemotePort uint16 `json:"remote_port,omitempty"`
	LocalIP    string `json:"local_ip,omitempty"`
	LocalPort  uint16 `json:"local_port,omitempty"`
	TLS        bool   `json:"tls"`
}

func newRequest(c login.Client, user, password string) request {
	r := request{User: user, Password: password, Mechanism: c.Mechanism, TLS: c.TLS, RemotePort: c.Remote.Port(), LocalPort: c.Local.Port()}
	if c.Remote.IsValid() {
		r.RemoteIP = c.Remote.Addr().String()
	}
	if c.Local.IsValid() {
		r.LocalIP = c.Local.Addr().String()
	}
	return r
}

// maxBody is how many octets an answer may have.
const maxBody = 64 << 10

// CheckPassword asks the endpoint. Errors do not tell its URL.
func (s *Source) CheckPassword(ctx context.Context, user, password string) (*login.Identity, bool, error) {
	if user == "" || password == "" || !utf8.ValidString(password) { // JSON would make another of it
		return nil, false, nil
	}
	body, err := json.Marshal(newRequest(login.ClientOf(ctx), user, password))
	if err != nil {
		return nil, false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return nil, false, errors.New("http: not the URL of an endpoint")
	}
	req.Header = s.headers.Clone()
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, false, fmt.Errorf("http: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return identity(user, resp)
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, true, nil
	case http.StatusNotFound:
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("http: the endpoint answers %d", resp.StatusCode)
}

func identity(user string, resp *http.Response) (*login.Identity, bool, error) {
	b, err := upstream.ReadAll(resp.Body, maxBody)
	if err != nil {
		return nil, false, fmt.Errorf("http: %w", err)
	}
	id, err := login.ParseIdentity(user, b)
	if err != nil {
		return nil, false, fmt.Errorf("http: %w", err)
	}
	return id, true, nil
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	http <url> {
//		header          <name> <value>
//		plaintext
//		ca              <provider> ...
//		max_connections <number>
//		timeout         <duration>
//	}
func (s *Source) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.URL) {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"header":          s.parseHeader,
		"plaintext":       caddyopt.Flag(&s.Plaintext),
		"ca":              caddyopt.Module("tls.ca_pool.source", "provider", &s.CARaw),
		"max_connections": caddyopt.Int(&s.MaxConnections, 1),
		"timeout":         caddyopt.Duration(&s.Timeout),
	})
}

func (s *Source) parseHeader(d *caddyfile.Dispenser) error {
	var name, value string
	if !d.AllArgs(&name, &value) {
		return d.ArgErr()
	}
	if _, ok := s.Headers[name]; ok {
		return d.Errf("header '%s' is given twice", name)
	}
	if s.Headers == nil {
		s.Headers = map[string]string{}
	}
	s.Headers[name] = value
	return nil
}

var (
	_ caddy.Provisioner     = (*Source)(nil)
	_ caddy.Validator       = (*Source)(nil)
	_ caddy.CleanerUpper    = (*Source)(nil)
	_ caddyfile.Unmarshaler = (*Source)(nil)
)
