package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
)

// extended is a server that offers all there is to clients of this host, and one
// to which they are strangers.
const extended = `
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}
	agent full relay %s {
		tls off
	}
	server mx ADDR(mx) {
		tls internal
		mt_priority MIXER {
			max 6
		}
		vrfy on
		expn on
		help "ask alice"
		rrvs inline {
			alice@example.test 2015-03-04
			bob@example.test 2024-04-04
		}
		aliases inline {
			team@example.test alice@example.test bob@example.test
		}
		@local rcpt_domain example.test
		deliver @local local {
			users inline {
				alice@example.test
				bob@example.test
			}
		}
		@full rcpt_domain full.test
		relay @full {
			agent full
			trust 127.0.0.1
		}
		relay %s {
			trust 127.0.0.1
			tls off
			tunnel_priority
		}
	}
	server strangers ADDR(strangers) {
		tls internal
		vrfy on
		expn authenticated
		deliver_by off
		deliver local {
			users inline {
				alice@example.test
			}
		}
	}
`

// TestExtensions: what is asked for with a message goes with it to hosts that
// know of such things, and comes to what the RFCs have where they do not.
func TestExtensions(t *testing.T) {
	full := clienttest.Start(t, clienttest.Options{Extensions: []string{"DSN", "DELIVERBY 60", "MT-PRIORITY", "RRVS", "AUTH PLAIN"}})
	plain := clienttest.Start(t, clienttest.Options{Extensions: []string{"PIPELINING"}})
	h := newHost(t)
	h.load(fmt.Sprintf(extended, full.Addr, plain.Addr))
	k := dial(t, h.addr("mx"))
	k.want("220")
	contains(t, k.say("250", "EHLO client.test"), "250-MT-PRIORITY MIXER\r\n", "250-DELIVERBY\r\n", "250-RRVS\r\n", "250-EXPN\r\n", "250-HELP\r\n")

	send := func(params, to string) {
		t.Helper()
		k.say("250", "MAIL FROM:<alice@example.test> %s", params)
		k.say("250", "RCPT TO:<%s", to)
		k.say("354", "DATA")
		k.say("250", "Subject: x\r\n\r\nhello\r\n.")
	}
	send("BY=3600;R MT-PRIORITY=5 AUTH=alice@example.test", "x@full.test> RRVS=2024-01-01T00:00:00Z;R")
	wait(t, "the first message", func() bool { return len(full.Messages()) == 1 })
	m := full.Messages()[0]
	if !strings.Contains(m.Mail, ";R MT-PRIORITY=5 AUTH=alice@example.test") || !strings.Contains(m.Mail, " BY=3") || m.Rcpt[0] != "<x@full.test> RRVS=2024-01-01T00:00:00Z;R" {
		t.Errorf("got %s %q", m.Mail, m.Rcpt)
	}
	contains(t, string(m.Content), "PRIORITY 5;")

	send("BY=3600;NT", "x@full.test>")
	dsns := h.inbox("alice", 1)
	contains(t, dsns[0], "Action: relayed", "Deliver-By-Date: ", "Final-Recipient: rfc822;x@full.test")

	send("BY=3600;R", "y@plain.test>")
	var failed string
	for _, d := range h.inbox("alice", 2) {
		if strings.Contains(d, "y@plain.test") {
			failed = d
		}
	}
	contains(t, failed, "Action: failed", "Status: 5.4.7", "does not support DELIVERBY")
	if n := len(plain.Messages()); n != 0 {
		t.Errorf("%d messages went where nobody keeps the time", n)
	}

	send("MT-PRIORITY=-2", "y@plain.test> RRVS=2024-01-01T00:00:00Z")
	wait(t, "a message with fields", func() bool { return len(plain.Messages()) == 1 })
	m = plain.Messages()[0]
	contains(t, string(m.Content), "\r\nMT-Priority: -2\r\n", "Require-Recipient-Valid-Since: y@plain.test; Mon, 1 Jan 2024 00:00:00 +0000\r\n")

	full.Set(clienttest.Rule{At: "MAIL", Reply: "451 4.3.2 busy"})
	send("BY=3600;R MT-PRIORITY=-2", "z@full.test>")
	var list []struct {
		ID        string    `json:"id"`
		Priority  int       `json:"priority"`
		DeliverBy time.Time `json:"deliver_by"`
		Returned  bool      `json:"returned"`
	}
	wait(t, "a message that waits", func() bool {
		list = nil
		h.get("/smtp/queue?recipient=z@full.test", &list)
		return len(list) == 1 && len(full.Commands()) > 0
	})
	if e := list[0]; e.Priority != -2 || !e.Returned || time.Until(e.DeliverBy) > time.Hour || time.Until(e.DeliverBy) < 50*time.Minute {
		t.Errorf("got %+v", e)
	}
	h.load(fmt.Sprintf(extended, full.Addr, plain.Addr)) // the session ends
	full.Set()
	wait(t, "a second attempt", func() bool {
		h.post("/smtp/queue/" + list[0].ID + "/retry")
		return len(full.Messages()) == 3
	})
	if m := full.Messages()[2]; !strings.Contains(m.Mail, ";R MT-PRIORITY=-2") {
		t.Errorf("got %s", m.Mail)
	}
	k = greet(t, h.addr("mx"))
	k.say("250 2.3.6 6 ", "MAIL FROM:<alice@example.test> MT-PRIORITY=9")
	k.say("550 5.7.17", "RCPT TO:<bob@example.test> RRVS=2024-01-01T00:00:00Z")
	k.say("250", "RCPT TO:<alice@example.test> RRVS=2024-01-01T00:00:00Z")
	k.say("550 5.7.19", "RCPT TO:<team@example.test> RRVS=2024-01-01T00:00:00Z")
	k.say("354", "DATA")
	k.say("550 5.7.17", "Require-Recipient-Valid-Since: alice@example.test; Mon, 1 Jan 2001 00:00:00 +0000\r\n\r\n.")
}

