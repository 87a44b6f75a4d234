package strictheader

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// handle returns the reply to a message, "" if it was taken, and its flags.
func handle(t *testing.T, config, header string, env *mail.Envelope) (reply, flags string) {
	t.Helper()
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(config)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	m, err := message.Parse([]byte(header + "\r\n\r\nbody\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	tx := &session.Transaction{Envelope: env}
	if err := h.HandleMessage(ctx, tx, m); err != nil {
		reply = mail.ReplyFor(err).Error()
	}
	for _, r := range tx.Results {
		if r.Method != "x-header" || !r.Private {
			t.Errorf("%+v", r)
		}
		flags += r.Value + " "
	}
	return reply, strings.TrimSpace(flags)
}

// TestCase46 has the forgeries of case 46 of our list of attacks.
func TestCase46(t *testing.T) {
	for in, want := range map[string]string{
		"From: a@x.test\r\nFrom: b@y.test":           "550 5.6.0 From: more than one From field",
		"From: us: a@x.test, b@y.test;":              "550 5.6.0 From: group of addresses",
		"From: undisclosed:;":                        "550 5.6.0 From: group of addresses",
		"From : a@x.test":                            "550 5.6.0 From: white space before the colon",
		"From: a@x.test\r\nX: \x00":                  "550 5.6.0 NUL in the header",
		"From: a\x00@x.test":                         "550 5.6.0 From: NUL in the header",
		"From: =?utf-8?q?b=40y.test=3E?=@x.test":     "550 5.6.0 From: encoded word in an address",
		"From: b@y.test <a@x.test>":                  "550 5.6.0 From: display name",
		"From: <@y.test:a@x.test>":                   "550 5.6.0 From: source route",
		"From: a@x.test (\r\nX: y":                   "550 5.6.0 From: comment not closed, or nested too deeply",
		"From: a@x.test\r\nSubject: 1\r\nSubject: 2": "550 5.6.0 Subject: more than one Subject field",
		"Subject: from nobody":                       "550 5.6.0 From: no From field",
		"From: a@x.test\r\nResent-From: b@":          "550 5.6.0 Resent-From: not an address",
		"From: A <a@x.test>\r\nTo: b@y.test":         "",
	} {
		if got, flags := handle(t, "strict_header", in, new(mail.Envelope)); got != want || flags != "" {
			t.Errorf("%q: %q %q, want %q", in, got, flags, want)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct{ config, header, reply, flags string }{
		{"strict_header", "From: a@x.test, b@y.test", "", "several_addresses no_sender"},
		{"strict_header", `From: "ceo@bank.test" <x@evil.test>`, "", "display_name"},
		{"strict_header", "From: Ü <a@x.test>", "", "eight_bit"},
		{"strict_header {\nrefuse eight_bit\n}", "From: Ü <a@x.test>", "550 5.6.0 From: characters that are not ASCII", ""},
		{"strict_header {\nrefuse display_name\ncode 554 5.7.1\n}", `From: "ceo@bank.test" <x@evil.test>`, "554 5.7.1 From: the display name shows another address", ""},
		{"strict_header {\nignore display_name\nflag group several_from\n}", "From: \"c@d.test\" <x@e.test>\r\nFrom: g: a@x.test;\r\nSender: a@x.test", "", "several_from group several_addresses"},
		{"strict_header {\nannotate\nignore nul\n}", "From : a@x.test\x00", "", "space_before_colon malformed"},
	} {
		if reply, flags := handle(t, tc.config, tc.header, new(mail.Envelope)); reply != tc.reply || flags != tc.flags {
			t.Errorf("%s: %q: %q, %q", tc.config, tc.header, reply, flags)
		}
	}
	if reply, flags := handle(t, "strict_header {\nrefuse eight_bit\n}", "From: Ü <ü@x.test>", &mail.Envelope{UTF8: true}); reply+flags != "" {
		t.Error(reply, flags)
	}
	if (&Handler{Annotate: true}).OnlyAnnotates() != true || new(Handler).OnlyAnnotates() {
		t.Error("OnlyAnnotates")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"strict_header": "{}",
		"strict_header {\nrefuse display_name\nflag group route\nignore duplicate\ncode 554\nannotate\n}": `{"refuse":["display_name"],"flag":["group","route"],"ignore":["duplicate"],"annotate":true,"code":554}`,
		"strict_header x":                          "wrong argument count or unexpected line ending after 'x', at Testfile:1",
		"strict_header {\nflag bad\n}":             "strict_header: 'bad' is no kind of problem, at Testfile:3",
		"strict_header {\nflag nul\nrefuse nul\n}": "strict_header: 'nul' is given twice, at Testfile:4",
		"strict_header {\ncode 451\n}":             "'451' is not the code of a refusal for good, at Testfile:2",
		"strict_header {\ncode 550 4.7.1\n}":       "'4.7.1' is not an enhanced status code of a refusal for good, at Testfile:2",
		"strict_header {\ncode\n}":                 "wrong argument count or unexpected line ending after 'code', at Testfile:2",
		"strict_header {\nnone\n}":                 "unrecognized option 'none', at Testfile:2",
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
	for _, h := range []*Handler{{Code: 451}, {Enhanced: "4.7.1"}, {Flag: []string{"x"}}} {
		if h.Provision(caddy.Context{}) == nil {
			t.Errorf("%+v is taken", h)
		}
	}
}

// TestDocumented: the doc comment has each kind.
func TestDocumented(t *testing.T) {
	src, err := os.ReadFile("strictheader.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range originator.Kinds() {
		if !strings.Contains(string(src), "//\t"+string(k)+" ") {
			t.Error(k)
		}
	}
}
