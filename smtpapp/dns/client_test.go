package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

func testZone() *dnstest.Zone {
	return &dnstest.Zone{
		Host: map[string][]string{
			"mx.example.test":   {"192.0.2.1", "2001:db8::1"},
			"four.example.test": {"192.0.2.4"},
		},
		MX: map[string][]net.MX{
			"example.test": {{Host: "late.example.test", Pref: 20}, {Host: "mx.example.test", Pref: 10}},
			"null.test":    {{Host: ".", Pref: 0}},
			"odd.test":     {{Host: `bad\032name.test`, Pref: 1}, {Host: "good.test", Pref: 2}},
			"ugly.test":    {{Host: `bad\032name.test`, Pref: 1}},
		},
		TXT: map[string][]string{
			"example.test": {"v=spf1 -all", "a\\b \"c\" \x00\xff;"},
			"long.test":    {strings.Repeat("0123456789", 300)},
		},
		PTR: map[string][]string{
			"192.0.2.1":   {"mx.example.test"},
			"2001:db8::1": {"mx.example.test"},
		},
		CNAME: map[string]string{
			"alias.test": "alias2.test", "alias2.test": "mx.example.test",
			"loop.test": "pool.test", "pool.test": "loop.test",
			"dangling.test": "nowhere.test",
		},
		Fail:   map[string]bool{"fail.test": true},
		Silent: map[string]bool{"silent.test": true},
	}
}

// both runs f with the zone as it is and with a Client that asks it.
func both(t *testing.T, f func(t *testing.T, r dns.Resolver)) {
	zone := testZone()
	t.Run("zone", func(t *testing.T) { f(t, zone) })
	t.Run("client", func(t *testing.T) { f(t, client(t, zone)) })
}

