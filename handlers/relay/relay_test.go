package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddymail/caddy-smtp/handlers/delivery/relay"
	_ "github.com/caddymail/caddy-smtp/handlers/table/inline"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestClaims(t *testing.T) {
	for _, tc := range []struct {
		name     string
		trust    []string
		ip, user string
		expanded bool
		want     bool
	}{
		{"stranger", nil, "192.0.2.1", "", false, false},
		{"logged in", nil, "192.0.2.1", "alice", false, true},
		{"target of an alias", nil, "192.0.2.1", "", true, true},
		{"loopback is not named", nil, "127.0.0.1", "", false, false},
		{"private is not named", nil, "10.1.2.3", "", false, false},
		{"network", []string{"10.0.0.0/8"}, "10.1.2.3", "", false, true},
		{"mapped address", []string{"10.0.0.0/8"}, "::ffff:10.1.2.3", "", false, true},
		{"outside", []string{"10.0.0.0/8"}, "11.1.2.3", "", false, false},
		{"one address", []string{"192.0.2.1"}, "192.0.2.1", "", false, true},
		{"its neighbour", []string{"192.0.2.1"}, "192.0.2.2", "", false, false},
		{"private ranges", []string{"private_ranges"}, "172.16.9.9", "", false, true},
		{"private ranges, v6", []string{"private_ranges"}, "fd00::9", "", false, true},
		{"public, private ranges", []string{"private_ranges"}, "172.32.0.1", "", false, false},
		{"v6 network", []string{"2001:db8::/32"}, "2001:db8:1::1", "", false, true},
		{"unix socket", []string{"0.0.0.0/0", "::/0"}, "", "", false, false},
	} {
		h := &Handler{Agent: "out", Trust: tc.trust}
		if err := h.Provision(caddy.Context{Context: t.Context()}); err != nil {
			t.Fatal(err)
		}
		s := &session.Session{User: tc.user, Remote: &net.UnixAddr{}}
		if tc.ip != "" {
			s.Remote = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(net.JoinHostPort(tc.ip, "9")))
		}
		r := mail.NewRecipient(mail.Address{Local: "a", Domain: "far.test"})
		r.Expanded = tc.expanded
		err := h.HandleRcpt(t.Context(), &session.Transaction{Session: s}, r)
		if err != nil || (r.Agent == "out") != tc.want || r.Claimed() != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, r, err)
		}
	}
}

