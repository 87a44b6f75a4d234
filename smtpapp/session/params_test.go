package session

import (
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func esmtp(limit int64) *Session {
	s := &Session{ESMTP: true, cfg: &Config{Limits: Limits{MessageSize: limit}}}
	s.tx = &Transaction{Envelope: &mail.Envelope{UTF8: true}}
	return s
}

func TestMailParams(t *testing.T) {
	s := esmtp(1000)
	s.User = "user"
	env, r := s.parseMail(`FROM:<a@Example.ORG> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=full ENVID=Q+2B AUTH=a+2Bb@example.org`)
	if r != nil {
		t.Fatal(r)
	}
	want := mail.Envelope{
		From: mail.Address{Local: "a", Domain: "example.org"}, Size: 1000, Body: mail.Body8Bit, UTF8: true,
		Return: mail.ReturnFull, ID: "Q+", Auth: "a+b@example.org",
	}
	if env.From != want.From || env.Size != want.Size || env.Body != want.Body || env.UTF8 != want.UTF8 ||
		env.Return != want.Return || env.ID != want.ID || env.Auth != want.Auth {
		t.Errorf("%+v", env)
	}
	s.User = ""
	if env, r = s.parseMail(`FROM:<> AUTH=a@example.org`); r != nil || env.Auth != "<>" || !env.From.IsNull() {
		t.Error(env, r)
	}
}

func TestRcptParams(t *testing.T) {
	rc, r := esmtp(0).parseRcpt(`TO:<@a,@b:"c d"@example.org> NOTIFY=SUCCESS,DELAY ORCPT=RFC822;x+2By@example.org`)
	if r != nil {
		t.Fatal(r)
	}
	if rc.Given.String() != `"c d"@example.org` || rc.Notify != mail.NotifySuccess|mail.NotifyDelay || rc.Original != "RFC822;x+y@example.org" {
		t.Errorf("%+v", rc)
	}
	if rc, r = esmtp(0).parseRcpt(`TO:<a@b> ORCPT=utf-8;\x{FC}ü@b`); r != nil || rc.Original != "utf-8;üü@b" {
		t.Error(rc, r)
	}
	if rc, r = esmtp(0).parseRcpt(`TO:<Postmaster>`); r != nil || rc.Given != (mail.Address{Local: "Postmaster"}) {
		t.Error(rc, r)
	}
}

// FuzzParams: what is accepted can be written again and is the same then, and
// nothing in it can break a line.
func FuzzParams(f *testing.F) {
	for _, s := range []string{
		`FROM:<a@b> SIZE=1`, `TO:<"a\"b"@c> ORCPT=rfc822;a+20b`, `TO:<ü@b> ORCPT=utf-8;\x{FC}`, `FROM:<@a:b@c> ENVID=+41`,
		`TO:<a@[192.0.2.1]> NOTIFY=NEVER`, `FROM:<> AUTH=<>`, `TO:<postmaster>`, `TO:<a>b>`, `FROM:<"\>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		s := esmtp(1 << 20)
		if env, r := s.parseMail(arg); r == nil {
			again, r := s.parseMail("FROM:" + env.From.Path() + " SMTPUTF8")
			if r != nil || again.From != env.From {
				t.Fatalf("%q: %+v, again %+v, %v", arg, env.From, again, r)
			}
			clean(t, env.ID, env.Auth, env.From.String())
		}
		if rc, r := s.parseRcpt(arg); r == nil {
			again, r := s.parseRcpt("TO:" + rc.Given.Path())
			if r != nil || again.Given != rc.Given {
				t.Fatalf("%q: %+v, again %+v, %v", arg, rc.Given, again, r)
			}
			clean(t, rc.Original, rc.Given.String())
		}
	})
}

func clean(t *testing.T, values ...string) {
	for _, v := range values {
		if strings.ContainsAny(v, "\r\n\x00\x1b") {
			t.Fatalf("%q", v)
		}
	}
}
