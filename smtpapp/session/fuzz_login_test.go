package session_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// said are the words of clients in scripts.
func said(f *testing.F, name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	var out strings.Builder
	for l := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "C: "); ok {
			out.WriteString(text + "\r\n")
		}
	}
	return out.String()
}

// wellFormed looks at all that a session has replied, and counts the messages
// that it says it has taken.
func wellFormed(t *testing.T, conn *memory) (taken int) {
	t.Helper()
	for l := range strings.SplitSeq(strings.TrimSuffix(conn.out.String(), "\r\n"), "\r\n") {
		if !replyLine.MatchString(l) || len(l) > 510 {
			t.Fatalf("reply %q", l)
		}
		if strings.HasPrefix(l, "250 2.0.0 queued") {
			taken++
		}
	}
	return taken
}

// FuzzLogin says anything to a session in which AUTH may be among it, in a time
// of its own. Nobody is logged in who did not say the password, in base64 that
// is what it should be.
func FuzzLogin(f *testing.F) {
	names, err := filepath.Glob("testdata/*auth*.smtp")
	if err != nil || len(names) == 0 {
		f.Fatal(err)
	}
	for _, name := range names {
		f.Add([]byte(said(f, name)))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Contains(in, []byte("\x16")) || len(in) > 20_000 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(t)
			srv.cfg.TLS = nil
			srv.cfg.Limits.SoftErrors = 0
			conn := conversation(in)
			if err := session.New(conn, srv.cfg, false).Serve(t.Context()); err != nil {
				t.Fatal(err)
			}
			if taken := wellFormed(t, conn); taken != len(srv.messages()) {
				t.Fatalf("%d messages, %d replies", len(srv.messages()), taken)
			}
			in235 := strings.Count(conn.out.String(), "235 2.7.0")
			if in235 > 1 {
				t.Fatalf("%d logins: %q", in235, conn.out.String())
			}
			upper := bytes.ToUpper(in)
			if in235 > 0 && !bytes.Contains(upper, []byte("TWO")) && !bytes.Contains(upper, []byte("NOBODY")) && !bytes.Contains(in, []byte("c2VjcmV0")) {
				t.Fatalf("a login without the password: %q", in)
			}
		})
	})
}

// FuzzProxy says anything as a proxy, with ETRN on offer too.
func FuzzProxy(f *testing.F) {
	for _, name := range []string{"xclient", "xclient_malformed", "xclient_untrusted", "etrn", "transaction"} {
		f.Add([]byte(said(f, "testdata/"+name+".smtp")))
	}
	srv := newServer(f)
	srv.cfg.TLS = nil
	srv.cfg.Limits.SoftErrors, srv.cfg.Limits.HardErrors = 0, 0
	all := func(netip.Addr) bool { return true }
	srv.cfg.Proxies = session.Proxies{XCLIENT: all, XFORWARD: all}
	srv.cfg.Flush = func(domain string) *mail.Reply {
		if _, err := mail.ParseDomain(domain); err != nil {
			return mail.Refuse(421, "4.3.0", "asked for %s", err)
		}
		return nil
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Contains(bytes.ToUpper(in), []byte("AUTH")) {
			return
		}
		srv.mu.Lock()
		srv.taken = nil
		srv.mu.Unlock()
		conn := conversation(in)
		if err := session.New(conn, srv.cfg, false).Serve(t.Context()); err != nil && !bytes.Contains(bytes.ToUpper(in), []byte("XCLIENT")) {
			t.Fatal(err)
		}
		taken := wellFormed(t, conn)
		ms := srv.messages()
		if taken != len(ms) {
			t.Fatalf("%d messages, %d replies", len(ms), taken)
		}
		for _, m := range ms {
			if strings.ContainsAny(m.received, "\r\n\x00\x1b") || m.received == "" {
				t.Fatalf("Received: %q", m.received)
			}
		}
	})
}

// FuzzLMTP says anything to an LMTP server: each recipient that was taken has a
// reply of its own.
func FuzzLMTP(f *testing.F) {
	names, err := filepath.Glob("testdata/lmtp*.smtp")
	if err != nil || len(names) == 0 {
		f.Fatal(err)
	}
	for _, name := range names {
		f.Add([]byte(said(f, name)))
	}
	f.Add([]byte("LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@local.example>\r\nRCPT TO:<b@local.example>\r\nBDAT 3\r\na: BDAT 4 LAST\r\nb\r\n\r\n"))
	srv := newServer(f)
	srv.cfg.TLS, srv.cfg.LMTP = nil, true
	srv.cfg.Limits.SoftErrors, srv.cfg.Limits.HardErrors = 0, 0
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Contains(bytes.ToUpper(in), []byte("AUTH")) {
			return
		}
		srv.mu.Lock()
		srv.taken = nil
		srv.mu.Unlock()
		conn := conversation(in)
		if err := session.New(conn, srv.cfg, false).Serve(t.Context()); err != nil {
			t.Fatal(err)
		}
		taken := wellFormed(t, conn)
		if n := len(srv.messages()); taken < n || n == 0 && taken > 0 {
			t.Fatalf("%d messages, %d replies", n, taken)
		}
	})
}
