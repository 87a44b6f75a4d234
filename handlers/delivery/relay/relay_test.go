package relay

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy" // has the network proxy modules

	_ "github.com/caddymail/caddy-smtp/handlers/table/inline"
	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// provision sets an agent up on the host us.test in a zone.
func provision(t testing.TB, a *Agent, zone *dnstest.Zone, roots *x509.CertPool) error {
	t.Helper()
	e := &env.Env{Hostname: "us.test", Resolver: zone, Roots: roots}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), e)})
	t.Cleanup(cancel)
	t.Cleanup(func() { a.Cleanup() })
	return a.Provision(ctx)
}

func agent(t testing.TB, a *Agent, zone *dnstest.Zone, roots *x509.CertPool) *Agent {
	t.Helper()
	if err := provision(t, a, zone, roots); err != nil {
		t.Fatal(err)
	}
	return a
}

func delivery(t testing.TB, to ...string) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte("Subject: hi\r\n\r\nhello\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{From: mail.Address{Local: "bob", Domain: "us.test"}}
	for _, s := range to {
		a, err := mail.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, mail.NewRecipient(a))
	}
	return &queue.Delivery{ID: "q1", Envelope: env, Content: m, Attempt: 1, Queued: time.Now(), Log: slog.New(slog.DiscardHandler)}
}

func words(sts []queue.Status) string {
	var lines []string
	for _, s := range sts {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %d %s %s", s.Action, s.Reply.Code, s.Reply.Enh, s.RemoteMTA)))
	}
	return strings.Join(lines, "\n")
}

