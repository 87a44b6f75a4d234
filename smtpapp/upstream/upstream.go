// Package upstream has what modules need that ask a service over the network,
// such as a directory or a database: connections by the resolver of the
// configuration, TLS by its roots, and an HTTP client that follows nobody. It
// knows no service.
package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
)

// A Dialer connects to hosts by their names.
type Dialer struct {
	*env.Env
}

// Dial connects to an address of a network, the first that answers. It is like
// net.Dialer.DialContext.
func (d Dialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var nd net.Dialer
	host, port, err := net.SplitHostPort(addr)
	if err != nil || strings.HasPrefix(network, "unix") {
		return nd.DialContext(ctx, network, addr)
	}
	ips, err := d.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		conn, err2 := dialOne(ctx, &nd, network, net.JoinHostPort(ip, port), len(ips)-i)
		if err2 == nil {
			return conn, nil
		}
		err = errors.Join(err, err2)
	}
	return nil, err
}

// dialOne leaves time for the addresses that are left.
func dialOne(ctx context.Context, nd *net.Dialer, network, addr string, left int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	return nd.DialContext(ctx, network, addr)
}

// Lookup returns the addresses of a host, as text.
func (d Dialer) Lookup(ctx context.Context, host string) ([]string, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []string{ip.String()}, nil
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") { // RFC 6761, section 6.3
		return []string{"127.0.0.1", "::1"}, nil
	}
	ips, err := d.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.Unmap().String()
	}
	return out, nil
}

// TLS is how to verify a host of a name.
func (d Dialer) TLS(host string) *tls.Config {
	return &tls.Config{ServerName: host, RootCAs: d.Roots, MinVersion: tls.VersionTLS12}
}

// HTTP returns a client of HTTP that follows no redirects and keeps at most max
// connections to a host. Whoever it is for closes its idle connections.
func (d Dialer) HTTP(max int, timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Transport: &http.Transport{
			DialContext:            d.Dial,
			TLSClientConfig:        d.TLS(""),
			TLSHandshakeTimeout:    timeout,
			ForceAttemptHTTP2:      true,
			MaxConnsPerHost:        max,
			MaxIdleConnsPerHost:    max,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// ErrTooLong is that of an answer over the limit.
var ErrTooLong = errors.New("the answer is too long")

// ReadAll reads an answer of at most limit octets.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, ErrTooLong
	}
	return b, err
}
