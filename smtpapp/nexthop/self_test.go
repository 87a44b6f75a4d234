package nexthop

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// TestLackingHost: what one host of a domain lacks, another may have. Who of the
// recipients needs nothing of it is served by the first.
func TestLackingHost(t *testing.T) {
	old, modern := []string{"PIPELINING", "8BITMIME", "SIZE 1000"}, []string{"PIPELINING", "8BITMIME", "SMTPUTF8"}
	for _, tc := range []struct {
		name    string
		a, b    []string // what the hosts offer; nil for one that is not there
		to      string
		own     bool
		want    string
		by      string // who got something
		content string
	}{
		{name: "the second has it", a: old, b: modern, to: "für@o.test x@o.test", want: "relayed 250 2.0.0 b.mx.test, relayed 250 2.0.0 a.mx.test", by: "a b"},
		{name: "nobody has it", a: old, b: old, to: "für@o.test x@o.test", want: "failed 550 5.6.7 , relayed 250 2.0.0 a.mx.test", by: "a"},
		{name: "the second is down", a: old, to: "für@o.test", want: "delayed 451 4.4.1 "},
		{name: "the first is down", b: old, to: "für@o.test", want: "delayed 451 4.4.1 "},
		{name: "both are down", to: "für@o.test", want: "delayed 451 4.4.1 unreachable"},
		{name: "too big for the first", a: old, b: modern, to: "x@o.test", want: "relayed 250 2.0.0 b.mx.test", by: "b", content: strings.Repeat("x", 2000)},
		{name: "hosts of our own", a: old, b: old, own: true, to: "für@o.test", want: "failed 550 5.6.7 "},
		{name: "one recipient each", a: append(old, "LIMITS RCPTMAX=1"), to: "für@o.test x@o.test ü@o.test y@o.test", want: "delayed 451 4.4.1 , relayed 250 2.0.0 a.mx.test, delayed 451 4.4.1 , relayed 250 2.0.0 a.mx.test", by: "a a"},
	} {
		w := &world{at: map[string]*clienttest.Server{}}
		var srvs []*clienttest.Server
		for i, ext := range [][]string{tc.a, tc.b} {
			if ext != nil {
				srvs = append(srvs, clienttest.Start(t, clienttest.Options{Extensions: ext}))
				w.at[[]string{"192.0.2.1:25", "192.0.2.2:25"}[i]] = srvs[len(srvs)-1]
			}
		}
		s := sender(t, w, func(s *Sender) { s.Own = tc.own })
		d := delivery(t, strings.Fields(tc.to)...)
		if tc.content != "" {
			var err error
			if d.Content, err = message.Parse([]byte("Subject: big\r\n\r\n" + tc.content + "\r\n")); err != nil {
				t.Fatal(err)
			}
		}
		got := strings.ReplaceAll(words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "b.mx.test"))), "\n", ", ")
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
		var by []string
		for i, srv := range srvs {
			for range srv.Messages() {
				by = append(by, map[bool]string{true: "a", false: "b"}[tc.a != nil && i == 0])
			}
		}
		if got := strings.Join(by, " "); got != tc.by {
			t.Errorf("%s: messages at %q, want %q", tc.name, got, tc.by)
		}
	}
}

// TestLackingHosts: hosts that lack something cost nothing but their greeting, and
// do not use up the sessions of an attempt.
func TestLackingHosts(t *testing.T) {
	old := clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME"}})
	modern := clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME", "SMTPUTF8"}})
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": old, "192.0.2.2:25": old, "[2001:db8::2]:25": old, "192.0.2.3:25": modern}}
	d := delivery(t, "für@o.test")
	got := words(sender(t, w).Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test", "b.mx.test", "c.mx.test")))
	if got != "relayed 250 2.0.0 c.mx.test" || len(old.Messages()) != 0 {
		t.Errorf("got %s", got)
	}
}

// TestSelf: a host that is us by another name is not tried, nor are those that are
// no better than it.
func TestSelf(t *testing.T) {
	us := netip.MustParseAddrPort("192.0.2.2:25")
	for _, tc := range []struct {
		domain, want, dialled string
	}{
		{"order.test", "delayed 451 4.4.1 unreachable", "192.0.2.1:25"}, // b is us, and c behind it
		{"equal.test", "failed 554 5.4.6 ", ""},                         // a and c are as good as we are
		{"a.mx.test", "delayed 451 4.4.1 unreachable", "192.0.2.1:25"},  // without MX
		{"b.mx.test", "failed 554 5.4.6 ", ""},                          // the same, of us
		{"[192.0.2.2]", "failed 554 5.4.6 ", ""},                        // or a literal
		{"[192.0.2.3]", "delayed 451 4.4.1 unreachable", "192.0.2.3:25"},
	} {
		f := finder()
		f.Listens = func(ap netip.AddrPort) bool { return ap == us }
		hs, err := f.Hosts(t.Context(), tc.domain)
		if err != nil {
			t.Fatal(tc.domain, err)
		}
		w := new(world)
		d := delivery(t, "x@o.test")
		got := words(sender(t, w).Send(t.Context(), d, d.Envelope.Recipients, hs))
		if got != tc.want || strings.Join(w.dialed, " ") != tc.dialled {
			t.Errorf("%s: %s, dialled %v", tc.domain, got, w.dialed)
		}
	}
}

// TestSelfByName: behind a NAT only the greeting tells.
func TestSelfByName(t *testing.T) {
	us := clienttest.Start(t, clienttest.Options{}, rule("EHLO", "250-US.test hello\n250 SIZE 1000"))
	other := clienttest.Start(t, clienttest.Options{})
	for _, tc := range []struct {
		hosts []Host
		want  string
	}{
		{ranked("a.mx.test", "b.mx.test"), "failed 554 5.4.6 "},
		{ranked("c.mx.test", "a.mx.test", "b.mx.test"), "delayed 451 4.4.1 unreachable"},
		{fixed(t, "a.mx.test:25"), "relayed 250 2.0.0 a.mx.test"}, // our configuration knows better
	} {
		w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": us, "192.0.2.2:25": other, "[2001:db8::2]:25": other}}
		d := delivery(t, "x@o.test")
		got := words(sender(t, w).Send(t.Context(), d, d.Envelope.Recipients, tc.hosts))
		if got != tc.want || len(other.Messages()) != 0 {
			t.Errorf("%s: got %s, want %s", names(tc.hosts), got, tc.want)
		}
	}
	h := hosts("a.mx.test")[0]
	if h.named("") || h.named("us.test.evil.test") || !h.named("us.test.") {
		t.Error("names are compared badly")
	}
}

func ranked(names ...string) []Host {
	hs := hosts(names...)
	for i := range hs {
		hs[i].rank = uint16(i)
	}
	return hs
}

func fixed(t *testing.T, addr string) []Host {
	t.Helper()
	h, err := FixedHost("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return []Host{h}
}
