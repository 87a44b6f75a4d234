package nexthop

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func zone() *dnstest.Zone {
	many := []net.MX{}
	for i := range 500 {
		many = append(many, net.MX{Host: fmt.Sprintf("mx%d.many.test", i), Pref: uint16(i)})
	}
	return &dnstest.Zone{
		Host: map[string][]string{
			"a.mx.test": {"192.0.2.1"}, "b.mx.test": {"192.0.2.2", "2001:db8::2"}, "c.mx.test": {"192.0.2.3"},
			"plain.test": {"192.0.2.9"}, "loop.test": {"127.0.0.1"},
			"local.mx.test": {"127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "127.8.8.8", "224.0.0.1"},
			"mixed.mx.test": {"127.0.0.1", "192.0.2.4"}, "us.test": {"192.0.2.77"},
		},
		MX: map[string][]net.MX{
			"order.test":  {{Host: "c.mx.test", Pref: 30}, {Host: "A.MX.test", Pref: 10}, {Host: "b.mx.test", Pref: 20}},
			"equal.test":  {{Host: "a.mx.test", Pref: 10}, {Host: "b.mx.test", Pref: 10}, {Host: "c.mx.test", Pref: 10}},
			"null.test":   {{Host: "."}},
			"odd.test":    {{Host: ".", Pref: 5}, {Host: "a.mx.test", Pref: 10}},
			"self.test":   {{Host: "us.test", Pref: 5}, {Host: "a.mx.test", Pref: 10}},
			"backup.test": {{Host: "a.mx.test", Pref: 5}, {Host: "US.test", Pref: 10}, {Host: "b.mx.test", Pref: 10}, {Host: "c.mx.test", Pref: 20}},
			"local.test":  {{Host: "local.mx.test", Pref: 5}},
			"gone.test":   {{Host: "gone.mx.test", Pref: 5}},
			"many.test":   many,
			"mixed.test":  {{Host: "mixed.mx.test", Pref: 5}},
		},
		CNAME: map[string]string{"circle.test": "circle2.test", "circle2.test": "circle.test", "alias.test": "order.test"},
		Fail:  map[string]bool{"broken.test": true, "broken.mx.test": true},
	}
}

// finder is one on the host us.test.
func finder() *Finder { return &Finder{Resolver: zone(), Hostname: "us.test", Port: "25"} }

func names(hosts []Host) string {
	var s []string
	for _, h := range hosts {
		s = append(s, h.Name)
	}
	return strings.Join(s, " ")
}

func TestHosts(t *testing.T) {
	for domain, want := range map[string]string{
		"order.test":         "a.mx.test b.mx.test c.mx.test",
		"alias.test":         "a.mx.test b.mx.test c.mx.test",
		"plain.test":         "plain.test",
		"odd.test":           "a.mx.test",
		"backup.test":        "a.mx.test",
		"[192.0.2.1]":        "[192.0.2.1]",
		"[IPv6:2001:db8::2]": "[IPv6:2001:db8::2]",
		"null.test":          "556 5.1.10",
		"self.test":          "554 5.4.6",
		"us.test":            "554 5.4.6",
		"nowhere.test":       "550 5.1.2",
		"":                   "550 5.1.2",
		"broken.test":        "451 4.4.3",
		"circle.test":        "451 4.4.3",
	} {
		hosts, err := finder().Hosts(t.Context(), domain)
		got := names(hosts)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want+" ")) {
			t.Errorf("%s: %s, want %s", domain, got, want)
		}
	}
}

func TestEqualsAreShuffled(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		hosts, err := finder().Hosts(t.Context(), "equal.test")
		if err != nil || len(hosts) != 3 {
			t.Fatal(hosts, err)
		}
		seen[names(hosts)] = true
	}
	if len(seen) != 6 {
		t.Errorf("seen %v", seen)
	}
}

func TestAddresses(t *testing.T) {
	for domain, want := range map[string]string{
		"order.test":           "192.0.2.1:25",
		"[IPv6:2001:db8::2]":   "[2001:db8::2]:25",
		"local.test":           "554 5.4.6",
		"mixed.test":           "192.0.2.4:25",
		"loop.test":            "554 5.4.6",
		"[127.0.0.1]":          "554 5.4.6",
		"[IPv6:::1]":           "554 5.4.6",
		"[IPv6:::ffff:7f00:1]": "554 5.4.6",
		"[0.0.0.0]":            "554 5.4.6",
		"gone.test":            "550 5.4.4",
	} {
		f := finder()
		hosts, err := f.Hosts(t.Context(), domain)
		var got string
		if err == nil {
			var addrs []string
			addrs, err = addresses(t.Context(), f.Resolver, hosts[0])
			got = strings.Join(addrs, " ")
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", domain, got, want)
		}
	}
	h := finder().host("broken.mx.test")
	if _, err := addresses(t.Context(), zone(), h); mail.ReplyFor(err).Enh != "4.4.3" {
		t.Error(err)
	}
}

func TestLoopbackIfTold(t *testing.T) {
	f := finder()
	f.Loopback = true
	hosts, err := f.Hosts(t.Context(), "local.test")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := addresses(t.Context(), f.Resolver, hosts[0])
	if err != nil || !slices.Contains(addrs, "127.0.0.1:25") || !slices.Contains(addrs, "[::1]:25") {
		t.Error(addrs, err)
	}
}

// TestSilentDNS: the end of an attempt ends its questions.
func TestSilentDNS(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	f := finder()
	f.Resolver = &dnstest.Zone{Silent: map[string]bool{"order.test": true}}
	if _, err := f.Hosts(ctx, "order.test"); mail.ReplyFor(err).Enh != "4.4.3" {
		t.Error(err)
	}
}

func TestFixedHost(t *testing.T) {
	for in, want := range map[string]string{
		"mail.test:25": "mail.test:25", "[::1]:25": "[::1]:25", "127.0.0.1:2525": "127.0.0.1:2525", "mail.test.:587": "mail.test:587", "bücher.test:25": "xn--bcher-kva.test:25",
		"mail.test": "", ":25": "", "mail.test:0": "", "mail.test:smtp": "", "mail.test:70000": "", "::1:25": "",
	} {
		h, err := FixedHost("tcp", in)
		if (err == nil) != (want != "") || err == nil && h.String() != want {
			t.Errorf("%s: %v, %v", in, h, err)
		}
	}
	if h, err := FixedHost("unix", "/run/lmtp"); err != nil || h.String() != "/run/lmtp" {
		t.Error(h, err)
	}
	h, _ := FixedHost("tcp", "127.0.0.1:25") // our own configuration may say so
	if addrs, err := addresses(t.Context(), zone(), h); err != nil || addrs[0] != "127.0.0.1:25" {
		t.Error(addrs, err)
	}
}

func FuzzAddressLiteral(f *testing.F) {
	f.Add("[127.0.0.1]")
	f.Add("[IPv6:::1]")
	f.Fuzz(func(t *testing.T, s string) {
		h := Host{strange: true}
		if ip, ok := addressLiteral(s); ok && h.usable(ip.Unmap()) && ip.Unmap() == netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%q leads home", s)
		}
	})
}
