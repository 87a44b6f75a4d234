package nexthop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// A Proxy makes connections to hosts through others, by SOCKS5 (RFC 1928) or by
// CONNECT of HTTP (RFC 9110, section 9.3.6). Names are looked up here: a proxy is
// given addresses.
type Proxy struct {
	// Find returns the proxy for an address, nil for none.
	Find func(ctx context.Context, addr string) (*url.URL, error)
	// Dial connects to a proxy.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Roots are who vouches for proxies with https; nil for the system's.
	Roots *x509.CertPool
}

var errProxy = errors.New("the proxy is not to be had")

// defaultPorts are those of proxies that are named without one.
var defaultPorts = map[string]string{"socks5": "1080", "socks5h": "1080", "http": "80", "https": "443"}

// DialContext is like that of net.Dialer.
func (p *Proxy) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "tcp" {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	u, err := p.Find(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProxy, err)
	}
	if u == nil {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	port, ok := defaultPorts[u.Scheme]
	if !ok || u.Hostname() == "" {
		return nil, fmt.Errorf("%w: it is neither socks5://, http:// nor https:// and a host", errProxy)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	conn, err := p.Dial(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProxy, err)
	}
	if conn, err = p.through(ctx, u, conn, addr); err != nil {
		return nil, err
	}
	return conn, nil
}

// through has the proxy at the other end connect to an address. It owns conn.
func (p *Proxy) through(ctx context.Context, u *url.URL, conn net.Conn, addr string) (net.Conn, error) {
	raw := conn // conn may change while the function runs
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	var err error
	switch {
	case strings.HasPrefix(u.Scheme, "socks5"):
		err = socks(ctx, u, conn, addr)
	case u.Scheme == "https":
		t := tls.Client(conn, &tls.Config{ServerName: u.Hostname(), RootCAs: p.Roots, MinVersion: tls.VersionTLS12})
		if err = t.HandshakeContext(ctx); err == nil {
			err = connect(u, t, addr)
		}
		conn = t
	default:
		err = connect(u, conn, addr)
	}
	if !stop() && err == nil { // the deadline is set already, or about to be
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// given hands out a connection that there is.
type given struct{ net.Conn }

// Dial implements proxy.Dialer.
func (g given) Dial(string, string) (net.Conn, error) { return g.Conn, nil }

// socks asks a proxy of SOCKS5.
func socks(ctx context.Context, u *url.URL, conn net.Conn, addr string) error {
	var auth *proxy.Auth
	if u.User != nil {
		password, _ := u.User.Password()
		auth = &proxy.Auth{User: u.User.Username(), Password: password}
	}
	d, err := proxy.SOCKS5("tcp", u.Host, auth, given{conn})
	if err != nil {
		return err
	}
	_, err = d.(proxy.ContextDialer).DialContext(ctx, "tcp", addr)
	return err
}

// maxProxyHeader is how much a proxy may say before it connects, in octets.
const maxProxyHeader = 16 << 10

// connect asks a proxy of HTTP. It reads no octet that is the peer's.
func connect(u *url.URL, conn net.Conn, addr string) error {
	req := "CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n"
	if u.User != nil {
		password, _ := u.User.Password()
		req += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password)) + "\r\n"
	}
	if _, err := conn.Write([]byte(req + "\r\n")); err != nil {
		return err
	}
	var head []byte
	for one := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, one[0]) {
		if len(head) == maxProxyHeader {
			return errors.New("the proxy says too much")
		}
		if _, err := conn.Read(one); err != nil {
			return err
		}
	}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the proxy answers %d", resp.StatusCode)
	}
	return nil
}
