package tests

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withUsers is a submission server beside local, with the agents it names.
const withUsers = local + `
	server submission ADDR(submission) {
		listen_tls ADDR(submissions)
		tls internal
		auth {
			inline {
				alice@example.test $2a$04$0JlfMz3Z819idSiDbcUqguRDVxSeueOrPfGB8HIF0dntX1m7yecAO
			}
		}
		%s
	}
`

// quickstart runs examples/quickstart.caddyfile on ports of this test.
func quickstart(t *testing.T, env map[string]string) *host {
	t.Helper()
	text, err := os.ReadFile("../examples/quickstart.caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	t.Setenv("MAIL_ROOT", h.dir+"/mail")
	for k, v := range env {
		t.Setenv(k, v)
	}
	s := string(text)
	for _, p := range []string{"2525", "2587", "2465"} {
		s = strings.ReplaceAll(s, "127.0.0.1:"+p, h.addr(p))
	}
	s = strings.Replace(s, "skip_install_trust", "skip_install_trust\n\tpersist_config off\n\tadmin "+h.admin+"\n\tstorage file_system "+h.dir+"/storage\n\tlog {\n\t\tlevel ERROR\n\t}", 1)
	cfg, err := adapt(t, s)
	if err != nil {
		t.Fatal(err)
	}
	loadJSON(t, cfg)
	return h
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// TestQuickstart: what the README promises of it.
func TestQuickstart(t *testing.T) {
	h := quickstart(t, nil)
	mx := greet(t, h.addr("2525"))
	mx.say("250", "MAIL FROM:<stranger@elsewhere.test>")
	mx.say("550", "RCPT TO:<someone@elsewhere.test>")
	mx.say("250", "RSET")
	mx.send("stranger@elsewhere.test", "alice@example.test", "to alice")
	mx.send("stranger@elsewhere.test", "whoever@example.test", "to the catch-all")
	got := strings.Join(h.inbox("alice", 2), "\n")
	contains(t, got, "to alice", "to the catch-all", "Return-Path: <stranger@elsewhere.test>", "Received: from client.test")

	sub := greet(t, h.addr("2587"))
	sub.say("538", "AUTH PLAIN %s", plain("alice@example.test", "quickstart"))
	sub.say("530", "MAIL FROM:<alice@example.test>")
	sub.starttls(insecure("mx.example.test"))
	contains(t, sub.say("250", "EHLO client.test"), "AUTH", "PLAIN")
	sub.say("535", "AUTH PLAIN %s", plain("alice@example.test", "wrong"))
	sub.say("235", "AUTH PLAIN %s", plain("alice@example.test", "quickstart"))
	sub.send("alice@example.test", "someone@elsewhere.test", "to the world")
	outbox := filepath.Join(h.dir, "mail", "outbox")
	wait(t, "the outbox", func() bool { return len(mails(t, outbox)) == 1 })
	contains(t, mails(t, outbox)[0], "to the world", "with ESMTPSA")
	sub.send("alice@example.test", "alice@example.test", "to herself")
	h.inbox("alice", 3)
}

// TestQuickstartRelays where a smarthost is named.
func TestQuickstartRelays(t *testing.T) {
	to := newSink(t)
	h := quickstart(t, map[string]string{"RELAY_TO": to.addr})
	sub := greet(t, h.addr("2587"))
	sub.starttls(insecure("mx.example.test"))
	sub.say("250", "EHLO client.test")
	sub.say("235", "AUTH PLAIN %s", plain("alice@example.test", "quickstart"))
	sub.send("alice@example.test", "someone@elsewhere.test", "to the world")
	contains(t, to.next(t), "to the world")
}

// TestFailureDSN: a user hears of what could not be delivered, in the mailbox
// that the routes have for the user.
func TestFailureDSN(t *testing.T) {
	h := newHost(t)
	refusing := refusingServer(t)
	h.load(fmt.Sprintf(withUsers, `
		relay `+refusing+` {
			tls off
		}`))
	sub := greet(t, h.addr("submission"))
	sub.starttls(insecure("mx.example.test"))
	sub.say("250", "EHLO client.test")
	sub.say("235", "AUTH PLAIN %s", plain("alice@example.test", "quickstart"))
	sub.send("alice@example.test", "nobody@elsewhere.test", "lost")
	got := h.inbox("alice", 1)[0]
	contains(t, got, "multipart/report", "nobody@elsewhere.test", "Action: failed", "Status: 5.1.1", "Return-Path: <>", "no such user here")
}

// TestNoBackscatter: strangers are refused while they are there.
func TestNoBackscatter(t *testing.T) {
	h := newHost(t)
	h.load(local)
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<forged@victim.test>")
	k.say("550 5.1.1", "RCPT TO:<nobody@example.test>")
	k.say("550 5.7.1", "RCPT TO:<a@elsewhere.test>")
}

// TestUnknownRecipients is promise P16: however many addresses a stranger guesses, all
// are refused at RCPT, nothing is queued, and nobody is sent a DSN.
func TestUnknownRecipients(t *testing.T) {
	h := newHost(t)
	out := newSink(t)
	h.load(local + `
	server out ADDR(out) {
		tls off
		relay ` + out.addr + ` {
			tls off
		}
	}`)
	n := many(1000, 10_000)
	for i := 0; i < n; {
		k := greet(t, h.addr("mx"))
		k.say("250", "MAIL FROM:<forged@victim.test>")
		for range 4 { // a fifth error, and he has to wait
			k.say("550 5.1.1", "RCPT TO:<guess%d@example.test>", i)
			i++
		}
		k.say("554 5.5.1", "DATA")
		k.conn.Close()
	}
	if es := h.queue(""); len(es) > 0 || len(out.mail) > 0 {
		t.Errorf("%d messages are queued, %d sent", len(es), len(out.mail))
	}
}

// TestNeverAnOpenRelay: forms of addresses that have fooled others.
func TestNeverAnOpenRelay(t *testing.T) {
	h := newHost(t)
	h.load(fmt.Sprintf(strings.Replace(withUsers, "auth {", "auth {\n optional", 1), "relay 127.0.0.1:1"))
	for _, server := range []string{"mx", "submission"} {
		for _, form := range []string{
			"<victim@remote.test>", "<victim%remote.test@example.test>", "<remote.test!victim@example.test>",
			`<"victim@remote.test"@example.test>`, "<@example.test:victim@remote.test>", "<victim@remote.test@example.test>",
			"<victim@[127.0.0.1]>", "<victim@[IPv6:::1]>", "<victim@example.test.remote.test>", "<victim%remote.test>",
			"<victim@remote.test >", "<@example.test,@example.test:victim@remote.test>", `<"victim%remote.test">`,
			`<"victim"@remote.test>`, "<victim@REMOTE.test>", "<victim@remote.test.>", "<@remote.test:victim@example.test@remote.test>",
			"<victim=remote.test@example.test>", `<victim\@remote.test@example.test>`, "<victim@example.test%00.remote.test>", "<victim@[192.0.2.1]>",
			"<victim@localhost>", "<victim@127.0.0.1>", "victim@remote.test", "<>", "<victim@mx.example.test>",
		} {
			k := greet(t, h.addr(server))
			k.say("250", "MAIL FROM:<alice@example.test>")
			if r := k.say("5", "RCPT TO:%s", form); !strings.HasPrefix(r, "5") {
				t.Errorf("%s: RCPT TO:%s: %s", server, form, r)
			}
		}
	}
}

// TestTrustedNetwork may relay only where it is named.
func TestTrustedNetwork(t *testing.T) {
	h := newHost(t)
	to := newSink(t)
	const server = "server out ADDR(out) {\n tls off\n relay %s {\n tls off\n %s\n}\n}"
	h.load(fmt.Sprintf(server, to.addr, ""))
	k := greet(t, h.addr("out"))
	k.say("250", "MAIL FROM:<app@example.test>")
	k.say("550", "RCPT TO:<x@far.test>")
	h.load(fmt.Sprintf(server, to.addr, "trust 127.0.0.0/8"))
	greet(t, h.addr("out")).send("app@example.test", "x@far.test", "from an application")
	contains(t, to.next(t), "from an application")
}
