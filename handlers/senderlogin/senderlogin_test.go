package senderlogin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(fake)) }

// fake is a table of entries "key=value,value".
type fake struct {
	Entries []string `json:"entries,omitempty"`
}

func (*fake) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.fake", New: func() caddy.Module { return new(fake) }}
}

func (f *fake) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	f.Entries = d.RemainingArgs()
	return nil
}

func (f *fake) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if key == "fail" {
		return nil, false, errors.New("down")
	}
	for _, e := range f.Entries {
		if k, v, _ := strings.Cut(e, "="); k == key {
			return strings.Split(v, ","), true, nil
		}
	}
	return nil, false, nil
}

func handler(t *testing.T, config string) *Handler {
	t.Helper()
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(config)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := h.Validate(); err != nil {
		t.Fatal(err)
	}
	return h
}

func transaction(user, from string) *session.Transaction {
	tx := &session.Transaction{Session: &session.Session{User: user}, Envelope: new(mail.Envelope)}
	if from != "" {
		tx.Envelope.From = address(from)
	}
	return tx
}

func address(s string) mail.Address {
	a, err := mail.ParseAddress(s)
	if err != nil {
		panic(err)
	}
	return a
}

func parse(t *testing.T, header string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(strings.ReplaceAll(header, "\n", "\r\n") + "\r\n\r\nbody\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// code is the code of the reply that an error is, 0 for none.
func code(err error) int {
	if err == nil {
		return 0
	}
	return mail.ReplyFor(err).Code
}

// impersonations are headers by which the user me@x.test tries to be
// victim@x.test, or to be read so by somebody.
func impersonations(t *testing.T) (headers []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/impersonations.txt")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, "#") {
			continue
		}
		h, err := strconv.Unquote(strings.TrimSpace(l))
		if err != nil {
			t.Fatal(l, err)
		}
		headers = append(headers, h)
	}
	return headers
}

// TestImpersonation is promise P28 of our list, after VU#517845: whoever has
// logged in sends as himself only. Each message tries to be from victim@x.test,
// or to be read so by somebody.
func TestImpersonation(t *testing.T) {
	h := handler(t, "sender_login {\nsubaddress +\n}")
	for _, from := range []string{"victim@x.test", "me@y.test", "me@sub.x.test", "me2@x.test", "m@x.test", `"me@x.test"@y.test`, `"me "@x.test`, "victim+me@x.test",
		"+me@x.test", "mex@x.test", "ſ@x.test", "mе@x.test" /* Cyrillic */, "me@[127.0.0.1]", "me@xn--x-xbb.test"} {
		a, err := mail.ParseAddress(from)
		if err != nil {
			continue // the session refuses it
		}
		tx := transaction("me@x.test", "")
		tx.Envelope.From = a
		if err := h.HandleMail(t.Context(), tx); code(err) != 553 || mail.ReplyFor(err).Enh != "5.7.1" {
			t.Errorf("MAIL FROM:<%s>: %v", from, err)
		}
	}
	for _, header := range impersonations(t) {
		err := h.HandleMessage(t.Context(), transaction("me@x.test", "me@x.test"), parse(t, header))
		if code(err) != 550 || mail.ReplyFor(err).Enh != "5.7.1" {
			t.Errorf("%q: %v", header, err)
		}
	}
}

// TestOwn is the other half of the promise: what is one's own passes.
func TestOwn(t *testing.T) {
	h := handler(t, "sender_login {\nsubaddress +\n}")
	for _, from := range []string{"me@bücher.test", "ME@BÜCHER.test", "me@xn--bcher-kva.test", "me+tag@bücher.test", ""} {
		if err := h.HandleMail(t.Context(), transaction("me@bücher.test", from)); err != nil {
			t.Errorf("MAIL FROM:<%s>: %v", from, err)
		}
	}
	for _, header := range []string{
		"From: me@xn--bcher-kva.test", "From: Me <ME@bücher.test>", "From: \"Me, myself\" <me+tag@bücher.test> (at work)", "From: \"me\"@bücher.test",
		"From: me@bücher.test\nSender: me@bücher.test", "From: me@bücher.test\nResent-From: me@bücher.test\nResent-Sender: Me <me@bücher.test>",
		"From: me@bücher.test\nTo: undisclosed:;\nSubject : twice\nSubject: x", // of which others may think what they like
	} {
		m := parse(t, header)
		before := string(m.Header.Bytes())
		if err := h.HandleMessage(t.Context(), transaction("me@bücher.test", "me@bücher.test"), m); err != nil {
			t.Errorf("%q: %v", header, err)
		}
		if string(m.Header.Bytes()) != before {
			t.Errorf("%q: changed", header)
		}
	}
	both := "From: me@bücher.test, me+2@bücher.test"
	m := parse(t, both)
	if err := h.HandleMessage(t.Context(), transaction("me@bücher.test", ""), m); err != nil || m.Header.Get("Sender") != "me@xn--bcher-kva.test" {
		t.Error(m.Header.Get("Sender"), err)
	}
}

