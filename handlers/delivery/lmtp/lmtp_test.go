package lmtp

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func agent(t testing.TB, address string) *Agent {
	t.Helper()
	a := &Agent{Address: address}
	if err := provision(t, a, nil); err != nil {
		t.Fatal(err)
	}
	return a
}

func provision(t testing.TB, a *Agent, roots *x509.CertPool) error {
	t.Helper()
	e := &env.Env{Hostname: "us.test", Resolver: &dnstest.Zone{Host: map[string][]string{"store.test": {"127.0.0.1"}}}, Roots: roots}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), e)})
	t.Cleanup(cancel)
	t.Cleanup(func() { a.Cleanup() })
	return a.Provision(ctx)
}

// TestTLS: to deliver, and to ask who exists.
func TestTLS(t *testing.T) {
	cert, trust := clienttest.Certificate(t, "store.test")
	_, strange := clienttest.Certificate(t, "store.test")
	for _, tc := range []struct {
		tls            string
		offered, trust bool
		skip           bool
		want, who      string
		encrypted      bool
	}{
		{"required", true, true, false, "delivered 250 2.0.0", "550 5.1.1", true},
		{"implicit", true, true, false, "delivered 250 2.0.0", "550 5.1.1", true},
		{"required", true, false, false, "delayed 451 4.7.5", "451 4.4.0", false},
		{"required", true, false, true, "delivered 250 2.0.0", "550 5.1.1", true},
		{"required", false, true, false, "delayed 451 4.7.4", "451 4.4.0", false},
		{"opportunistic", true, false, false, "delivered 250 2.0.0", "550 5.1.1", true},
		{"opportunistic", false, false, false, "delivered 250 2.0.0", "550 5.1.1", false},
		{"", true, true, false, "delivered 250 2.0.0", "550 5.1.1", false},
	} {
		opts := clienttest.Options{LMTP: true, Implicit: tc.tls == "implicit"}
		if tc.offered {
			opts.TLS = cert
		}
		srv := clienttest.Start(t, opts, clienttest.Rule{At: "RCPT TO:<who@", Reply: "550 5.1.1 unknown"})
		_, port, _ := net.SplitHostPort(srv.Addr)
		roots := strange.RootCAs
		if tc.trust {
			roots = trust.RootCAs
		}
		a := &Agent{Address: "store.test:" + port, TLS: tc.tls, InsecureSkipVerify: tc.skip}
		if err := provision(t, a, roots); err != nil {
			t.Fatal(err)
		}
		who := mail.ReplyFor(a.Verify(t.Context(), mail.Address{Local: "who", Domain: "us.test"}))
		if got := fmt.Sprintf("%d %s", who.Code, who.Enh); got != tc.who {
			t.Errorf("%+v: who: %s", tc, got)
		}
		if got := words(a.Deliver(t.Context(), delivery(t, "alice"))); got != tc.want {
			t.Errorf("%+v: got %s", tc, got)
		}
		for _, m := range srv.Messages() {
			if m.TLS != tc.encrypted {
				t.Errorf("%+v: TLS: %t", tc, m.TLS)
			}
		}
	}
	for want, a := range map[string]*Agent{
		"'perhaps' is none of":               {Address: "store.test:24", TLS: "perhaps"},
		"tls off verifies nothing":           {Address: "store.test:24", InsecureSkipVerify: true},
		"tls opportunistic verifies nothing": {Address: "store.test:24", TLS: "opportunistic", InsecureSkipVerify: true},
	} {
		if err := provision(t, a, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func delivery(t testing.TB, to ...string) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte("Subject: hi\r\n\r\nhello\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{From: mail.Address{Local: "bob", Domain: "far.test"}}
	for _, local := range to {
		env.Recipients = append(env.Recipients, mail.NewRecipient(mail.Address{Local: local, Domain: "us.test"}))
	}
	return &queue.Delivery{ID: "q1", Envelope: env, Content: m, Attempt: 1, Queued: time.Now(), Log: slog.New(slog.DiscardHandler)}
}

func words(sts []queue.Status) string {
	var lines []string
	for _, s := range sts {
		line := fmt.Sprintf("%s %d %s", s.Action, s.Reply.Code, s.Reply.Enh)
		if s.Unreachable {
			line += " unreachable"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// TestEachRecipient: the store answers for each of them.
func TestEachRecipient(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{LMTP: true},
		clienttest.Rule{At: "RCPT TO:<who@", Reply: "550 5.1.1 unknown"},
		clienttest.Rule{At: ". full@", Reply: "452 4.2.2 over quota"},
		clienttest.Rule{At: ". never@", Reply: "554 5.7.1 refused by a rule"})
	_, port, _ := net.SplitHostPort(srv.Addr)
	a := agent(t, "store.test:"+port)
	for range 2 {
		got := words(a.Deliver(t.Context(), delivery(t, "alice", "who", "full", "never", "bob")))
		if got != "delivered 250 2.0.0\nfailed 550 5.1.1\ndelayed 452 4.2.2\nfailed 554 5.7.1\ndelivered 250 2.0.0" {
			t.Errorf("got\n%s", got)
		}
	}
	if m := srv.Messages(); srv.Connections() != 1 || len(m) != 2 || m[0].Hello != "us.test" {
		t.Errorf("%d connections, %+v", srv.Connections(), m)
	}
}

// TestSocket: a store that listens on a unix socket.
func TestSocket(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{LMTP: true})
	path := t.TempDir() + "/lmtp"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { srv.Serve(nc) })
		}
	})
	a := agent(t, "unix/"+path)
	if got := words(a.Deliver(t.Context(), delivery(t, "alice"))); got != "delivered 250 2.0.0" {
		t.Error(got)
	}
	a.Cleanup()
	ln.Close()
	wg.Wait()
	st := a.Deliver(t.Context(), delivery(t, "alice"))
	if got := words(st); got != "delayed 451 4.4.1 unreachable" || strings.Contains(st[0].Reply.Text, path) {
		t.Error(got, st[0].Reply)
	}
}

