package tests

import (
	"fmt"
	"net"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// TestHostThatLacksIt: where one host of a domain lacks what a message needs, the
// next is asked, and the sender hears of it only if none has it.
func TestHostThatLacksIt(t *testing.T) {
	old := clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME"}})
	modern := clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME", "SMTPUTF8"}})
	h := newHost(t)
	h.load(fmt.Sprintf(local+`
	agent both relay %[1]s %[2]s {
		tls off
	}
	agent old relay %[1]s {
		tls off
	}
	server out ADDR(out) {
		tls off
		@both rcpt_domain both.test
		deliver @both both
		@old rcpt_domain old.test
		deliver @old old
	}`, old.Addr, modern.Addr))
	k := greet(t, h.addr("out"))
	for _, to := range []string{"für@both.test", "für@old.test", "x@both.test"} {
		k.say("250", "MAIL FROM:<alice@example.test> SMTPUTF8")
		k.say("250", "RCPT TO:<%s>", to)
		k.say("354", "DATA")
		k.say("250", "Subject: x\r\n\r\nhello\r\n.")
	}
	wait(t, "two messages", func() bool { return len(modern.Messages()) == 1 && len(old.Messages()) == 1 })
	if m := modern.Messages()[0]; m.Recipients[0] != "für@both.test" {
		t.Errorf("got %q", m.Recipients)
	}
	contains(t, h.inbox("alice", 1)[0], "Action: failed", "Status: 5.6.7", "für@old.test", "next hop does not support SMTPUTF8")
}

// TestMXIsUs: a domain whose best host is this one by another name is not asked to
// take its mail from us, and the mail does not go in circles.
func TestMXIsUs(t *testing.T) {
	h := newHost(t)
	_, port, _ := net.SplitHostPort(h.addr("mx"))
	zone := &dnstest.Zone{
		Host: map[string][]string{"alias.test": {"127.0.0.1"}},
		MX:   map[string][]net.MX{"circle.test": {{Host: "alias.test", Pref: 10}}},
	}
	h.load("resolver " + dnstest.Serve(t, zone) + local + fmt.Sprintf(`
	server out ADDR(out) {
		tls off
		relay {
			port %s
			trust 127.0.0.1
		}
	}`, port))
	greet(t, h.addr("out")).send("alice@example.test", "x@circle.test", "round and round")
	contains(t, h.inbox("alice", 1)[0], "Action: failed", "Status: 5.4.6")
}

// TestStoreByTLS: who exists, and the mail itself, go to a mail store by TLS.
func TestStoreByTLS(t *testing.T) {
	cert, _ := clienttest.Certificate(t, "store.test")
	store := clienttest.Start(t, clienttest.Options{LMTP: true, TLS: cert}, clienttest.Rule{At: "RCPT TO:<nobody@", Reply: "550 5.1.1 unknown"})
	h := newHost(t)
	h.load(fmt.Sprintf(`server mx ADDR(mx) {
		tls off
		@ours rcpt_domain example.test
		deliver @ours lmtp %s {
			tls required
			insecure_skip_verify
		}
	}`, store.Addr))
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	k.say("550 5.1.1", "RCPT TO:<nobody@example.test>")
	k.say("250", "RSET")
	k.send("a@b.test", "alice@example.test", "by TLS")
	wait(t, "the message", func() bool { return len(store.Messages()) == 1 })
	if m := store.Messages()[0]; !m.TLS || m.Recipients[0] != "alice@example.test" {
		t.Errorf("got %+v", m)
	}
}