func client(t *testing.T, zone *dnstest.Zone, opts ...dns.Option) *dns.Client {
	t.Helper()
	c, err := dns.New([]string{dnstest.Serve(t, zone)}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLookups(t *testing.T) {
	ctx := t.Context()
	both(t, func(t *testing.T, r dns.Resolver) {
		for _, tc := range []struct {
			what string
			ask  func() (any, error)
			want any
		}{
			{"MX", func() (any, error) { return hosts(r.LookupMX(ctx, "Example.test")) }, []string{"10 mx.example.test.", "20 late.example.test."}},
			{"null MX", func() (any, error) { return hosts(r.LookupMX(ctx, "null.test.")) }, []string{"0 ."}},
			{"TXT", func() (any, error) { return r.LookupTXT(ctx, "example.test.") }, []string{"v=spf1 -all", "a\\b \"c\" \x00\xff;"}},
			{"TXT over TCP", func() (any, error) { return r.LookupTXT(ctx, "long.test") }, []string{strings.Repeat("0123456789", 300)}},
			{"PTR", func() (any, error) { return r.LookupAddr(ctx, "192.0.2.1") }, []string{"mx.example.test."}},
			{"PTR 6", func() (any, error) { return r.LookupAddr(ctx, "2001:db8::1") }, []string{"mx.example.test."}},
			{"addresses", func() (any, error) { return r.LookupNetIP(ctx, "ip", "mx.example.test") }, addrs("192.0.2.1", "2001:db8::1")},
			{"ip4", func() (any, error) { return r.LookupNetIP(ctx, "ip4", "mx.example.test") }, addrs("192.0.2.1")},
			{"ip6", func() (any, error) { return r.LookupNetIP(ctx, "ip6", "mx.example.test") }, addrs("2001:db8::1")},
			{"no AAAA", func() (any, error) { return r.LookupNetIP(ctx, "ip", "four.example.test") }, addrs("192.0.2.4")},
			{"CNAME", func() (any, error) { return r.LookupNetIP(ctx, "ip4", "alias.test") }, addrs("192.0.2.1")},
			{"literal", func() (any, error) { return r.LookupNetIP(ctx, "ip", "192.0.2.9") }, addrs("192.0.2.9")},
		} {
			got, err := tc.ask()
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%s: got %q, %v; want %q", tc.what, got, err, tc.want)
			}
		}
	})
}

func hosts(mxs []*net.MX, err error) (out []string, _ error) {
	for _, mx := range mxs {
		out = append(out, fmt.Sprintf("%d %s", mx.Pref, mx.Host))
	}
	return out, err
}

func addrs(ss ...string) (out []netip.Addr) {
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestFailures(t *testing.T) {
	both(t, func(t *testing.T, r dns.Resolver) {
		for _, tc := range []struct {
			name                      string
			notFound, noName, timeout bool
		}{
			{"nowhere.test", true, true, false},
			{"nowhere.test", true, true, false},  // from the cache
			{"example.test", true, false, false}, // NODATA: it has no addresses
			{"dangling.test", true, false, false},
			{"fail.test", false, false, false},
			{"loop.test", false, false, false},
			{"silent.test", false, false, true},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			_, err := r.LookupNetIP(ctx, "ip", tc.name)
			cancel()
			e, ok := err.(*net.DNSError) // bare, as the SPF library wants it
			if !ok || e.IsNotFound != tc.notFound || e.IsTimeout != tc.timeout || e.Temporary() == tc.notFound {
				t.Errorf("%s: got %#v", tc.name, err)
			}
			if errors.Is(err, dns.ErrNoName) != tc.noName {
				t.Errorf("%s: %v", tc.name, err)
			}
			if ok && e.Name != tc.name && tc.name != "loop.test" {
				t.Errorf("%s: error names %s", tc.name, e.Name)
			}
		}
	})
}

// TestNotAsked has the names that no server may be asked for.
func TestNotAsked(t *testing.T) {
	zone := testZone()
	c := client(t, zone)
	ctx := t.Context()
	for _, name := range []string{"", "a\\.test", "ü.test", "..", "a..test", strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 128)} {
		_, err := c.LookupTXT(ctx, name)
		if e, ok := err.(*net.DNSError); !ok || !e.IsNotFound {
			t.Errorf("%q: got %v", name, err)
		}
	}
	for _, name := range []string{"localhost", "LOCALHOST.", "a.localhost"} {
		got, err := c.LookupNetIP(ctx, "ip", name)
		if want := addrs("127.0.0.1", "::1"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %v, %v", name, got, err)
		}
	}
	if _, err := c.LookupNetIP(ctx, "ip6", "192.0.2.1"); err == nil {
		t.Error("an IPv4 address is no answer to ip6")
	}
	if _, err := c.LookupNetIP(ctx, "tcp", "x.test"); err == nil {
		t.Error("tcp is no network of addresses")
	}
	if _, err := c.LookupAddr(ctx, "x.test"); err == nil {
		t.Error("a name is no address")
	}
	if asked := zone.Asked(); len(asked) > 0 {
		t.Errorf("asked for %q", asked)
	}
}

func TestUnusableNames(t *testing.T) {
	c := client(t, testZone())
	if got, err := hosts(c.LookupMX(t.Context(), "odd.test")); err != nil || !slices.Equal(got, []string{"2 good.test."}) {
		t.Errorf("got %q, %v", got, err)
	}
	_, err := c.LookupMX(t.Context(), "ugly.test")
	if e, ok := err.(*net.DNSError); !ok || !e.IsTemporary {
		t.Errorf("got %v", err)
	}
}

func TestCacheAndChange(t *testing.T) {
	zone := testZone()
	c := client(t, zone)
	ctx := t.Context()
	for range 3 {
		c.LookupTXT(ctx, "example.test")
		c.LookupTXT(ctx, "Example.Test.")
		c.LookupTXT(ctx, "nowhere.test")
		c.LookupTXT(ctx, "fail.test")
	}
	count := func(q string) (n int) {
		for _, a := range zone.Asked() {
			if a == q {
				n++
			}
		}
		return n
	}
	if n := count("TXT example.test"); n != 1 {
		t.Errorf("a record was asked for %d times", n)
	}
	if n := count("TXT nowhere.test"); n != 1 {
		t.Errorf("a missing name was asked for %d times", n)
	}
	if n := count("TXT fail.test"); n != 3 {
		t.Errorf("a failure was kept: asked %d times", n)
	}

	zone.Change(func(z *dnstest.Zone) { z.Fail = nil; z.TXT["fail.test"] = []string{"better"} })
	if got, err := c.LookupTXT(ctx, "fail.test"); err != nil || got[0] != "better" {
		t.Errorf("after a change: got %q, %v", got, err)
	}
}

func TestNoCache(t *testing.T) {
	zone := testZone()
	c := client(t, zone, dns.CacheEntries(0))
	for range 2 {
		c.LookupTXT(t.Context(), "example.test")
	}
	if n := len(zone.Asked()); n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// TestNextServer has a server that answers nothing and one that fails before
// the one that knows.
func TestNextServer(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	failing := dnstest.Serve(t, &dnstest.Zone{Fail: map[string]bool{"example.test": true}})
	good := dnstest.Serve(t, testZone())
	c, err := dns.New([]string{silent.LocalAddr().String(), failing, good}, dns.Timeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.LookupTXT(t.Context(), "example.test"); err != nil || len(got) != 2 {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestOneFlight lets many ask for the same at once, while the first gives up.
func TestOneFlight(t *testing.T) {
	zone := testZone()
	c := client(t, zone, dns.Timeout(200*time.Millisecond))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { c.LookupTXT(short, "silent.test") })
	time.Sleep(20 * time.Millisecond)
	zone.Change(func(z *dnstest.Zone) { z.Silent = nil; z.TXT["silent.test"] = []string{"here"} })
	for range 20 {
		wg.Go(func() {
			if got, err := c.LookupTXT(t.Context(), "silent.test"); err != nil || got[0] != "here" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := len(zone.Asked()); n != 2 {
		t.Errorf("asked %d times, not by the one who gave up and once for all others", n)
	}
}

func TestCancel(t *testing.T) {
	c := client(t, testZone())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	start := time.Now()
	_, err := c.LookupTXT(ctx, "silent.test")
	if e, ok := err.(*net.DNSError); !ok || !e.Temporary() || e.IsNotFound {
		t.Errorf("got %#v", err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestNewServers(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:53", "fe80::1%eth0"} {
		if _, err := dns.New([]string{s}); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "resolver.test", "192.0.2.1:x", "192.0.2.1:0", "tls://192.0.2.1"} {
		if _, err := dns.New([]string{s}); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
	if _, err := dns.New(nil); err != nil {
		t.Errorf("the system's own: %v", err)
	}
}