// TestInquiries: what clients of ours hear of mailboxes, and strangers do not.
func TestInquiries(t *testing.T) {
	sink := newSink(t)
	h := newHost(t)
	h.load(fmt.Sprintf(extended, sink.addr, sink.addr))
	k := greet(t, h.addr("mx"))
	k.say("250 2.1.5 <alice@example.test>", "VRFY alice@example.test")
	k.say("550 5.1.1", "VRFY nobody@example.test")
	k.say("252 2.1.5", "VRFY who@full.test")
	contains(t, k.say("250", "EXPN team@example.test"), "250-2.1.5 <alice@example.test>\r\n250 2.1.5 <bob@example.test>")
	k.say("550 5.2.4", "EXPN alice@example.test")
	k.say("214 2.0.0 ask alice", "HELP VRFY")
	k.say("250", "NOOP whatever")

	k = dial(t, h.addr("strangers"))
	k.want("220")
	if r := k.say("250", "EHLO client.test"); strings.Contains(r, "EXPN") || strings.Contains(r, "DELIVERBY") || strings.Contains(r, "MT-PRIORITY") || strings.Contains(r, "RRVS") {
		t.Errorf("got %s", r)
	}
	if a, b := k.say("252", "VRFY alice@example.test"), k.say("252", "VRFY nobody@example.test"); a != b {
		t.Errorf("got %q and %q", a, b)
	}
	k.say("502", "EXPN alice@example.test")
	for _, param := range []string{"BY=60;R", "MT-PRIORITY=0"} {
		k.say("555 5.5.4", "MAIL FROM:<s@elsewhere.test> %s", param)
	}
	k.say("250", "MAIL FROM:<s@elsewhere.test>")
	k.say("555 5.5.4", "RCPT TO:<alice@example.test> RRVS=2024-01-01T00:00:00Z")
}

// TestExtensionsThatCannotBe are errors, with what is wrong.
func TestExtensionsThatCannotBe(t *testing.T) {
	h := newHost(t)
	for option, want := range map[string]string{
		"mt_priority {\n max 10\n}":                "'10' is no priority",
		"mt_priority {\n min 5\n max 1\n}":         "min is above max",
		"mt_priority \"no name\"":                  "policy",
		"mt_priority {\n max_size 1 0\n}":          "take no message",
		"mt_priority a b":                          "wrong argument count",
		"mt_priority {\n highest 3\n}":             "unrecognized option 'highest'",
		"vrfy yes":                                 "none of off, authenticated, on",
		"expn":                                     "wrong argument count",
		"deliver_by never":                         "never",
		"deliver_by 40000d":                        "RFC 2852",
		"mt_priority\n mt_priority MIXER":          "twice",
		"rrvs inline {\n a@b.test 2024\n} nothing": "",
	} {
		err := h.try(strings.Replace(local, "tls internal", "tls internal\n"+option, 1), "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", option, err, want)
		}
	}
}