func TestPlan(t *testing.T) {
	h := &Handler{Agent: "out", Trust: []string{"10.0.0.1/8", "192.0.2.7"}}
	if err := h.Provision(caddy.Context{Context: t.Context()}); err != nil {
		t.Fatal(err)
	}
	if n := h.TrustedNetworks(); len(n) != 2 || n[0].String() != "10.0.0.0/8" || n[1].String() != "192.0.2.7/32" {
		t.Error(n)
	}
	if h.Agents()[0] != "out" || h.ClaimsAll() {
		t.Error("relay leaves recipients to others")
	}
	for _, bad := range []*Handler{{}, {Agent: "x", Trust: []string{"everybody"}}, {Agent: "x", Trust: []string{"10.0.0.0/99"}}, {Agent: "x", Trust: []string{"::ffff:10.0.0.0/104"}}} {
		if err := bad.Provision(caddy.Context{Context: t.Context()}); err == nil {
			t.Errorf("%+v is provisioned", bad)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"relay": `{} relay {"agent":"relay"}`,
		"relay h.test:587 i.test {\ntrust 10.0.0.0/8 192.0.2.1\nauth u p\ntrust private_ranges\n}": `{"trust":["10.0.0.0/8","192.0.2.1","private_ranges"]} relay {"agent":"relay","auth":{"username":"u","password":"p"},"hosts":["h.test:587","i.test"]}`,
		"relay {\ntls required\nport 26\n}":                                              `{} relay {"agent":"relay","port":26,"tls":"required"}`,
		"relay {\nagent out\ntrust 10.0.0.0/8\n}":                                        `{"agent":"out","trust":["10.0.0.0/8"]}`,
		"relay {\nagent out\nagent_by inline {\nalice slow\n}\nagent_attribute agent\n}": `{"agent":"out","agent_by":{"entries":{"alice":["slow"]},"table":"inline"},"agent_attribute":"agent"}`,
		"relay h.test {\nagent out\n}":                                                   "'h.test' belongs to that agent, at Testfile",
		"relay {\nagent out\ntls off\n}":                                                 "option 'tls' belongs to that agent, at Testfile",
		"relay {\nagent\n}":                                                              "wrong argument count",
		"relay {\nagent a\nagent b\n}":                                                   "given twice, at Testfile:3",
		"relay {\ntrust\n}":                                                              "wrong argument count",
		"relay {\ntrust everybody\n}":                                                    "neither an address nor a network, at Testfile:2",
		"relay {\ntls off\nfoo bar\n}":                                                   "unrecognized option 'foo', at Testfile:3",
		"relay h.test {\ntls\n}":                                                         "wrong argument count or unexpected line ending after 'tls', at Testfile:2",
	} {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		module, raw := h.DeclaredAgent()
		b, _ := json.Marshal(h)
		if got := strings.TrimSpace(string(b) + " " + module + " " + string(raw)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		if err := caddy.StrictUnmarshalJSON(b, new(Handler)); err != nil {
			t.Error(err)
		}
	}
}

// known are the agents that there are.
type known []string

func (k known) HasAgent(name string) bool { return slices.Contains(k, name) }

// broken is a table that fails.
type broken struct{}

func (broken) Lookup(context.Context, string) ([]string, bool, error) {
	return nil, false, errors.New("down")
}

// TestAgentOf: users may have agents of their own.
func TestAgentOf(t *testing.T) {
	e := new(env.Env)
	e.Offer(known{"out", "slow", "bulk"})
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(t.Context(), e)})
	defer cancel()
	raw := json.RawMessage(`{"table":"inline","entries":{"alice":["slow"],"bob":["gone"],"carol":[]}}`)
	h := &Handler{Agent: "out", AgentByRaw: raw, AgentAttribute: "agent"}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(slices.Values(h.Agents())); !slices.Equal(got, []string{"gone", "out", "slow"}) {
		t.Error("to be checked when loaded:", got)
	}
	identity := func(agent string) *login.Identity {
		return &login.Identity{Attributes: map[string]string{"agent": agent}}
	}
	for _, tc := range []struct {
		s    session.Session
		want string
	}{
		{session.Session{User: "alice"}, "slow"},
		{session.Session{User: "alice", Identity: identity("bulk")}, "slow"},
		{session.Session{User: "bob"}, "451"},
		{session.Session{User: "carol"}, "out"},
		{session.Session{User: "carol", Identity: identity("bulk")}, "bulk"},
		{session.Session{User: "dave", Identity: identity("")}, "out"},
		{session.Session{User: "dave", Identity: identity("nowhere")}, "451"},
	} {
		r := mail.NewRecipient(mail.Address{Local: "a", Domain: "far.test"})
		err := h.HandleRcpt(t.Context(), &session.Transaction{Session: &tc.s}, r)
		got := r.Agent
		if err != nil {
			got = fmt.Sprint(mail.ReplyFor(err).Code)
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.s.User, got, tc.want)
		}
	}
	h.agentBy = broken{}
	if err := h.HandleRcpt(t.Context(), &session.Transaction{Session: &session.Session{User: "alice"}}, mail.NewRecipient(mail.Address{Local: "a", Domain: "b.test"})); mail.ReplyFor(err).Code != 451 {
		t.Error(err)
	}
	if len(h.Agents()) != 1 {
		t.Error(h.Agents())
	}
}