// TestStoreIsDown: a store that refuses us for good today may be mended.
func TestStoreIsDown(t *testing.T) {
	for at, want := range map[string]string{"connect": "delayed 454 4.7.1", "LHLO": "delayed 454 4.7.1", "MAIL": "failed 554 5.7.1"} {
		srv := clienttest.Start(t, clienttest.Options{LMTP: true}, clienttest.Rule{At: at, Reply: "554 5.7.1 no"})
		if got := words(agent(t, srv.Addr).Deliver(t.Context(), delivery(t, "alice"))); got != want {
			t.Errorf("%s: %s, want %s", at, got, want)
		}
	}
}

// verified returns what a client hears of an address, "" for nothing.
func verified(ctx context.Context, a *Agent, local string) string {
	if err := a.Verify(ctx, mail.Address{Local: local, Domain: "us.test"}); err != nil {
		return err.Error()
	}
	return ""
}

const wait = " mailbox cannot be verified now"

// TestVerify: who the store knows, without a word of its own.
func TestVerify(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{LMTP: true},
		clienttest.Rule{At: "RCPT TO:<who@", Reply: "550 5.1.1 no who in /var/mail"},
		clienttest.Rule{At: "RCPT TO:<old@", Reply: "550-No such user\n550 in /var/mail"},
		clienttest.Rule{At: "RCPT TO:<moved@", Reply: "551 5.1.6 moved"},
		clienttest.Rule{At: "RCPT TO:<off@", Reply: "550 5.2.1 disabled"},
		clienttest.Rule{At: "RCPT TO:<never@", Reply: "554 5.7.1 rule 7"},
		clienttest.Rule{At: "RCPT TO:<full@", Reply: "452 4.2.2 over quota"})
	a := agent(t, srv.Addr)
	for range 2 {
		for local, want := range map[string]string{
			"alice": "", "who": "550 5.1.1 no such mailbox", "old": "550 5.1.1 no such mailbox", "moved": "550 5.1.6 no such mailbox",
			"off": "550 5.2.1 mailbox takes no mail", "never": "550 5.1.1 no such mailbox", "full": "451 4.4.0" + wait,
		} {
			if got := verified(t.Context(), a, local); got != want {
				t.Errorf("%s: %s, want %s", local, got, want)
			}
		}
	}
	// What may pass is asked again, the others are known.
	if n := strings.Count(strings.Join(srv.Commands(), "\n"), "RCPT"); n != 8 || srv.Connections() != 1 {
		t.Errorf("%d questions, %d connections", n, srv.Connections())
	}
	if got := words(a.Deliver(t.Context(), delivery(t, "alice"))); got != "delivered 250 2.0.0" || srv.Connections() != 1 || len(srv.Messages()) != 1 {
		t.Errorf("%s, %d connections, %d messages", got, srv.Connections(), len(srv.Messages()))
	}
}