// TestWhoOwns has who may send as what, by which configuration.
func TestWhoOwns(t *testing.T) {
	for _, tc := range []struct {
		config, user, from string
		want               int
	}{
		{"sender_login", "", "anyone@x.test", 0}, // has not logged in
		{"sender_login", "alice", "alice@x.test", 553},
		{"sender_login {\nlogin off\n}", "alice@x.test", "alice@x.test", 553},
		{"sender_login {\nnull_sender off\n}", "alice@x.test", "", 553},
		{"sender_login", "a+b@x.test", "a+b@x.test", 0},
		{"sender_login", "a@x.test", "a+b@x.test", 553},
		{"sender_login {\nsubaddress -\n}", "a@x.test", "a-b@x.test", 0},
		{"sender_login {\nsubaddress -\n}", "a@x.test", "a@x.test", 0},
		{"sender_login {\nsubaddress -\n}", "a@x.test", "-a@x.test", 553},

		{"sender_login {smtp.auth.user}@x.test", "alice", "Alice@x.test", 0},
		{"sender_login {smtp.auth.user}@x.test", "alice", "bob@x.test", 553},
		{"sender_login {smtp.auth.user}@x.test", "*", "bob@x.test", 553},
		{"sender_login {smtp.auth.user}@x.test", "al*ce", "alice@x.test", 553},
		{"sender_login {smtp.auth.user}@x.test", "bob@y.test", "bob@y.test", 0},
		{"sender_login {smtp.auth.user}@x.test", "bob@y.test", "bob@x.test", 553},
		{"sender_login *@{smtp.auth.attr.domain}", "dora", "any@d.test", 0},
		{"sender_login *@{smtp.auth.attr.domain}", "dora", "any@x.test", 553},
		{"sender_login *@{smtp.auth.attr.domain}", "alice", "any@d.test", 553},
		{"sender_login *@*.x.test noreply@x.test", "alice", "any@sub.x.test", 0},
		{"sender_login *@*.x.test noreply@x.test", "alice", "noreply@x.test", 0},
		{"sender_login *@*.x.test noreply@x.test", "alice", "any@x.test", 553},

		{"sender_login", "dora", "dora@listed.test", 0}, // by the credential source
		{"sender_login", "dora", "any@catchall.test", 0},
		{"sender_login", "dora", "any@other.test", 553},

		{"sender_login {\ntable fake alice=al@x.test,@all.test,sales-*@x.test\n}", "alice", "al@x.test", 0},
		{"sender_login {\ntable fake alice=al@x.test,@all.test,sales-*@x.test\n}", "alice", "any@all.test", 0},
		{"sender_login {\ntable fake alice=al@x.test,@all.test,sales-*@x.test\n}", "alice", "sales-de@x.test", 0},
		{"sender_login {\ntable fake alice=al@x.test,@all.test,sales-*@x.test\n}", "alice", "sale@x.test", 553},
		{"sender_login {\ntable fake alice=al@x.test\n}", "bob", "al@x.test", 553},
		{"sender_login {\ntable fake alice=*\n}", "alice", "any@any.test", 0},
		{"sender_login {\ntable fake alice=info\n}", "alice", "info@any.test", 451}, // no address: our fault
		{"sender_login {\ntable fake alice=info,al@x.test\n}", "alice", "al@x.test", 0},
		{"sender_login {\ntable fake x=y\n}", "fail", "any@any.test", 451},
		{"sender_login {\ntable fake alice=info,a@b@c\n}", "alice", "a@x.test", 451},
		{"sender_login {\ndelegates fake alice=boss@x.test\n}", "alice", "boss@x.test", 0},
		{"sender_login {\ndelegates fake alice=boss@x.test\n}", "bob", "boss@x.test", 553},
		{"sender_login {\ndelegates fake x=y\n}", "fail", "any@any.test", 451},
	} {
		tx := transaction(tc.user, tc.from)
		if tc.user == "dora" {
			tx.Session.Identity = &login.Identity{User: "dora", Addresses: []string{"dora@listed.test", "*@catchall.test"}, Attributes: map[string]string{"domain": "d.test"}}
		}
		h := handler(t, tc.config)
		if err := h.HandleMail(t.Context(), tx); code(err) != tc.want {
			t.Errorf("%s: %s as %s: %v", tc.config, tc.user, tc.from, err)
		}
		if tc.from == "" || strings.Contains(tc.config, "delegates") {
			continue
		}
		want := tc.want
		if want == 553 {
			want = 550
		}
		if err := h.HandleMessage(t.Context(), tx, parse(t, "From: "+tc.from)); code(err) != want {
			t.Errorf("%s: %s in From as %s: %v", tc.config, tc.user, tc.from, err)
		}
	}
}

