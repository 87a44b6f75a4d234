package upstream

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
)

func dialer(zone *dnstest.Zone) Dialer { return Dialer{&env.Env{Resolver: zone}} }

func TestLookup(t *testing.T) {
	d := dialer(&dnstest.Zone{Host: map[string][]string{"a.test": {"192.0.2.1", "2001:db8::1"}}})
	for host, want := range map[string]string{
		"a.test": "192.0.2.1 2001:db8::1", "::1": "::1", "127.0.0.1": "127.0.0.1", "LocalHost.": "127.0.0.1 ::1", "b.test": "",
	} {
		ips, err := d.Lookup(t.Context(), host)
		if got := strings.Join(ips, " "); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v", host, got, err)
		}
	}
}

// TestDial: the next address is tried when one does not answer.
func TestDial(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	d := dialer(&dnstest.Zone{Host: map[string][]string{"a.test": {"127.0.0.2", "127.0.0.1"}, "b.test": {"127.0.0.2"}}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := d.Dial(ctx, "tcp", net.JoinHostPort("a.test", port))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for _, addr := range []string{"b.test:" + port, "nowhere.test:" + port, "nonsense"} {
		if _, err := d.Dial(ctx, "tcp", addr); err == nil {
			t.Error(addr, "answers")
		}
	}
	if _, err := d.Dial(ctx, "unix", "/nonexistent/socket"); err == nil {
		t.Error("no error of a socket that is not there")
	}
}

func TestHTTP(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "http://elsewhere.test/", http.StatusFound)
			return
		}
		w.Write([]byte("hello"))
	}))
	defer srv.Close()
	c := dialer(new(dnstest.Zone)).HTTP(1, time.Second)
	defer c.CloseIdleConnections()
	resp, err := c.Get(srv.URL + "/away")
	if err != nil || resp.StatusCode != http.StatusFound {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	for limit, want := range map[int64]error{5: nil, 4: ErrTooLong} {
		resp, err := c.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ReadAll(resp.Body, limit)
		resp.Body.Close()
		if !errors.Is(err, want) || err == nil && string(b) != "hello" {
			t.Errorf("%d: %s %v", limit, b, err)
		}
	}
	if c := dialer(nil).TLS("a.test"); c.ServerName != "a.test" || c.InsecureSkipVerify {
		t.Error(c)
	}
}