// TestVerifyNot: nobody is turned away for good by a store that is not well.
func TestVerifyNot(t *testing.T) {
	for at, want := range map[string]string{"connect": "451 4.4.0" + wait, "LHLO": "451 4.4.0" + wait, "MAIL": "451 4.4.0" + wait} {
		srv := clienttest.Start(t, clienttest.Options{LMTP: true}, clienttest.Rule{At: at, Reply: "554 5.7.1 no"})
		if got := verified(t.Context(), agent(t, srv.Addr), "alice"); got != want {
			t.Errorf("%s: %s", at, got)
		}
	}
	if got := verified(t.Context(), agent(t, "unix/"+t.TempDir()+"/none"), "alice"); got != "451 4.4.1"+wait {
		t.Error("down:", got)
	}
	srv := clienttest.Start(t, clienttest.Options{LMTP: true}, clienttest.Rule{At: "RCPT TO:<bob@", Delay: time.Minute})
	a := agent(t, srv.Addr)
	if got := verified(t.Context(), a, "alice"); got != "" {
		t.Error(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got := verified(ctx, a, "bob"); got != "451 4.4.2"+wait {
		t.Error("slow:", got)
	}
	if got := verified(ctx, a, "alice"); got != "" {
		t.Error("known, and the store is slow:", got)
	}
	a = agent(t, srv.Addr)
	a.NoVerify = true
	if got := verified(t.Context(), a, "bob"); got != "" || srv.Connections() != 1 {
		t.Error("off:", got, srv.Connections())
	}
}

func TestProvision(t *testing.T) {
	t.Setenv("STORE", "unix//run/store")
	if a := agent(t, "{env.STORE}"); a.host.String() != "/run/store" {
		t.Error(a.host)
	}
	for _, bad := range []string{"", "store.test", "udp/store.test:24", "store.test:24-25", ":24", "{env.NOT_SET_AT_ALL}"} {
		if err := (&Agent{Address: bad}).Provision(caddy.Context{Context: t.Context()}); err == nil {
			t.Errorf("%q is provisioned", bad)
		}
	}
	if err := new(Agent).Cleanup(); err != nil {
		t.Error(err)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"lmtp unix//run/dovecot/lmtp":                             `{"address":"unix//run/dovecot/lmtp"}`,
		"lmtp {env.STORE}":                                        `{"address":"{env.STORE}"}`,
		"lmtp store.test:24 {\nhello us.test\nidle_timeout 1s\n}": `{"address":"store.test:24","hello":"us.test","idle_timeout":1000000000}`,
		"lmtp store.test:24 {\nverify off\n}":                     `{"address":"store.test:24","no_verify":true}`,
		"lmtp store.test:24 {\nconvert off\n}":                    `{"address":"store.test:24","no_convert":true}`,
		"lmtp store.test:24 {\nverify on\n}":                      `{"address":"store.test:24"}`,
		"lmtp store.test:24 {\nverify perhaps\n}":                 "'perhaps' is neither on nor off",
		"lmtp":                               "wrong argument count",
		"lmtp a:1 b:2":                       "wrong argument count",
		"lmtp store.test":                    "neither unix/ and a path nor a host and a port, at Testfile:1",
		"lmtp store.test:24 {\nport\n}":      "unrecognized option 'port', at Testfile:2",
		"lmtp store.test:24 {\ntls maybe\n}": "'maybe' is none of opportunistic, required, implicit, off, at Testfile:2",
		"lmtp store.test:24 {\ntls required\ninsecure_skip_verify\n}": `{"address":"store.test:24","tls":"required","insecure_skip_verify":true}`,
	} {
		a := new(Agent)
		if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		if b, _ := json.Marshal(a); string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
	}
}