func portOf(t testing.TB, addr string) uint16 {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

// TestToMX: recipients of several domains, each to the host of its own.
func TestToMX(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	zone := &dnstest.Zone{
		Host: map[string][]string{"mx.far.test": {"127.0.0.1"}, "plain.test": {"127.0.0.1"}, "us.test": {"127.0.0.1"}},
		MX: map[string][]net.MX{
			"far.test": {{Host: "mx.far.test", Pref: 10}}, "null.test": {{Host: "."}}, "home.test": {{Host: "us.test", Pref: 1}},
		},
		Fail: map[string]bool{"broken.test": true},
	}
	a := agent(t, &Agent{Port: portOf(t, srv.Addr), AllowLoopback: true}, zone, nil)
	d := delivery(t, "a@far.test", "b@null.test", "c@plain.test", "d@home.test", "e@broken.test", "f@nowhere.test", "g@far.test", "h@[127.0.0.1]")
	const want = `relayed 250 2.0.0 mx.far.test
failed 556 5.1.10
relayed 250 2.0.0 plain.test
failed 554 5.4.6
delayed 451 4.4.3
failed 550 5.1.2
relayed 250 2.0.0 mx.far.test
relayed 250 2.0.0 [127.0.0.1]`
	if got := words(a.Deliver(t.Context(), d)); got != want {
		t.Errorf("got\n%s", got)
	}
	var taken []string
	for _, m := range srv.Messages() {
		if m.Hello != "us.test" {
			t.Errorf("EHLO %s", m.Hello)
		}
		taken = append(taken, strings.Join(m.Recipients, " "))
	}
	slices.Sort(taken)
	if got := strings.Join(taken, ", "); got != "a@far.test g@far.test, c@plain.test, h@[127.0.0.1]" {
		t.Errorf("messages to %s", got)
	}
}

// TestNeverToOurselves: somebody's DNS cannot have us talk to what listens here.
func TestNeverToOurselves(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	zone := &dnstest.Zone{
		Host: map[string][]string{"mx.evil.test": {"127.0.0.1"}, "evil2.test": {"127.0.0.1"}},
		MX:   map[string][]net.MX{"evil.test": {{Host: "mx.evil.test", Pref: 10}}},
	}
	a := agent(t, &Agent{Port: portOf(t, srv.Addr)}, zone, nil)
	for _, to := range []string{"a@evil.test", "a@evil2.test", "a@[127.0.0.1]", "a@[IPv6:::1]"} {
		if got := words(a.Deliver(t.Context(), delivery(t, to))); got != "failed 554 5.4.6" {
			t.Errorf("%s: %s", to, got)
		}
	}
	if n := srv.Connections(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// TestSmarthosts are tried in order, and may be anywhere.
func TestSmarthosts(t *testing.T) {
	first, second := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "connect", Reply: "421 4.3.2 busy", Times: 1}), clienttest.Start(t, clienttest.Options{})
	zone := &dnstest.Zone{Host: map[string][]string{"smart.test": {"127.0.0.1"}}}
	t.Setenv("SECOND", second.Addr)
	a := agent(t, &Agent{Hosts: []string{"smart.test:" + strconv.Itoa(int(portOf(t, first.Addr))), "{env.SECOND}"}, Hello: "other.test"}, zone, nil)
	d := delivery(t, "a@far.test", "b@else.test")
	if got := words(a.Deliver(t.Context(), d)); got != "relayed 250 2.0.0 127.0.0.1\nrelayed 250 2.0.0 127.0.0.1" {
		t.Errorf("got %s", got)
	}
	if m := second.Messages(); len(m) != 1 || len(m[0].Recipients) != 2 || m[0].Hello != "other.test" {
		t.Errorf("got %+v", m)
	}
	if got := words(a.Deliver(t.Context(), d)); !strings.HasPrefix(got, "relayed 250 2.0.0 smart.test") {
		t.Errorf("got %s", got)
	}
	if len(zone.Asked()) == 0 || slices.ContainsFunc(zone.Asked(), func(q string) bool { return strings.HasPrefix(q, "MX") }) {
		t.Errorf("asked %q", zone.Asked())
	}
}

func TestDestination(t *testing.T) {
	r, far := mail.NewRecipient(mail.Address{Local: "a", Domain: "xn--bcher-kva.test"}), mail.NewRecipient(mail.Address{Local: "a", Domain: "far.test"})
	mx, smart := agent(t, &Agent{}, nil, nil), agent(t, &Agent{Hosts: []string{"h.test:25"}}, nil, nil)
	if mx.Destination(nil, r) != "xn--bcher-kva.test" || smart.Destination(nil, r) != smart.Destination(nil, far) {
		t.Error(mx.Destination(nil, r), smart.Destination(nil, r))
	}
}

// TestLogin with a password that the configuration only names.
func TestLogin(t *testing.T) {
	cert, trust := clienttest.Certificate(t, "smart.test")
	zone := &dnstest.Zone{Host: map[string][]string{"smart.test": {"127.0.0.1"}}}
	secret := t.TempDir() + "/secret"
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("RELAY_USER", "u")
	for _, implicit := range []bool{false, true} {
		srv := clienttest.Start(t, clienttest.Options{TLS: cert, Implicit: implicit, Users: map[string]string{"u": "s3cret"}})
		a := &Agent{Hosts: []string{"smart.test"}, Port: portOf(t, srv.Addr), Auth: &Credentials{"{env.RELAY_USER}", "{file." + secret + "}"}}
		if implicit {
			a.TLS = "implicit"
		}
		agent(t, a, zone, trust.RootCAs)
		if got := words(a.Deliver(t.Context(), delivery(t, "a@far.test"))); got != "relayed 250 2.0.0 smart.test" {
			t.Errorf("got %s", got)
		}
		if m := srv.Messages(); len(m) != 1 || !m[0].TLS || m[0].User != "u" {
			t.Errorf("got %+v", m)
		}
		if b, _ := json.Marshal(a); strings.Contains(string(b), "s3cret") {
			t.Errorf("the password shows: %s", b)
		}
	}
}

// TestNoPasswordToStrangers: without TLS that can be trusted nothing is sent.
func TestNoPasswordToStrangers(t *testing.T) {
	cert, _ := clienttest.Certificate(t, "smart.test")
	zone := &dnstest.Zone{Host: map[string][]string{"smart.test": {"127.0.0.1"}}}
	for want, opts := range map[string]clienttest.Options{
		"delayed 451 4.7.5 smart.test": {TLS: cert, Users: map[string]string{"u": "p"}},
		"delayed 451 4.7.4 smart.test": {Users: map[string]string{"u": "p"}},
	} {
		srv := clienttest.Start(t, opts)
		a := agent(t, &Agent{Hosts: []string{"smart.test"}, Port: portOf(t, srv.Addr), Auth: &Credentials{"u", "p"}}, zone, x509.NewCertPool())
		if got := words(a.Deliver(t.Context(), delivery(t, "a@far.test"))); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if slices.ContainsFunc(srv.Commands(), func(c string) bool { return strings.HasPrefix(c, "AUTH") }) {
			t.Error("AUTH was said")
		}
	}
}

// TestSource: mail comes from the address of its user, and by his name.
func TestSource(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{})
	zone := &dnstest.Zone{Host: map[string][]string{"smart.test": {"127.0.0.1"}}}
	a := agent(t, &Agent{
		Hosts: []string{"smart.test"}, Port: portOf(t, srv.Addr), Source: []string{"127.0.0.2", "all.test"},
		SourceByRaw: json.RawMessage(`{"table":"inline","entries":{"alice":["127.0.0.3","alice.test"]}}`),
	}, zone, nil)
	for _, user := range []string{"", "alice", "bob"} {
		d := delivery(t, "a@far.test")
		d.Envelope.AuthUser = user
		if got := words(a.Deliver(t.Context(), d)); got != "relayed 250 2.0.0 smart.test" {
			t.Errorf("%s: %s", user, got)
		}
	}
	var hellos []string
	for _, m := range srv.Messages() {
		hellos = append(hellos, m.Hello)
	}
	if got := strings.Join(hellos, " "); got != "all.test alice.test all.test" || srv.Connections() != 2 {
		t.Errorf("%s over %d connections", got, srv.Connections())
	}
	d := delivery(t, "a@far.test", "b@far.test")
	d.Envelope.AuthUser = "alice"
	for _, tbl := range []values{nil, {"anywhere"}} { // that fails, or has no source
		a.sourceBy = tbl
		if got := words(a.Deliver(t.Context(), d)); got != "delayed 451 4.3.0\ndelayed 451 4.3.0" {
			t.Error(got)
		}
	}
	for want, bad := range map[string]*Agent{
		"source: a source needs an address":              {Source: []string{"all.test"}},
		"source_by: 'x_/' is neither an address nor a n": {SourceByRaw: json.RawMessage(`{"table":"inline","entries":{"alice":["x_/"]}}`)},
	} {
		if err := provision(t, bad, zone, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// values is a table that has the same for all; without any it fails.
type values []string

func (v values) Lookup(context.Context, string) ([]string, bool, error) {
	if len(v) == 0 {
		return nil, false, errors.New("down")
	}
	return v, true, nil
}

func TestDefaults(t *testing.T) {
	auth := &Credentials{"u", "p"}
	for _, tc := range []struct {
		in   Agent
		want string
	}{
		{Agent{}, "opportunistic 25"},
		{Agent{TLS: "required"}, "required 25"},
		{Agent{Hosts: []string{"h.test"}}, "opportunistic 25 h.test:25"},
		{Agent{Hosts: []string{"h.test", "i.test:26"}, Port: 2525}, "opportunistic 2525 h.test:2525 i.test:26"},
		{Agent{Hosts: []string{"h.test"}, Auth: auth}, "required 25 h.test:587"},
		{Agent{Hosts: []string{"h.test:465"}, Auth: auth}, "implicit 25 h.test:465"},
		{Agent{Hosts: []string{"h.test"}, TLS: "implicit"}, "implicit 25 h.test:465"},
		{Agent{Hosts: []string{"h.test:465"}, TLS: "required"}, "required 25 h.test:465"},
		{Agent{Hosts: []string{"::1", "[::1]"}}, "opportunistic 25 [::1]:25 [::1]:25"},
		{Agent{Hosts: []string{"h.test"}, Auth: auth, InsecureSkipVerify: true}, "required 25 h.test:587"},
	} {
		a := tc.in
		agent(t, &a, nil, nil)
		got := fmt.Sprintf("%s %d", a.TLS, a.Port)
		for _, h := range a.smarthosts {
			got += " " + h.String()
		}
		if got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.in, got, tc.want)
		}
	}
	for want, a := range map[string]*Agent{
		"is none of":             {TLS: "always"},
		"auth is for smarthosts": {Auth: auth},
		"show the password":      {Hosts: []string{"h.test"}, Auth: auth, TLS: "opportunistic"},
		"verifies nothing":       {InsecureSkipVerify: true},
		"make them two agents":   {Hosts: []string{"h.test:465", "i.test:587"}},
		"not a host and a port":  {Hosts: []string{"h.test:smtp"}},
		"unrecognized":           {Hosts: []string{"{nonsense}"}},
		"no usable password":     {Hosts: []string{"h.test"}, Auth: &Credentials{"u", "{env.NOT_SET_AT_ALL}"}},
		"no usable username":     {Hosts: []string{"h.test"}, Auth: &Credentials{"", "p"}},
		"hello":                  {Hello: "not a name"},
	} {
		if err := provision(t, a, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", a, err, want)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"relay":                           `{}`,
		"relay {\nconvert off\n}":         `{"no_convert":true}`,
		"relay {\nconvert on\n}":          `{}`,
		"relay {\nconvert maybe\n}":       "at Testfile:2",
		"relay h.test:587 {\nauth u p\n}": `{"hosts":["h.test:587"],"auth":{"username":"u","password":"p"}}`,
		"relay a.test b.test:26 {\nport 2525\ntls required\ninsecure_skip_verify\n}":                `{"hosts":["a.test","b.test:26"],"port":2525,"tls":"required","insecure_skip_verify":true}`,
		"relay {\nhello us.test\nallow_loopback\nconnect_timeout 3s\nidle_timeout 1m\n}":            `{"hello":"us.test","allow_loopback":true,"connect_timeout":3000000000,"idle_timeout":60000000000}`,
		"relay {\nsource 192.0.2.1 2001:db8::1 out.test\nsource_by inline {\nalice 192.0.2.7\n}\n}": `{"source":["192.0.2.1","2001:db8::1","out.test"],"source_by":{"entries":{"alice":["192.0.2.7"]},"table":"inline"}}`,
		"relay {\nnetwork_proxy url socks5://127.0.0.1:1080\n}":                                     `{"network_proxy":{"from":"url","url":"socks5://127.0.0.1:1080"}}`,
		"relay {\nnetwork_proxy pigeon\n}":                                                          "no module 'pigeon' in caddy.network_proxy",
		"relay {\nsource\n}":                                                                        "wrong argument count",
		"relay {\nsource here\n}":                                                                   "a source needs an address, at Testfile:2",
		"relay {\nsource 192.0.2.1 192.0.2.2\n}":                                                    "one address of a family, at Testfile:2",
		"relay {\nauth {env.U} {env.P}\n}":                                                          `{"auth":{"username":"{env.U}","password":"{env.P}"}}`,
		"relay {\ntls maybe\n}":                                                                     "'maybe' is none of opportunistic, required, implicit, off, at Testfile:2",
		"relay {\nauth u\n}":                                                                        "wrong argument count",
		"relay {\nauth u p\nauth u p\n}":                                                            "given twice, at Testfile:3",
		"relay {\ntimeouts {\ndot 10m\n}\ntimeouts {\ndot 20m\n}\n}":                                "option 'timeouts' is given twice, at Testfile:5",
		"relay {\nport 0\n}":                                                                        "not a number of 1 or more, at Testfile:2",
		"relay {\nport 65536\n}":                                                                    "not a number of 1 or more, at Testfile:2",
		"relay {\ntrust all\n}":                                                                     "unrecognized option 'trust', at Testfile:2",
	} {
		a := new(Agent)
		if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		b, _ := json.Marshal(a)
		if string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
		if err := caddy.StrictUnmarshalJSON(b, new(Agent)); err != nil {
			t.Error(err)
		}
	}
}

// TestNetworkProxy: a module of Caddy names the proxy, and what is wrong with that
// is our business.
func TestNetworkProxy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	asked := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 100)
		n, _ := c.Read(b)
		asked <- string(b[:n])
	}()
	a := &Agent{Hosts: []string{"192.0.2.9:26"}, NetworkProxyRaw: json.RawMessage(`{"from":"url","url":"http://` + nobody + `"}`)}
	agent(t, a, nil, nil)
	d := delivery(t, "a@b.test")
	if got := a.Deliver(t.Context(), d); got[0].Action != queue.Delayed || got[0].Reply.Code != 451 {
		t.Error(got[0].Reply)
	}
	if got := <-asked; !strings.HasPrefix(got, "CONNECT 192.0.2.9:26 HTTP/1.1\r\n") {
		t.Errorf("the proxy was asked %q", got)
	}
	ln.Close()
	if got := a.Deliver(t.Context(), d); got[0].Action != queue.Delayed || got[0].Reply.Enh != "4.3.5" {
		t.Error(got[0].Reply)
	}
	for want, bad := range map[string]*Agent{
		"has no source": {Source: []string{"192.0.2.1"}, NetworkProxyRaw: json.RawMessage(`{"from":"none"}`)},
		"network_proxy": {NetworkProxyRaw: json.RawMessage(`{"from":"pigeon"}`)},
	} {
		if err := provision(t, bad, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", bad, err, want)
		}
	}
}
