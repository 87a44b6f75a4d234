package session_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestHold: users may have their mail held, for as long as is announced (RFC
// 4865).
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.cfg.FutureRelease = 24 * time.Hour
		s.cfg.Limits.SoftErrors, s.cfg.Limits.HardErrors = 0, 0
		conn, _ := s.pipe(t.Context())
		c := newClient(t, conn)
		now := time.Now().UTC() // which stands still
		at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
		c.expect("220")
		c.send("EHLO client.example")
		if r, want := c.reply(), "250-FUTURERELEASE 86400 "+at(24*time.Hour); !strings.Contains(r, want) {
			t.Errorf("got %q, want %s", r, want)
		}
		c.send("MAIL FROM:<s@example.org> HOLDFOR=60")
		c.expect("530 5.7.0")
		c.send("AUTH PLAIN AGEAc2VjcmV0")
		c.expect("235")
		for param, want := range map[string]time.Duration{
			"HOLDFOR=60": time.Minute, "HOLDFOR=0": 0, "HOLDFOR=86400": 24 * time.Hour, "HOLDFOR=86401": -1, "HOLDFOR=-1": -1, "HOLDFOR=": -1,
			"HOLDFOR": -1, "HOLDFOR=9999999999": -1, "HOLDFOR=1.5": -1, "HOLDFOR=1 HOLDFOR=1": -1,
			"HOLDUNTIL=" + at(time.Hour): time.Hour, "holduntil=" + strings.ToLower(at(time.Hour)): time.Hour,
			"HOLDUNTIL=" + now.Add(time.Hour).In(time.FixedZone("", 7200)).Format(time.RFC3339): time.Hour,
			"HOLDUNTIL=" + at(25*time.Hour): -1, "HOLDUNTIL=tomorrow": -1, "HOLDUNTIL": -1,
			"HOLDFOR=60 HOLDUNTIL=" + at(time.Hour): -1,
		} {
			code := "501 5.5.4"
			if want >= 0 {
				code = "250"
			}
			c.send("MAIL FROM:<s@example.org> " + param)
			c.expect(code)
			if want < 0 {
				continue
			}
			c.send("RCPT TO:<user@local.example>", "DATA")
			c.expect("250", "354")
			c.send("a: b", "", ".")
			c.expect("250")
			ms := s.messages()
			if got := ms[len(ms)-1].env.HoldUntil; got.Sub(now.Add(want)).Abs() > time.Second {
				t.Errorf("%s: held until %v, want %v", param, got, now.Add(want))
			}
		}
		conn.Close()
		<-s.closed
	})
}

// TestNothingIsHeld where that is not wanted, or nobody can log in.
func TestNothingIsHeld(t *testing.T) {
	for _, off := range []func(*server){
		func(s *server) { s.cfg.FutureRelease = 0 },
		func(s *server) { s.cfg.FutureRelease, s.cfg.PlaintextAuth = time.Hour, false },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(t)
			off(s)
			conn, _ := s.pipe(t.Context())
			c := newClient(t, conn)
			c.expect("220")
			c.send("EHLO client.example")
			if r := c.reply(); strings.Contains(r, "FUTURERELEASE") {
				t.Errorf("it is announced: %q", r)
			}
			c.send("MAIL FROM:<s@example.org> HOLDFOR=60")
			if r := c.reply(); !strings.HasPrefix(r, "5") {
				t.Errorf("it is taken: %q", r)
			}
			conn.Close()
			<-s.closed
		})
	}
}

// TestRequireTLS is announced, and taken, under TLS only (RFC 8689).
func TestRequireTLS(t *testing.T) {
	s := newServer(t)
	c := dial(t, s.listen(false))
	c.expect("220")
	c.send("EHLO client.example")
	if r := c.reply(); strings.Contains(r, "REQUIRETLS") {
		t.Errorf("%q", r)
	}
	c.send("MAIL FROM:<s@example.org> REQUIRETLS", "STARTTLS")
	c.expect("555", "220")
	c = c.startTLS()
	c.send("EHLO client.example")
	if r := c.reply(); !strings.Contains(r, "250-REQUIRETLS\r\n") {
		t.Errorf("%q", r)
	}
	c.send("MAIL FROM:<s@example.org> REQUIRETLS=1")
	c.expect("501")
	c.send("MAIL FROM:<s@example.org> REQUIRETLS", "RCPT TO:<user@local.example>", "DATA")
	c.expect("250", "250", "354")
	c.send("a: b", "", ".", "QUIT")
	c.expect("250", "221")
	<-s.closed
	if ms := s.messages(); len(ms) != 1 || !ms[0].env.RequireTLS {
		t.Errorf("%+v", ms)
	}
}
