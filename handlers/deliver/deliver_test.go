package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddymail/caddy-smtp/handlers/delivery/discard"
	_ "github.com/caddymail/caddy-smtp/handlers/delivery/maildir"
	_ "github.com/caddymail/caddy-smtp/handlers/table/inline"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// handler reads a line of a Caddyfile, and provisions what its JSON says.
func handler(t testing.TB, text string) *Handler {
	t.Helper()
	var read Handler
	if err := read.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(&read)
	if err != nil {
		t.Fatal(err)
	}
	var h Handler
	if err := caddy.StrictUnmarshalJSON(b, &h); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return &h
}

func recipient(t testing.TB, s string) *mail.Recipient {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return mail.NewRecipient(a)
}

func TestClaims(t *testing.T) {
	for _, tc := range []struct {
		config, given string
		want          string // the address for the agent, "" for refused
		verified      bool
	}{
		{"deliver local", "a@b.test", "a@b.test", false},
		{"deliver local", "a+x@b.test", "a+x@b.test", false},
		{"deliver local {\nsubaddress +\n}", "a+x@b.test", "a@b.test", false},
		{"deliver local {\nsubaddress -\n}", "a-x-y@b.test", "a@b.test", false},
		{"deliver local {\nsubaddress +\n}", "+x@b.test", "+x@b.test", false},
		{users("alice@b.test"), "Alice@b.test", "Alice@b.test", true},
		{users("alice@b.test"), "alice@c.test", "", false},
		{users("alice@b.test"), "alice+x@b.test", "alice@b.test", true},
		{users("alice+x@b.test alice@b.test"), "alice+x@b.test", "alice+x@b.test", true},
		{users("alice"), "alice@c.test", "alice@c.test", true},
		{users("alice"), "alice+x@c.test", "alice@c.test", true},
		{users("@b.test"), "who+x@b.test", "who@b.test", true},
		{users("@b.test"), "who@c.test", "", false},
		{users("x"), "b.test@x.test", "", false},
	} {
		h, r := handler(t, tc.config), recipient(t, tc.given)
		given := r.Given
		err := h.HandleRcpt(t.Context(), nil, r)
		if tc.want == "" {
			if mail.ReplyFor(err).Code != 550 || r.Claimed() {
				t.Errorf("%s, %s: %v", tc.config, tc.given, err)
			}
			continue
		}
		if err != nil || r.Agent != "local" || r.Address.String() != tc.want || r.Verified != tc.verified || r.Given != given || r.Expanded {
			t.Errorf("%s, %s: %+v, %v", tc.config, tc.given, r, err)
		}
	}
}

// users is a handler with a table.
func users(keys string) string {
	return "deliver local {\nusers inline {\n" + strings.ReplaceAll(keys, " ", "\n") + "\n}\nsubaddress +\n}"
}

func TestClaimedAlready(t *testing.T) {
	h, r := handler(t, "deliver local {\nsubaddress +\n}"), recipient(t, "a+x@b.test")
	r.Claim("other")
	if err := h.HandleRcpt(t.Context(), nil, r); err != nil || r.Agent != "other" || r.Address.Local != "a+x" {
		t.Errorf("%+v, %v", r, err)
	}
}

// down is a table that fails.
type down struct{}

func (down) Lookup(context.Context, string) ([]string, bool, error) {
	return nil, false, errors.New("no route to /etc/secret")
}

func TestTableThatFails(t *testing.T) {
	h, r := &Handler{Agent: "local", users: down{}}, recipient(t, "a@b.test")
	err := h.HandleRcpt(t.Context(), nil, r)
	if reply := mail.ReplyFor(err); reply.Code != 451 || strings.Contains(reply.Text, "secret") || r.Claimed() {
		t.Errorf("%v, %+v", reply, r)
	}
}

// TestPlan: an agent's name is known before anything is provisioned, and what
// comes after deliver is unreachable.
func TestPlan(t *testing.T) {
	first, second := handler(t, "deliver local"), handler(t, "deliver other")
	if first.Agents()[0] != "local" || !first.ClaimsAll() {
		t.Error(first.Agents())
	}
	_, err := session.Compile([]session.Route{{Handlers: []session.Handler{
		{Name: "deliver", Module: first, Where: "1"}, {Name: "deliver", Module: second, Where: "2"},
	}}})
	if err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Error(err)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"deliver local":                        `{"agent":"local"} `,
		"deliver maildir /m/{smtp.rcpt.local}": `{} maildir {"agent":"maildir","path":"/m/{smtp.rcpt.local}"}`,
		"deliver maildir \"/m\" {\nmode 0640\nusers inline {\na\n}\ncreate\nsubaddress +\n}": `{"users":{"entries":{"a":[]},"table":"inline"},"subaddress":"+"} maildir {"agent":"maildir","create":true,"mode":"0640","path":"/m"}`,
		"deliver discard {\nsubaddress +\n}":                                                 `{"subaddress":"+"} discard {"agent":"discard"}`,
		"deliver discard {\n}":                                                               `{} discard {"agent":"discard"}`,
		"deliver":                                                                            "wrong argument count",
		"deliver local more":                                                                 "there is no agent module 'local'",
		"deliver maildir":                                                                    "wrong argument count",
		"deliver local {\nmode 0640\n}":                                                      "unrecognized option 'mode', at Testfile:2",
		"deliver maildir /m {\nsubaddress +\nbogus 3\n}":                                     "unrecognized option 'bogus', at Testfile:3",
		"deliver maildir /m {\nmode {\nx\n}\n}":                                              "at Testfile:2",
		"deliver local {\nusers nothing\n}":                                                  "no module 'nothing' in smtp.tables",
		"deliver local {\nsubaddress +\nsubaddress -\n}":                                     "given twice, at Testfile:3",
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
		if got := string(b) + " " + strings.TrimSpace(module+" "+string(raw)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		if h.NameAgent("mx." + module); h.Agent != "mx."+module {
			t.Error(h.Agent)
		}
	}
}

func TestProvision(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	for _, bad := range []*Handler{{}, {Agent: "x", UsersRaw: json.RawMessage(`{"table":"nothing"}`)}} {
		if err := bad.Provision(ctx); err == nil {
			t.Errorf("%+v is provisioned", bad)
		}
	}
}

// TestTag: what is taken off is told to the agent.
func TestTag(t *testing.T) {
	for _, tc := range []struct{ config, given, tag string }{
		{"deliver local", "a+x@b.test", ""},
		{"deliver local {\nsubaddress +\n}", "a+x@b.test", "x"},
		{"deliver local {\nsubaddress -\nusers inline {\na@b.test\n}\n}", "a-x-y@b.test", "x-y"},
		{"deliver local {\nsubaddress +\nusers inline {\na+x@b.test\n}\n}", "a+x@b.test", ""},
		{"deliver local {\nsubaddress +\nusers inline {\na@b.test\n}\n}", "a@b.test", ""},
	} {
		r := recipient(t, tc.given)
		if err := handler(t, tc.config).HandleRcpt(t.Context(), nil, r); err != nil || r.Tag != tc.tag {
			t.Errorf("%s, %s: tag %q, %v", tc.config, tc.given, r.Tag, err)
		}
	}
}
