package relay

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// pooled is an agent with pools, read from a Caddyfile.
func pooled(t testing.TB, text string) *Agent {
	t.Helper()
	a := new(Agent)
	if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser("relay {\n" + text + "\n}")); err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(a)
	a = new(Agent)
	if err := caddy.StrictUnmarshalJSON(b, a); err != nil {
		t.Fatal(err)
	}
	return agent(t, a, nil, nil)
}

// TestPoolWeights: sources send as much as they weigh, and when one leaves only its
// messages go elsewhere.
func TestPoolWeights(t *testing.T) {
	const rest = "source 192.0.2.2\nsource 192.0.2.3 2001:db8::3 m3.test weight 2\n"
	a := pooled(t, "pool p {\nsource 192.0.2.1\n"+rest+"}")
	less := pooled(t, "pool p {\n"+rest+"}")
	env := &mail.Envelope{}
	counts := map[string]int{}
	for i := range 8000 {
		id := fmt.Sprintf("m%d", i)
		n := a.ChooseSource(id, env)
		counts[n]++
		if n != a.ChooseSource(id, env) {
			t.Fatal("a message has two sources")
		}
		if n != "p/192.0.2.1" && n != less.ChooseSource(id, env) {
			t.Fatalf("%s has another source now", id)
		}
	}
	for n, want := range map[string]int{"p/192.0.2.1": 2000, "p/192.0.2.2": 2000, "p/192.0.2.3": 4000} {
		if got := counts[n]; got < want*9/10 || got > want*11/10 {
			t.Errorf("%s: %d, want about %d", n, got, want)
		}
	}
}

// TestPoolFor: the first pool that is for a message is its.
func TestPoolFor(t *testing.T) {
	a := pooled(t, `pool news {
		source 192.0.2.1
		from *@news.test <>
	}
	pool shop {
		source 192.0.2.2
		user shop-*
	}
	pool both {
		source 192.0.2.3
		user alice
		from *@a.test
	}`)
	for _, tc := range []struct{ user, from, want string }{
		{"", "x@news.test", "news/192.0.2.1"}, {"shop-1", "x@news.test", "news/192.0.2.1"}, {"shop-1", "x@a.test", "shop/192.0.2.2"},
		{"", "", "news/192.0.2.1"}, {"alice", "x@a.test", "both/192.0.2.3"}, {"alice", "x@b.test", ""}, {"", "x@a.test", ""},
	} {
		env := &mail.Envelope{AuthUser: tc.user}
		if tc.from != "" {
			env.From, _ = mail.ParseAddress(tc.from)
		}
		if got := a.ChooseSource("id", env); got != tc.want {
			t.Errorf("%s, %s: %q, want %q", tc.user, tc.from, got, tc.want)
		}
	}
}

// TestPoolSends: from the source that was chosen, and by its name.
func TestPoolSends(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	zone := &dnstest.Zone{Host: map[string][]string{"smart.test": {"127.0.0.1"}}}
	a := agent(t, &Agent{Hosts: []string{"smart.test"}, Port: portOf(t, srv.Addr), Pools: []Pool{
		{Name: "p", Sources: []PoolSource{{Source: []string{"127.0.0.2", "two.test"}}, {Source: []string{"127.0.0.3", "three.test"}}}},
	}}, zone, nil)
	for _, source := range []string{"p/127.0.0.3", "p/127.0.0.2", ""} {
		d := delivery(t, "a@far.test")
		d.Source = source
		if got := words(a.Deliver(t.Context(), d)); got != "relayed 250 2.0.0 smart.test" {
			t.Error(got)
		}
	}
	var hellos []string
	for _, m := range srv.Messages() {
		hellos = append(hellos, m.Hello)
	}
	if got := strings.Join(hellos, " "); got != "three.test two.test us.test" {
		t.Error(got)
	}
}

func TestPoolErrors(t *testing.T) {
	for in, want := range map[string]string{
		"pool {\n}":                                                                "wrong argument count",
		"pool p {\n}":                                                              "pool p: a pool has sources, at Testfile:2",
		"pool p {\nsource here.test\n}":                                            "a source needs an address, at Testfile:3",
		"pool p {\nsource 192.0.2.1 weight 0\n}":                                   "'0' is not a weight of 1 or more, at Testfile:3",
		"pool p {\nsource weight 2\n}":                                             "wrong argument count",
		"pool p {\nsource 192.0.2.1\nfrom a@b@c..d\n}":                             "pool p: ",
		"pool p {\nsource 192.0.2.1\ndestination x\n}":                             "unrecognized option 'destination', at Testfile:4",
		"pool p {\nsource 192.0.2.1\nsource 192.0.2.1\n}":                          "192.0.2.1 is in it twice",
		"pool p {\nsource 192.0.2.1\n}\npool p {\nsource 192.0.2.2\n}":             "there are two of this name",
		"pool p {\nsource 192.0.2.1\n}\nsource_by inline {\nalice 192.0.2.7\n}":    "give pools their users",
		"pool p {\nsource 192.0.2.1\n}\nnetwork_proxy url socks5://127.0.0.1:1080": "has no source of this host",
	} {
		a := new(Agent)
		err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser("relay {\n" + in + "\n}"))
		if err == nil {
			err = provision(t, a, nil, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}
