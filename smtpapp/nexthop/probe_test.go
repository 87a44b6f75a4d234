package nexthop

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func at(local string) mail.Address { return mail.Address{Local: local, Domain: "o.test"} }

// asked returns the code and enhanced code of a probe, or "yes".
func asked(ctx context.Context, s *Sender, to mail.Address, names ...string) string {
	err := s.Probe(ctx, to, hosts(names...))
	if err == nil {
		return "yes"
	}
	r := mail.ReplyFor(err)
	return strings.TrimSpace(fmt.Sprintf("%d %s", r.Code, r.Enh))
}

// TestProbe: what the first host does, what is made of it, and whether the
// second, which takes all, is asked.
func TestProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		rule   clienttest.Rule
		alone  string
		second bool
	}{
		"taken":             {rule("NOOP", ""), "yes", false},
		"251":               {rule("RCPT", "251 2.1.5 forwards"), "yes", false},
		"unknown":           {rule("RCPT", "550 5.1.1 who"), "550 5.1.1", false},
		"lines":             {rule("RCPT", "550-5.1.1 who\n550 5.1.1 is it"), "550 5.1.1", false},
		"no enhanced code":  {rule("RCPT", "550 5.1 who"), "550", false},
		"of another class":  {rule("RCPT", "550 4.1.1 who"), "550", false},
		"greylisted":        {rule("RCPT", "450 4.2.1 later"), "450 4.2.1", false},
		"RCPT 503":          {rule("RCPT", "503 5.5.1 MAIL first"), "451 4.4.0", true},
		"RCPT 530":          {rule("RCPT", "530 5.7.0 log in"), "451 4.4.0", true},
		"RCPT 421":          {rule("RCPT", "421 4.3.2 bye"), "451 4.4.0", true},
		"RCPT 354":          {rule("RCPT", "354 what"), "451 4.5.0", false},
		"RCPT not SMTP":     {rule("RCPT", "who are you"), "451 4.4.0", true},
		"RCPT, more to say": {rule("RCPT", "250 ok\n250 injected"), "451 4.4.0", true},
		"cut at RCPT":       {cut("RCPT"), "451 4.4.2", true},
		"MAIL 550":          {rule("MAIL", "550 5.7.1 not the null sender"), "451 4.4.0", true},
		"greeting 554":      {rule("connect", "554 5.7.1 no"), "451 4.4.0", true},
		"cut at once":       {cut("connect"), "451 4.4.1", true},
		"RSET 500":          {rule("RSET", "500 5.5.1 what"), "yes", false},
	} {
		srv, other := clienttest.Start(t, clienttest.Options{}, tc.rule), clienttest.Start(t, clienttest.Options{})
		w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}
		if got := asked(t.Context(), sender(t, w), at("x"), "a.mx.test"); got != tc.alone {
			t.Errorf("%s: %s, want %s", name, got, tc.alone)
		}
		w.at["192.0.2.3:25"] = other
		got, want := asked(t.Context(), sender(t, w), at("x"), "a.mx.test", "c.mx.test"), tc.alone
		if tc.second {
			want = "yes"
		}
		if got != want || (other.Connections() > 0) != tc.second {
			t.Errorf("%s: %s, and %d connections to the second", name, got, other.Connections())
		}
		if n := len(srv.Messages()) + len(other.Messages()); n > 0 {
			t.Errorf("%s: %d messages", name, n)
		}
	}
}

func TestProbeWithoutHost(t *testing.T) {
	for names, want := range map[string]string{"": "451 4.4.0", "gone.mx.test": "451 4.4.0", "broken.mx.test": "451 4.4.3", "a.mx.test": "451 4.4.1"} {
		var log bytes.Buffer
		s := sender(t, &world{}, func(s *Sender) { s.Own, s.Log = true, slog.New(slog.NewTextHandler(&log, nil)) })
		if got := asked(t.Context(), s, at("x"), strings.Fields(names)...); got != want || strings.Contains(log.String(), "level=WARN") != (names != "") {
			t.Errorf("%q: %s, %s", names, got, log.String())
		}
	}
}

// TestProbeSays: the dialogue, and one connection for probes and messages.
func TestProbeSays(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{}, rule("RCPT TO:<who@", "550 5.1.1 who"))
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 1}))
	for local, want := range map[string]string{"a b": "yes", "who": "550 5.1.1", "grün": "yes"} {
		if got := asked(t.Context(), s, at(local), "a.mx.test"); got != want {
			t.Errorf("%s: %s", local, got)
		}
		send(t, s, 1)
	}
	if srv.Connections() != 1 || len(srv.Messages()) != 3 {
		t.Errorf("%d connections, %d messages", srv.Connections(), len(srv.Messages()))
	}
	said := srv.Commands()
	for _, want := range []string{`MAIL FROM:<>/RCPT TO:<"a b"@o.test>/RSET`, "MAIL FROM:<> SMTPUTF8/RCPT TO:<grün@o.test>/RSET"} {
		if !strings.Contains(strings.Join(said, "/"), want) {
			t.Errorf("not %s in %q", want, said)
		}
	}
	if slices.Contains(said, "QUIT") {
		t.Error("goodbye")
	}
}

