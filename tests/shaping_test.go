package tests

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/provider"
)

// shaped is a host that sends to the MX of domains, all on this machine, by the
// rules of a shaping block. The MX of big1.test and big2.test is mx.big.test, that
// of others mx.small.test, or both.
func shaped(t *testing.T, srv *clienttest.Server, shaping string) (h *host, load func(shaping string)) {
	t.Helper()
	_, port, err := net.SplitHostPort(srv.Addr)
	if err != nil {
		t.Fatal(err)
	}
	zone := &dnstest.Zone{
		Host: map[string][]string{"mx.big.test": {"127.0.0.1"}, "mx.small.test": {"127.0.0.1"}, "mx2.small.test": {"127.0.0.2"}},
		MX: map[string][]net.MX{
			"big1.test": {{Host: "mx.big.test", Pref: 1}}, "big2.test": {{Host: "mx.big.test", Pref: 1}},
			"small1.test": {{Host: "mx.small.test", Pref: 1}}, "small2.test": {{Host: "mx.small.test", Pref: 1}},
		},
	}
	h = newHost(t)
	resolver := dnstest.Serve(t, zone)
	load = func(shaping string) {
		t.Helper()
		h.load(fmt.Sprintf(`resolver %s
		agent out relay {
			port %s
			allow_loopback
		}
		shaping {
			%s
		}
		server mx ADDR(mx) {
			tls off
			deliver out
		}`, resolver, port, shaping))
	}
	load(shaping)
	return h, load
}

// sendEach sends n messages to each address, in one session.
func (h *host) sendEach(n int, to ...string) {
	h.t.Helper()
	k := greet(h.t, h.addr("mx"))
	for range n {
		for _, a := range to {
			k.send("a@b.test", a, "x")
		}
	}
}

// TestShapingConcurrency: domains at one provider share what there may be at it.
func TestShapingConcurrency(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: ".", Delay: 50 * time.Millisecond})
	h, _ := shaped(t, srv, `rule big {
		mx *.big.test
		count together
		concurrency 2
		messages_per_connection 3
	}`)
	h.sendEach(6, "x@big1.test", "x@big2.test")
	wait(t, "the mail", func() bool { return len(srv.Messages()) == 12 })
	if n, all := srv.Most(), srv.Connections(); n > 3 || all < 4 { // one may say goodbye yet
		t.Errorf("%d connections at once, %d in all", n, all)
	}
	h.sendEach(15, "x@small1.test", "x@small2.test")
	wait(t, "the mail", func() bool { return len(srv.Messages()) == 42 })
	if n := srv.Most(); n < 4 {
		t.Errorf("%d connections at once where there is no rule", n)
	}
}

// TestShapingConnections: one address has as many connections as it may have, of
// all domains.
func TestShapingConnections(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: ".", Delay: 50 * time.Millisecond})
	h, _ := shaped(t, srv, `rule all {
		connections_per_address 1
	}`)
	h.sendEach(4, "x@big1.test", "x@small1.test")
	wait(t, "the mail", func() bool { return len(srv.Messages()) == 8 })
	if n := srv.Most(); n != 1 {
		t.Errorf("%d connections at once", n)
	}
	wait(t, "an empty queue", func() bool { return len(h.queue("")) == 0 })
}

// TestShapingRate: what is over the rate waits, untried, and a reload forgets
// nothing of what was sent.
func TestShapingRate(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	rule := `rule big {
		domain big1.test
		messages 3/1h
	}
	rule rest {
		recipients 4/1h
	}`
	h, load := shaped(t, srv, rule)
	h.sendEach(5, "x@big1.test", "x@small1.test")
	wait(t, "the mail", func() bool { return len(srv.Messages()) == 7 })
	check := func(n int) {
		t.Helper()
		wait(t, "the rest to wait", func() bool { return len(h.queue("")) == n+1 })
		time.Sleep(300 * time.Millisecond)
		if got, list := len(srv.Messages()), h.queue("domain=big1.test"); got != 7 || len(list) != n || list[0].Recipients[0].Attempts != 0 {
			t.Errorf("%d messages; waiting: %+v", got, list)
		}
	}
	check(2)
	load(rule)
	check(2)
}

