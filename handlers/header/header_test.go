package header

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func edited(t *testing.T, config, in string, env *mail.Envelope) string {
	t.Helper()
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(config)); err != nil {
		t.Fatal(err)
	}
	if err := h.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	m, err := message.Parse([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	s := &session.Session{Hello: "client.example\r\nX-Evil: $1", User: "alice"}
	if err := h.HandleMessage(context.Background(), &session.Transaction{Session: s, Envelope: env}, m); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(m.Header.Bytes()), "\r\n", "\n")
}

func TestHandleMessage(t *testing.T) {
	const in = "A: one\r\nB: two\r\na: three\r\n\r\nbody\r\n"
	for config, want := range map[string]string{
		"header +A zero":                  "A: zero\nA: one\nB: two\na: three\n\n",
		"header A new":                    "A: new\nB: two\n\n",
		"header C new":                    "A: one\nB: two\na: three\nC: new\n\n",
		"header -a":                       "B: two\n\n",
		"header -C":                       "A: one\nB: two\na: three\n\n",
		`header A "t(h)r" "<$1>"`:         "B: two\nA: one\nA: <h>ee\n\n",
		"header A absent x":               "A: one\nB: two\na: three\n\n",
		"header B two {smtp.auth.user}":   "A: one\na: three\nB: alice\n\n",
		"header B (two) {smtp.helo}":      "A: one\na: three\nB: client.example  X-Evil: $1\n\n",
		"header {\n-A\n+B {smtp.helo}\n}": "B: client.example  X-Evil: $1\nB: two\n\n",
		"header B Grüße":                  "A: one\nB: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\na: three\n\n",
	} {
		if got := edited(t, config, in, &mail.Envelope{}); got != want {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
	if got := edited(t, "header B Grüße", in, &mail.Envelope{UTF8: true}); !strings.Contains(got, "B: Grüße\n") {
		t.Errorf("%q", got)
	}
	if !new(Handler).OnlyAnnotates() {
		t.Error("refuses")
	}
}

func TestProvisionErrors(t *testing.T) {
	for _, config := range []string{`{}`, `{"edits":[{"op":"set"}]}`, `{"edits":[{"op":"set","name":"a b"}]}`, `{"edits":[{"op":"set","name":"a:"}]}`,
		`{"edits":[{"op":"do","name":"a"}]}`, `{"edits":[{"op":"replace","name":"a","find":"("}]}`} {
		h := new(Handler)
		if err := caddy.StrictUnmarshalJSON([]byte(config), h); err != nil {
			t.Fatal(err)
		}
		if h.Provision(caddy.Context{}) == nil {
			t.Error(config, "is taken")
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"header X-A v":                       `{"edits":[{"op":"set","name":"X-A","value":"v"}]}`,
		"header {\n+X-A v\n-X-B\nX-C f r\n}": `{"edits":[{"op":"add","name":"X-A","value":"v"},{"op":"remove","name":"X-B"},{"op":"replace","name":"X-C","value":"r","find":"f"}]}`,
		"header":                             "wrong argument count or unexpected line ending after 'header', at Testfile:1",
		"header X-A":                         "wrong argument count or unexpected line ending after 'X-A', at Testfile:1",
		"header -X-A v":                      "wrong argument count or unexpected line ending after 'v', at Testfile:1",
		"header {\n+X-A a b\n}":              "wrong argument count or unexpected line ending after 'b', at Testfile:2",
		"header X-A: v":                      "'X-A:' is not the name of a field, at Testfile:1",
		"header X-A v {\nx\n}":               "unrecognized option 'x', at Testfile:2",
	} {
		h := new(Handler)
		err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(h)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