func TestDelegates(t *testing.T) {
	h := handler(t, "sender_login {smtp.auth.user}@x.test {\ndelegates fake alice=boss@x.test\n}")
	for header, want := range map[string]string{
		"From: boss@x.test\nSender: Alice <alice@x.test>": "Alice <alice@x.test>",
		"From: The Boss <boss@x.test>":                    "alice@x.test",
		"From: alice@x.test":                              "",
		"From: boss@x.test, alice@x.test":                 "alice@x.test",
		"From: boss@x.test\nSender: boss@x.test":          "550",
		"From: ceo@x.test\nSender: alice@x.test":          "550",
		"From: boss@x.test\nFrom: alice@x.test":           "550",
		"From: alice@x.test\nResent-From: boss@x.test":    "550",
	} {
		m := parse(t, header)
		err := h.HandleMessage(t.Context(), transaction("alice", "boss@x.test"), m)
		got := m.Header.Get("Sender")
		if err != nil {
			got = fmt.Sprint(code(err))
		}
		if got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
	nobody := handler(t, "sender_login {\ndelegates fake alice=boss@x.test\n}")
	if err := nobody.HandleMessage(t.Context(), transaction("alice", ""), parse(t, "From: boss@x.test")); code(err) != 550 {
		t.Error("a delegate without an address of his own:", err)
	}
}

func TestResent(t *testing.T) {
	h := handler(t, "sender_login {\nresent\n}")
	for header, want := range map[string]int{
		"Resent-From: me@x.test\nFrom: friend@y.test\nSender: list@y.test":                                     0,
		"Resent-From: me@x.test\nResent-Sender: me@x.test\nReceived: x\nResent-From: o@y.test\nFrom: f@y.test": 0,
		"From: me@x.test":                                                            0,
		"From: friend@y.test":                                                        550,
		"Resent-Sender: me@x.test\nFrom: f@y.test":                                   550,
		"Resent-From: other@y.test\nFrom: me@x.test":                                 550,
		"Resent-From: me@x.test\nResent-Sender: o@y.test\nFrom: f@y.test":            550,
		"Resent-From: me@x.test\nFrom: f@y.test\nFrom: g@y.test":                     550,
		"Resent-From: o@y.test\nReceived: x\nResent-From: me@x.test\nFrom: f@y.test": 550,
	} {
		if err := h.HandleMessage(t.Context(), transaction("me@x.test", ""), parse(t, header)); code(err) != want {
			t.Errorf("%q: %v", header, err)
		}
	}
}

// TestOtherwise has what becomes of messages from others.
func TestOtherwise(t *testing.T) {
	for _, tc := range []struct{ mode, in, want string }{
		{rewrite, "From: Me <me@x.test>\nTo: a", "From: Me <me@x.test>\nTo: a\n"},
		{rewrite, "From: App <app@host.test>\nTo: a", "From: \"App\" <me@x.test>\nTo: a\nReply-To: \"App\" <app@host.test>\nX-Original-From: App <app@host.test>\n"},
		{rewrite, "From: app@host.test\nReply-To: r@x.test", "From: me@x.test\nReply-To: r@x.test\nX-Original-From: app@host.test\n"},
		{rewrite, "From: a@y.test\nFrom: b@y.test\nTo: a", "From: me@x.test\nTo: a\nX-Original-From: a@y.test\n"},
		{rewrite, "From : =?utf-8?q?=C3=BC=40?= <a@y.test>", "From: =?utf-8?b?w7xA?= <me@x.test>\nX-Original-From: =?utf-8?q?=C3=BC=40?= <a@y.test>\n"},
		{rewrite, "From: a@y.test, b@y.test\nSender: c@y.test", "From: me@x.test\nX-Original-Sender: c@y.test\nX-Original-From: a@y.test, b@y.test\n"},
		{rewrite, "From: me@x.test\nSender: c@y.test", "From: me@x.test\nX-Original-Sender: c@y.test\n"},
		{rewrite, "To: a", "To: a\nFrom: me@x.test\n"},
		{rewrite, "From: a@y.test\nX: \x00", "550"},
		{rewrite, "From: a@y.test\nResent-From: b@y.test", "550"},
		{rewrite, "From: a@y.test\nX: y\n \nTo: a", "550"},
		{addSender, "From: Boss <boss@y.test>", "From: Boss <boss@y.test>\nSender: me@x.test\n"},
		{addSender, "From: boss@y.test\nSender: s@y.test", "From: boss@y.test\nSender: me@x.test\nX-Original-Sender: s@y.test\n"},
		{addSender, "From: boss@y.test\nFrom: me@x.test", "550"},
		{addSender, "To: a", "550"},
		{addSender, "From: g: boss@y.test;", "550"},
		{addSender, "From: boss@y.test\nResent-Sender: boss@y.test", "550"},
	} {
		h := handler(t, "sender_login {\notherwise "+tc.mode+"\n}")
		m := parse(t, tc.in)
		err := h.HandleMessage(t.Context(), transaction("me@x.test", ""), m)
		got := strings.TrimSuffix(strings.ReplaceAll(string(m.Header.Bytes()), "\r\n", "\n"), "\n")
		if err != nil {
			if got != tc.in+"\n" {
				t.Errorf("%s: %q: refused, and changed to %q", tc.mode, tc.in, got)
			}
			got = fmt.Sprint(code(err))
		}
		if got != tc.want {
			t.Errorf("%s: %q: %q, want %q", tc.mode, tc.in, got, tc.want)
		}
		tx := transaction("me@x.test", "app@host.test")
		if err := h.HandleMail(t.Context(), tx); err != nil || tx.Envelope.From.String() != "me@x.test" {
			t.Error(tx.Envelope.From, err)
		}
		if err := h.HandleMail(t.Context(), transaction("me", "app@host.test")); code(err) != 553 {
			t.Error("nothing to rewrite to:", err)
		}
	}
}

func TestAnnotate(t *testing.T) {
	h := handler(t, "sender_login {\nannotate\notherwise rewrite\n}")
	tx := transaction("me@x.test", "you@x.test")
	m := parse(t, "From: you@x.test")
	if err := errors.Join(h.HandleMail(t.Context(), tx), h.HandleMessage(t.Context(), tx, m)); err != nil {
		t.Error(err)
	}
	rs := tx.Find("x-sender-login")
	if len(rs) != 2 || rs[1].Value != "fail" || !rs[1].Private || rs[1].Reason != "From: <you@x.test> is not your address" || m.Header.Get("From") != "you@x.test" ||
		tx.Envelope.From.String() != "you@x.test" || !h.OnlyAnnotates() {
		t.Errorf("%+v %s", rs, m.Header.Bytes())
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"sender_login": "{}",
		"sender_login {smtp.auth.user}@x.test *@y.test": `{"own":["{smtp.auth.user}@x.test","*@y.test"]}`,
		"sender_login {\nown a@x.test\ntable fake a=b\ndelegates fake c=d\nlogin off\nsubaddress +\nnull_sender off\nresent\notherwise rewrite\nannotate\n}": `{"login":false,"own":["a@x.test"],"table":{"entries":["a=b"],"table":"fake"},"delegates":{"entries":["c=d"],"table":"fake"},"subaddress":"+","null_sender":false,"resent":true,"otherwise":"rewrite","annotate":true}`,
		"sender_login {\notherwise drop\n}": "'drop' is not refuse, rewrite or add_sender, at Testfile:3",
		"sender_login info":                 "sender_login: 'info' is not an address: syntax error in address, at Testfile:1",
		"sender_login {\nown a@-\n}":        "sender_login: 'a@-' is not an address: '-' is not a domain: syntax error in address: domain, at Testfile:3",
		"sender_login {\nlogin no\n}":       "option 'login': 'no' is neither on nor off, at Testfile:2",
		"sender_login {\nowner a@x\n}":      "unrecognized option 'owner', at Testfile:2",
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
	off := false
	for _, h := range []*Handler{{Otherwise: "x"}, {Otherwise: refuse, Own: []string{"x"}}, {Otherwise: refuse, Login: &off, DelegatesRaw: []byte("{}")}} {
		if h.Validate() == nil {
			t.Errorf("%+v is taken", h)
		}
	}
}