// TestShapingReplies: what replies mean is what the rule says.
func TestShapingReplies(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{},
		clienttest.Rule{At: "RCPT TO:<blocked@", Reply: "554 5.7.1 your address is BLOCKED"},
		clienttest.Rule{At: "RCPT TO:<full@", Reply: "452 4.2.2 mailbox full"},
		clienttest.Rule{At: "RCPT TO:<rate@", Reply: "421 4.7.28 unusual rate"},
	)
	h, _ := shaped(t, srv, `rule big {
		domain big1.test
		reply "^554 .*blocked" retry
		reply 4.2.2 fail
		reply 4\.7\.28 pause 1h
	}`)
	of := func(to string) []queuedMail { return h.queue("recipient=" + url.QueryEscape(to)) }
	h.sendEach(1, "blocked@big1.test", "full@big1.test", "blocked@small1.test")
	wait(t, "the attempts", func() bool {
		b := of("blocked@big1.test")
		return len(b) == 1 && b[0].Recipients[0].Attempts == 1 && len(of("full@big1.test"))+len(of("blocked@small1.test")) == 0
	})
	h.sendEach(1, "rate@big1.test")
	wait(t, "the attempt", func() bool { b := of("rate@big1.test"); return len(b) == 1 && b[0].Recipients[0].Attempts == 1 })
	n := len(srv.Messages())
	h.sendEach(2, "x@big1.test", "x@small1.test")
	wait(t, "others", func() bool { return len(srv.Messages()) >= n+2 })
	time.Sleep(200 * time.Millisecond)
	if b := of("x@big1.test"); len(b) != 2 || b[0].Recipients[0].Attempts != 0 {
		t.Errorf("got %+v", b)
	}
}

// providerRows is the table of the documentation.
func providerRows() string {
	var b strings.Builder
	for _, r := range provider.Rules() {
		count, whom := "each", append(slices.Clone(r.Domains), r.Hosts...)
		if r.Together {
			count = "together"
		}
		if len(r.Domains) > 4 {
			whom = append(append(slices.Clone(r.Domains[:4]), "…"), r.Hosts...)
		}
		fmt.Fprintf(&b, "| `%s` | %s | %d %d | %d | %s |\n", r.Name, strings.Join(whom, ", "), r.Concurrency, r.First, r.PerConnection, count)
	}
	return b.String()
}

// TestProvidersInDocs: the documentation says what the rules are.
func TestProvidersInDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/traffic-shaping.md")
	if err != nil {
		t.Fatal(err)
	}
	if rows := providerRows(); !strings.Contains(string(text), rows) {
		t.Errorf("docs/traffic-shaping.md lacks\n%s", rows)
	}
}

// TestShapingProviders: a rule of the configuration changes one of a provider's, and
// what it does not say stays.
func TestShapingProviders(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RCPT TO:<blocked@", Reply: "550 5.7.1 messages from [127.0.0.1] weren't sent: part of their network is on our block list (S3140)"})
	h, _ := shaped(t, srv, `providers
	rule outlook {
		mx *.big.test
		concurrency 1
	}`)
	h.sendEach(1, "blocked@big1.test", "blocked@small1.test")
	wait(t, "the attempts", func() bool {
		b := h.queue("domain=big1.test")
		return len(b) == 1 && b[0].Recipients[0].Attempts == 1 && len(h.queue("domain=small1.test")) == 0
	})
	h.sendEach(2, "x@big2.test", "x@small1.test")
	wait(t, "others", func() bool { return len(srv.Messages()) >= 2 })
	time.Sleep(200 * time.Millisecond)
	if b := h.queue("domain=big2.test"); len(b) != 2 || b[0].Recipients[0].Attempts != 0 {
		t.Errorf("the provider does not rest: %+v", b)
	}
}

// TestPools: each message from one source of its pool, by its name; and each source
// has rates of its own.
func TestPools(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.2 is an address on Linux only")
	}
	srv := clienttest.Start(t, clienttest.Options{})
	h := newHost(t)
	h.load(fmt.Sprintf(`agent out relay %s {
		tls off
		pool news {
			source 127.0.0.2 two.example.test
			source 127.0.0.3 three.example.test
			from *@news.test
		}
	}
	shaping {
		rule news {
			source news/*
			count together
			messages 3/1h
		}
		rule two {
			agent out
			concurrency 2
		}
	}
	server mx ADDR(mx) {
		tls off
		deliver out
	}`, srv.Addr))
	k := greet(t, h.addr("mx"))
	for range 20 {
		k.send("a@news.test", "x@far.test", "x")
		k.send("a@other.test", "x@far.test", "x")
	}
	counts := func() map[string]int {
		n := map[string]int{}
		for _, m := range srv.Messages() {
			n[m.Hello]++
		}
		return n
	}
	want := map[string]int{"two.example.test": 3, "three.example.test": 3, "mx.example.test": 20}
	wait(t, "the mail", func() bool { return maps.Equal(counts(), want) && len(h.queue("")) == 14 })
	time.Sleep(200 * time.Millisecond)
	if got := counts(); !maps.Equal(got, want) || len(h.queue("")) != 14 {
		t.Errorf("got %v; %d wait", got, len(h.queue("")))
	}
}
