package rrvs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddymail/caddy-smtp/handlers/table/inline"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// owners is a table; "down" fails.
type owners map[string]string

func (o owners) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if strings.HasPrefix(key, "down@") {
		return nil, false, errors.New("down")
	}
	v, ok := o[strings.ToLower(key)]
	return strings.Split(v, "|"), ok, nil
}

var known = owners{
	"example.test": "2010-01-01", "sold.test": "2024-06-01T12:00:00+02:00",
	"old@example.test": "2015-03-04", "new@example.test": "2024-04-04T00:00:00z", "@all.test": "2020-01-01",
	"old@sold.test": "2015-03-04", "odd@example.test": "yesterday", "two@example.test": "2015-03-04|2016-03-04", "none@example.test": "",
}

func address(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var moment = time.Date(2024, 4, 3, 23, 1, 0, 0, time.UTC)

func TestRcpt(t *testing.T) {
	h := &Handler{TagSeparator: "+", table: known}
	for to, want := range map[string]string{
		"old@example.test": "met", "OLD@Example.Test": "met", "old+news@example.test": "met", "anybody@all.test": "met",
		"new@example.test": "5.7.17", "new+news@example.test": "5.7.17", "old@sold.test": "5.7.18",
		"nobody@example.test": "open", "bob@elsewhere.test": "open",
		"odd@example.test": "4.3.0", "two@example.test": "4.3.0", "none@example.test": "4.3.0", "down@example.test": "4.3.0",
	} {
		r := mail.NewRecipient(address(t, to))
		r.RRVS, r.RRVSReject = moment, true
		err := h.HandleRcpt(t.Context(), nil, r)
		got := map[bool]string{true: "met", false: "open"}[r.RRVS.IsZero()]
		if err != nil {
			got = mail.ReplyFor(err).Enh
		}
		if got != want {
			t.Errorf("%s: %s, want %s (%v)", to, got, want, err)
		}
	}
	r := mail.NewRecipient(address(t, "new@example.test"))
	if err := h.HandleRcpt(t.Context(), nil, r); err != nil {
		t.Error("nothing was asked: ", err)
	}
	r.RRVS = moment
	r.Rewrite(address(t, "old@example.test"))
	if err := h.HandleRcpt(t.Context(), nil, r); err != nil || r.RRVS.IsZero() {
		t.Error("a demand on an alias was found to be met by where it leads to: ", err)
	}
	if err := new(Handler).HandleRcpt(t.Context(), nil, r); err != nil || r.RRVS.IsZero() {
		t.Error("without a table: ", err)
	}
}

func TestField(t *testing.T) {
	h := &Handler{TagSeparator: "+", table: known}
	const then = "Wed, 3 Apr 2024 23:01:00 +0000"
	for value, want := range map[string]string{
		"old@example.test; " + then: "", "NEW@Example.test; " + then: "5.7.17", "old@sold.test;\r\n " + then: "5.7.18",
		"stranger@example.test; " + then: "", "nobody@example.test; " + then: "5.7.19", "down@example.test; " + then: "4.3.0",
		"new@example.test": "", "new@example.test; yesterday": "", "<new@example.test>; " + then: "", "; " + then: "", "": "",
		"new@example.test; " + strings.Repeat(" ", 600) + then: "",
	} {
		tx := &session.Transaction{Session: new(session.Session), Envelope: new(mail.Envelope)}
		for _, to := range []string{"old@example.test", "new@example.test", "old@sold.test", "nobody@example.test", "down@example.test"} {
			tx.Envelope.Recipients = append(tx.Envelope.Recipients, mail.NewRecipient(address(t, to)))
		}
		m, err := message.Parse([]byte("Subject: x\r\n" + field + ": " + value + "\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err = h.HandleMessage(t.Context(), tx, m); err != nil {
			got = mail.ReplyFor(err).Enh
		}
		if got != want {
			t.Errorf("%q: %s, want %s (%v)", value, got, want, err)
		}
		if err := new(Handler).HandleMessage(t.Context(), tx, m); err != nil {
			t.Error("without a table: ", err)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for text, ok := range map[string]bool{
		"rrvs": true, "rrvs inline {\n a@b.test 2024-01-01\n}": true, "rrvs {\n table inline {\n a@b.test 2024-01-01\n }\n tag_separator -\n}": true,
		"rrvs nowhere": false, "rrvs {\n since 2024\n}": false,
	} {
		h := new(Handler)
		err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text))
		if (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil {
			continue
		}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		if err := h.Provision(ctx); err != nil || (h.table != nil) != strings.Contains(text, "inline") || h.TagSeparator == "" {
			t.Errorf("%s: %+v, %v", text, h, err)
		}
		cancel()
	}
}

// FuzzParse: what is read is one address and a time.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a@b.test; Wed, 3 Apr 2024 23:01:00 +0000", `"a;b"@c.test; 3 Apr 2024 23:01:00 +0000`, ";", "a@b;x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, then, ok := parse(s)
		if !ok {
			return
		}
		again, err := mail.ParseAddress(a.String())
		if err != nil || again != a || then.IsZero() {
			t.Errorf("%q: %v, %v: %v", s, a, then, err)
		}
	})
}
