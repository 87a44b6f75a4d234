package headerproblem

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		config, header string
		utf8, want     bool
	}{
		{"header_problem", "From: a@x.test", false, false},
		{"header_problem", "From : a@x.test", false, true},
		{"header_problem", `From: "b@y.test" <a@x.test>`, false, false},
		{"header_problem display_name group", `From: "b@y.test" <a@x.test>`, false, true},
		{"header_problem display_name group", "From: g: a@x.test;", false, true},
		{"header_problem display_name group", "From : a@x.test", false, false},
		{"header_problem eight_bit", "From: Ü <a@x.test>", false, true},
		{"header_problem eight_bit", "From: Ü <a@x.test>", true, false},
	} {
		m := new(Matcher)
		if err := m.UnmarshalCaddyfile(caddyfile.NewTestDispenser(tc.config)); err != nil {
			t.Fatal(err)
		}
		msg, err := message.Parse([]byte(tc.header + "\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		at := &session.Point{Message: msg, Transaction: &session.Transaction{Envelope: &mail.Envelope{UTF8: tc.utf8}}}
		if got, err := m.Match(t.Context(), at); got != tc.want || err != nil {
			t.Errorf("%s: %s: %v %v", tc.config, tc.header, got, err)
		}
	}
	if new(Matcher).Stage() != session.StageMessage {
		t.Error("decides too early")
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		"header_problem bad":     "header_problem: 'bad' is no kind of problem, at Testfile:1",
		"header_problem {\nx\n}": "wrong argument count or unexpected line ending after 'x', at Testfile:2",
	} {
		if err := new(Matcher).UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err == nil || err.Error() != want {
			t.Errorf("%q: %v", in, err)
		}
	}
	if (&Matcher{"x"}).Provision(caddy.Context{}) == nil {
		t.Error("an unknown kind is taken")
	}
}
