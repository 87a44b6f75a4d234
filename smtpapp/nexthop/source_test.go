package nexthop

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

func TestParseSource(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":                       "[192.0.2.1] ",
		"192.0.2.1 [2001:db8::1]":         "[192.0.2.1 2001:db8::1] ",
		"out.example.test ::ffff:1.2.3.4": "[1.2.3.4] out.example.test",
		"":                                "a source needs an address",
		"out.example.test":                "a source needs an address",
		"192.0.2.1 192.0.2.2":             "'192.0.2.2': a source has one address of a family",
		"192.0.2.1 a.test b.test":         "'b.test' is neither an address nor the only name",
		"192.0.2.1 a_/b":                  "'a_/b' is neither an address nor a name: syntax error in address: domain",
		"0.0.0.0":                         "'0.0.0.0' is not an address to send from",
		"fe80::1%eth0":                    "'fe80::1%eth0' is not an address to send from",
		"224.0.0.1":                       "'224.0.0.1' is not an address to send from",
	} {
		src, err := ParseSource(strings.Fields(in))
		got := fmt.Sprint(src.Addresses, " ", src.Hello)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// TestFrom: connections come from the source and say its name, and none is used
// for another source.
func TestFrom(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	_, port, err := net.SplitHostPort(srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	h, err := FixedHost("tcp", net.JoinHostPort("mx.far.test", port))
	if err != nil {
		t.Fatal(err)
	}
	s := sender(t, &world{}, func(s *Sender) {
		s.Client.Dial = nil
		s.Resolver = &dnstest.Zone{Host: map[string][]string{"mx.far.test": {"::1", "::1", "::1", "::1", "::1", "127.0.0.1"}}}
		s.Pool = NewPool(PoolOptions{Idle: time.Minute, Max: 5})
	})
	src := func(words string) Source {
		src, err := ParseSource(strings.Fields(words))
		if err != nil {
			t.Fatal(err)
		}
		return src
	}
	d := delivery(t, "a@far.test")
	one, two := s.From(src("127.0.0.2 one.test")), s.From(src("127.0.0.3"))
	for _, s := range []*Sender{one, two, one, two} {
		if st := s.Send(t.Context(), d, d.Envelope.Recipients, []Host{h}); st[0].Reply.Code != 250 {
			t.Fatal(st[0].Reply)
		}
	}
	got := ""
	for _, m := range srv.Messages() {
		got += m.Hello + " "
	}
	if got != "one.test us.test one.test us.test " || srv.Connections() != 2 {
		t.Errorf("%s over %d connections", got, srv.Connections())
	}
	peers := map[string]bool{}
	for key := range s.Pool.idle {
		for _, k := range s.Pool.idle[key] {
			ip, _, _ := net.SplitHostPort(k.raw.LocalAddr().String())
			peers[ip] = true
		}
	}
	if !peers["127.0.0.2"] || !peers["127.0.0.3"] {
		t.Errorf("connections from %v", peers)
	}
	six := s.From(src("2001:db8::1"))
	h.ips = literal("127.0.0.1")
	for _, s := range []*Sender{six, s.From(src("192.0.2.1"))} { // which is not an address of this host
		if st := s.Send(t.Context(), d, d.Envelope.Recipients, []Host{h}); st[0].Reply.Error() != "451 4.3.5 mx.far.test: no usable address of ours to send from" || st[0].Unreachable {
			t.Errorf("%+v", st[0])
		}
	}
	if _, err := src("2001:db8::1").dial(t.Context(), "tcp", "127.0.0.1:25"); !errors.Is(err, errNoSource) {
		t.Error(err)
	}
}
