//go:build linux

package interop

import (
	"fmt"
	"net"
	netmail "net/mail"
	"os"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// gateway is a server that relays for this machine; what relay says comes
// behind the handler's name. Mail for our own users goes to their Maildirs.
func gateway(relay string) string {
	return boxes + `
	server out ADDR(out) {
		tls off` + local + `
		relay ` + relay + `
	}`
}

// failing returns the DSN that alice got of a message, once it is there.
func failing(t *testing.T, h *host, parts ...string) {
	t.Helper()
	wait(t, "the DSN", func() bool { return len(maildir(t, h.inbox("alice"))) > 0 })
	dsn := arrive(t, h.inbox("alice"), 1)[0]
	contains(t, dsn, append([]string{"Return-Path: <>", "multipart/report", "Action: failed"}, parts...)...)
	m, err := netmail.ReadMessage(strings.NewReader(dsn))
	if err != nil || m.Header.Get("Auto-Submitted") == "" {
		t.Errorf("%v:\n%s", err, dsn)
	}
	wait(t, "the queue to be empty", func() bool { return !strings.Contains(h.queued(), "far.test") })
}

// outage sends while the next hop is down, sees the message wait, and arrive
// when the next hop is back.
func outage(t *testing.T, h *host, down, up func(), box string) {
	t.Helper()
	down()
	send(t, h.addr("out"), login, "user@far.test", "while it was down")
	wait(t, "it to be queued", func() bool { return strings.Contains(h.queued(), "user@far.test") })
	up()
	got(t, box, "while it was down")
	wait(t, "the queue to be empty", func() bool { return !strings.Contains(h.queued(), "user@far.test") })
}

// TestPostfixBehind is a smarthost that demands verified TLS and a login.
func TestPostfixBehind(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	logins := newDovecot(t, h.addr("lmtp"))
	logins.start()
	cert, key := selfSigned(t, h.dir, "smarthost.test")
	to := newPostfix(t, h.addr("postfix"), append(receiving,
		"smtpd_tls_security_level = encrypt",
		"smtpd_tls_chain_files = "+key+" "+cert,
		"smtpd_tls_received_header = yes",
		"smtpd_sasl_auth_enable = yes",
		"smtpd_sasl_type = dovecot",
		"smtpd_sasl_path = unix:"+logins.dir+"/auth",
		"smtpd_sasl_authenticated_header = yes",
		"smtpd_tls_auth_only = yes",
		"smtpd_client_restrictions = permit_sasl_authenticated reject")...)
	to.start()
	dns := dnstest.Serve(t, &dnstest.Zone{Host: map[string][]string{"smarthost.test": {"127.0.0.1"}}})
	h.serve("resolver "+dns+"\n ca file "+cert+"\n"+gateway("smarthost.test:"+h.port("postfix")+` {
			trust 127.0.0.0/8
			tls required
			auth known@example.test secret
		}`), "out")

	send(t, h.addr("out"), login, "user@far.test", "to a smarthost")
	m := got(t, to.box("user"), "to a smarthost")
	contains(t, m.text, "Return-Path: <"+login+">", "from mx.example.test", "with ESMTPS", "Authenticated sender: known@example.test", "using TLSv1.3", "\n.dot\n")

	if err := trySend(h.addr("out"), login, []string{"user@far.test", "second@far.test"}, "to two"); err != nil {
		t.Fatal(err)
	}
	got(t, to.box("user"), "to two")
	got(t, to.box("second"), "to two")

	need(t, "smtp-source")
	run(t, "", "smtp-source", "-s", "10", "-m", "200", "-l", "5000", "-M", "source.test", "-f", login, "-t", "second@far.test", h.addr("out"))
	wait(t, "200 messages", func() bool { return len(maildir(t, to.box("second"))) >= 201 })
	accounted(t, to.box("second"), 201)

	outage(t, h, to.proc.stop, to.start, to.box("user"))

	// One of two is refused for good.
	if err := trySend(h.addr("out"), login, []string{"user@far.test", "unknown@far.test"}, "to one that is not"); err != nil {
		t.Fatal(err)
	}
	got(t, to.box("user"), "to one that is not")
	failing(t, h, "unknown@far.test", "Status: 5.1.1", "User unknown in virtual mailbox table", "to one that is not")
}

// TestPostfixMX: next hops are found in DNS, the first of them is down.
func TestPostfixMX(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	to := newPostfix(t, h.addr("postfix"), append(receiving, "smtpd_tls_security_level = none")...)
	zone := &dnstest.Zone{
		Host: map[string][]string{"mx1.far.test": {"127.0.0.2"}, "mx2.far.test": {"127.0.0.1"}},
		MX: map[string][]net.MX{
			"far.test":  {{Host: "mx1.far.test", Pref: 10}, {Host: "mx2.far.test", Pref: 20}},
			"null.test": {{Host: ".", Pref: 0}},
		},
	}
	h.serve("resolver "+dnstest.Serve(t, zone)+"\n"+gateway(`{
			trust 127.0.0.0/8
			port `+h.port("postfix")+`
			allow_loopback
		}`), "out")
	outage(t, h, func() {}, to.start, to.box("user"))
	contains(t, got(t, to.box("user"), "while it was down").text, "from mx.example.test", "for <user@far.test>")

	// RFC 7505: a domain that takes no mail.
	send(t, h.addr("out"), login, "someone@null.test", "to nobody")
	failing(t, h, "someone@null.test", "Status: 5.1.10")
	for _, p := range maildir(t, h.inbox("alice")) {
		os.Remove(p)
	}
	send(t, h.addr("out"), login, "someone@nowhere.test", "to no domain")
	failing(t, h, "someone@nowhere.test", "Status: 5.1.2")
}

// TestOpensmtpdBehind: its STARTTLS fails with Debian 12's package, after it
// was offered. What is opportunistic then goes without.
func TestOpensmtpdBehind(t *testing.T) {
	t.Parallel()
	for name, listen := range map[string]string{"without TLS": "", "TLS that fails": "tls pki here"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			to := newOpensmtpd(t, h.addr("opensmtpd"), listen)
			to.start()
			h.serve(gateway(to.addr+` {
			trust 127.0.0.0/8
			tls opportunistic
		}`), "out")
			send(t, h.addr("out"), login, "user@far.test", "to opensmtpd")
			m := got(t, to.box(), "to opensmtpd")
			contains(t, m.text, "Return-Path: <"+login+">", "from mx.example.test", "\n.dot\n")
			for i := range 5 {
				send(t, h.addr("out"), login, "user@far.test", fmt.Sprintf("one more %d", i))
			}
			for i := range 5 {
				got(t, to.box(), fmt.Sprintf("one more %d", i))
			}
			outage(t, h, to.proc.stop, to.start, to.box())
			send(t, h.addr("out"), login, "unknown@far.test", "to one that is not")
			failing(t, h, "unknown@far.test", "Status: 5.2.4", "524 5.2.4 Mailing list expansion problem")
		})
	}
}
