package session

import (
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func esmtp(limit int64) *Session {
	s := &Session{ESMTP: true, cfg: &Config{Limits: Limits{MessageSize: limit}}}
	s.tx = &Transaction{Envelope: &mail.Envelope{UTF8: true}}
	return s
}

func TestMailParams(t *testing.T) {
	s := esmtp(1000)
	s.User = "a+b@example.org"
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

// TestWhoIsBelieved about who has submitted a message (RFC 4954, section 5).
func TestWhoIsBelieved(t *testing.T) {
	for _, tc := range []struct {
		user, peer, said, want string
	}{
		{"", "192.0.2.1", "a@example.org", "<>"},
		{"b@example.org", "192.0.2.1", "a@example.org", "<>"},
		{"a@example.org", "192.0.2.1", "a@example.org", "a@example.org"},
		{"a@example.org", "192.0.2.1", "<>", "<>"},
		{"", "198.51.100.1", "a@example.org", "a@example.org"},
		{"b", "198.51.100.1", "a@example.org", "a@example.org"},
		{"b", "198.51.100.1", "<>", "<>"},
	} {
		s := esmtp(0)
		s.cfg.Trusted = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
		s.User, s.Remote = tc.user, &net.TCPAddr{IP: net.ParseIP(tc.peer)}
		if env, r := s.parseMail("FROM:<x@y> AUTH=" + tc.said); r != nil || env.Auth != tc.want {
			t.Errorf("%+v: %v, %v", tc, env, r)
		}
	}
}

// TestTimes: when the time that a client gives ends.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UTC()
		for arg, want := range map[string]mail.Envelope{
			"BY=120;R":              {DeliverBy: now.Add(2 * time.Minute), DeliverByReturn: true},
			"BY=120;NT":             {DeliverBy: now.Add(2 * time.Minute), DeliverByTrace: true},
			"BY=-120;N":             {DeliverBy: now.Add(-2 * time.Minute), DeliverByTold: true},
			"BY=0;N":                {DeliverBy: now, DeliverByTold: true},
			"BY=120;N HOLDFOR=3600": {DeliverBy: now.Add(62 * time.Minute), HoldUntil: now.Add(time.Hour)},
			"HOLDFOR=3600 BY=120;R": {DeliverBy: now.Add(62 * time.Minute), HoldUntil: now.Add(time.Hour), DeliverByReturn: true},
		} {
			s := esmtp(0)
			s.User, s.cfg.FutureRelease, s.cfg.Offers.DeliverBy = "u", 24*time.Hour, true
			want.From = mail.Address{Local: "x", Domain: "y"}
			if env, r := s.parseMail("FROM:<x@y> " + arg); r != nil || !reflect.DeepEqual(*env, want) {
				t.Errorf("%s: %+v, %v", arg, env, r)
			}
		}
	})
}

// TestPriorityValue: RFC 6710, section 3.
func TestPriorityValue(t *testing.T) {
	for v, want := range map[string]int{"0": 0, "1": 1, "9": 9, "-1": -1, "-9": -9} {
		if n, ok := parsePriority(v); !ok || n != want {
			t.Errorf("%s: %d, %t", v, n, ok)
		}
	}
	for _, v := range []string{"", "-", "-0", "+1", "00", "10", "-10", "--1", "1-", "x", "\u0661"} {
		if n, ok := parsePriority(v); ok {
			t.Errorf("%q: %d", v, n)
		}
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
		`FROM:<a@b> MT-PRIORITY=-9 BY=+60;RT`, `FROM:<a@b> BY=-999999999;N`, `TO:<a@b> RRVS=2024-04-03T23:01:00Z;R`,
		`FROM:<a@b> SIZE=1`, `TO:<"a\"b"@c> ORCPT=rfc822;a+20b`, `TO:<ü@b> ORCPT=utf-8;\x{FC}`, `FROM:<@a:b@c> ENVID=+41`,
		`TO:<a@[192.0.2.1]> NOTIFY=NEVER`, `FROM:<> AUTH=<>`, `TO:<postmaster>`, `TO:<a>b>`, `FROM:<"\>`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		s := esmtp(1 << 20)
		s.User = "a@b"
		s.cfg.Offers = Offers{Priorities: &Priorities{Own: 9, Lowest: -9}, DeliverBy: true, ValidSince: true}
		if env, r := s.parseMail(arg); r == nil {
			again, r := s.parseMail("FROM:" + env.From.Path() + " SMTPUTF8")
			if r != nil || again.From != env.From {
				t.Fatalf("%q: %+v, again %+v, %v", arg, env.From, again, r)
			}
			clean(t, env.ID, env.Auth, env.From.String())
			if p := env.Priority; p < -9 || p > 9 || env.DeliverByReturn && (env.DeliverBy.IsZero() || env.DeliverByTold) {
				t.Fatalf("%q: %+v", arg, env)
			}
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

// FuzzInquired: what VRFY and EXPN are asked for is one address, or refused.
func FuzzInquired(f *testing.F) {
	for _, s := range []string{"a@b", "<a@b>", "a", "Postmaster", "<postmaster> SMTPUTF8", "\u00fc@b smtputf8", "a b", "<", "", `"a b"@c`, " SMTPUTF8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		s := esmtp(0)
		s.cfg.Hostname, s.cfg.Postmaster = "mx.example", mail.Address{Local: "postmaster", Domain: "example.org"}
		a, _, no := s.inquired(arg)
		if no != nil {
			return
		}
		again, err := mail.ParseAddress(a.String())
		if err != nil || again != a || a.Domain == "" {
			t.Fatalf("%q: %+v, %v", arg, a, err)
		}
		clean(t, a.String())
	})
}
