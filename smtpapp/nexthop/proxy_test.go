package nexthop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// pipe carries octets both ways until one side ends.
func pipe(a, b net.Conn) {
	go func() { _, _ = io.Copy(a, b); a.Close() }()
	_, _ = io.Copy(b, a)
	b.Close()
}

// httpProxy connects to to whatever it is asked for, for whoever says u:p.
func httpProxy(to string, asked *atomic.Value) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.Host)
		if r.Header.Get("Proxy-Authorization") != "Basic dTpw" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		up, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		c, _, _ := http.NewResponseController(w).Hijack()
		fmt.Fprint(c, "HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
		pipe(c, up)
	}
}

// socksProxy does the same by SOCKS5.
func socksProxy(t testing.TB, to string, asked *atomic.Value) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 32)
				n, _ := io.ReadAtLeast(c, b, 3)
				if !strings.Contains(string(b[2:n]), "\x02") {
					_, _ = c.Write([]byte{5, 0xff})
					c.Close()
					return
				}
				_, _ = c.Write([]byte{5, 2})
				_, _ = io.ReadFull(c, b[:5]) // 1, 1, u, 1, p
				if string(b[:5]) != "\x01\x01u\x01p" {
					_, _ = c.Write([]byte{1, 1})
					c.Close()
					return
				}
				_, _ = c.Write([]byte{1, 0})
				_, _ = io.ReadFull(c, b[:10])
				asked.Store(fmt.Sprintf("SOCKS %d %v:%d", b[1], net.IP(b[4:8]), int(b[8])<<8|int(b[9])))
				up, err := net.Dial("tcp", to)
				if err != nil {
					_, _ = c.Write([]byte{5, 5, 0, 1, 0, 0, 0, 0, 0, 0})
					c.Close()
					return
				}
				_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
				pipe(c, up)
			}()
		}
	}()
	return ln.Addr().String()
}

func through(s string) *Proxy {
	return &Proxy{
		Find: func(context.Context, string) (*url.URL, error) {
			if s == "" {
				return nil, nil
			}
			return url.Parse(s)
		},
		Dial: new(net.Dialer).DialContext,
	}
}

// TestProxy: mail goes through proxies of each kind, and what is wrong with one is
// our business and nobody's DSN.
func TestProxy(t *testing.T) {
	var asked atomic.Value
	srv := clienttest.Start(t, clienttest.Options{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	ln.Close()
	plain, secure, dead := httptest.NewServer(httpProxy(srv.Addr, &asked)), httptest.NewTLSServer(httpProxy(srv.Addr, &asked)), httptest.NewServer(httpProxy(nobody, &asked))
	defer plain.Close()
	defer secure.Close()
	defer dead.Close()
	socksAt, deadSocks := socksProxy(t, srv.Addr, &asked), socksProxy(t, nobody, &asked)
	z := &dnstest.Zone{Host: map[string][]string{"mx.test": {"192.0.2.1"}}}
	login := func(u string) string { return strings.Replace(u, "://", "://u:p@", 1) }
	for proxy, want := range map[string]string{
		login(plain.URL):            "relayed 250 2.0.0 mx.test CONNECT 192.0.2.1:25",
		login(secure.URL):           "relayed 250 2.0.0 mx.test CONNECT 192.0.2.1:25",
		"socks5://u:p@" + socksAt:   "relayed 250 2.0.0 mx.test SOCKS 1 192.0.2.1:25",
		plain.URL:                   "delayed 451 4.4.1 unreachable CONNECT 192.0.2.1:25",
		login(dead.URL):             "delayed 451 4.4.1 unreachable CONNECT 192.0.2.1:25",
		"socks5://" + socksAt:       "delayed 451 4.4.1 unreachable ",
		"socks5://u:x@" + socksAt:   "delayed 451 4.4.1 unreachable ",
		"socks5://u:p@" + deadSocks: "delayed 451 4.4.1 unreachable SOCKS 1 192.0.2.1:25",
		"http://" + nobody:          "delayed 451 4.3.5  ",
		"ftp://" + nobody:           "delayed 451 4.3.5  ",
		"socks5:":                   "delayed 451 4.3.5  ",
		"%zz":                       "delayed 451 4.3.5  ",
	} {
		p := through(proxy)
		p.Roots = secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		s := sender(t, new(world), func(s *Sender) { s.Resolver, s.Client.Dial = z, p.DialContext })
		d := delivery(t, "a@o.test")
		asked.Store("")
		got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("mx.test")))
		if got += " " + asked.Load().(string); got != want {
			t.Errorf("%s: %s, want %s", proxy, got, want)
		}
	}
	// None for this one.
	c, err := through("").DialContext(t.Context(), "tcp", srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestHostileProxy: one that says nothing, or without end.
func TestHostileProxy(t *testing.T) {
	for name, say := range map[string]string{"nothing": "", "too much": strings.Repeat("x", 2*maxProxyHeader), "nonsense": "hello\r\n\r\n"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.WriteString(c, say)
					_, _ = io.Copy(io.Discard, c)
				}()
			}
		}()
		t.Cleanup(func() { ln.Close() })
		for _, scheme := range []string{"http", "https", "socks5"} {
			t.Run(name+" by "+scheme, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				if c, err := through(scheme+"://"+ln.Addr().String()).DialContext(ctx, "tcp", "192.0.2.1:25"); err == nil || errors.Is(err, errProxy) {
					t.Errorf("%v, %v", c, err)
				}
			})
		}
	}
}