// TestProbeOnDeadConnection: one that was kept and has died costs nothing.
func TestProbeOnDeadConnection(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RSET", Reply: "250 2.0.0 bye", Close: true, Times: 1})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 1}))
	for range 2 {
		if got := asked(t.Context(), s, at("x"), "a.mx.test"); got != "yes" {
			t.Error(got)
		}
	}
	if srv.Connections() != 2 {
		t.Errorf("%d connections", srv.Connections())
	}
}

// TestProbeCounts: a peer that has enough of transactions is not offended.
func TestProbeCounts(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{Extensions: []string{"LIMITS MAILMAX=9"}})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 1}))
	for range 2 {
		asked(t.Context(), s, at("x"), "a.mx.test")
	}
	if srv.Connections() != 2 {
		t.Errorf("%d connections", srv.Connections())
	}
}

func TestProbeOdd(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME"}})
	w := &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}
	for local, want := range map[string]string{"a\r\nRSET": "553 5.1.3", "grün": "550 5.6.7"} {
		if got := asked(t.Context(), sender(t, w), at(local), "a.mx.test"); got != want {
			t.Errorf("%q: %s", local, got)
		}
	}
	cert, _ := clienttest.Certificate(t, "a.mx.test")
	w.at["192.0.2.1:25"] = clienttest.Start(t, clienttest.Options{TLS: cert})
	s := sender(t, w, func(s *Sender) { s.TLS = TLS{Mode: TLSOpportunistic, Roots: (&tls.Config{}).RootCAs} })
	if got := asked(t.Context(), s, at("x"), "a.mx.test"); got != "yes" {
		t.Errorf("by TLS: %s", got)
	}
}

// TestSlowProbe ends with its context, and leaves no connection behind that
// would answer the next one.
func TestSlowProbe(t *testing.T) {
	for _, where := range []string{"connect", "MAIL", "RCPT", "RSET"} {
		srv := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: where, Delay: time.Minute, Times: 1})
		s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 1}))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		want := map[string]string{"connect": "451 4.4.1", "RSET": "yes"}[where]
		if want == "" {
			want = "451 4.4.2"
		}
		if got := asked(ctx, s, at("x"), "a.mx.test"); got != want {
			t.Errorf("%s: %s", where, got)
		}
		if got := asked(t.Context(), s, at("x"), "a.mx.test"); got != "yes" || srv.Connections() != 2 {
			t.Errorf("%s, then: %s, %d connections", where, got, srv.Connections())
		}
	}
}

func TestManyProbes(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{}, rule("RCPT TO:<who@", "550 5.1.1 who"))
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}}, keeping(PoolOptions{Idle: time.Minute, Max: 4, Uses: 7}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if a, b := asked(t.Context(), s, at("x"), "a.mx.test"), asked(t.Context(), s, at("who"), "a.mx.test"); a != "yes" || b != "550 5.1.1" {
					t.Errorf("%s, %s", a, b)
				}
			}
		})
	}
	wg.Wait()
}

func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Answers
		no, later := mail.Refuse(550, "5.1.1", "no"), mail.Refuse(451, "4.4.1", "later")
		load := func(local string) any {
			known, err := a.Load(at(local))
			if !known {
				return "?"
			}
			return err
		}
		a.Store(at("yes"), nil)
		a.Store(at("no"), no)
		a.Store(at("later"), later)
		if load("yes") != error(nil) || load("no") != error(no) || load("later") != "?" || load("else") != "?" {
			t.Error(load("yes"), load("no"), load("later"))
		}
		time.Sleep(noHolds)
		if load("yes") != error(nil) || load("no") != "?" {
			t.Error("a no holds for long", load("yes"), load("no"))
		}
		time.Sleep(yesHolds)
		if load("yes") != "?" || len(a.all) != 0 || a.recent.Len() != 0 {
			t.Error("a yes holds for ever", len(a.all))
		}
		a.Store(at("yes"), nil)
		for i := range 2 * maxAnswers {
			a.Store(at(fmt.Sprint(i)), no)
			load("yes")
		}
		if load("yes") != error(nil) || load("0") != "?" || len(a.all) != maxAnswers || a.recent.Len() != maxAnswers {
			t.Error(load("yes"), load("0"), len(a.all))
		}
	})
}
