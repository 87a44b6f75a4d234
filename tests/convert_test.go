package tests

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// TestEncodedBeforeSigned: what encode_7bit makes of a message is what is signed,
// and what a next hop without 8BITMIME gets, which needs nothing converted any
// more. The message is big enough to be spooled, twice.
func TestEncodedBeforeSigned(t *testing.T) {
	zone := &dnstest.Zone{TXT: map[string][]string{}, TTL: time.Second}
	h := newHost(t)
	hop := newSink(t) // says nothing of 8BITMIME
	cfg := fmt.Sprintf(signing, dnstest.Serve(t, zone), hop.addr)
	h.load(strings.Replace(cfg, "header Subject", "encode_7bit\n\t\theader Subject", 1))
	k := h.alice()
	for _, to := range []string{"bob@example.test", "carol@far.test"} {
		text := "From: Älice <alice@example.test>\r\nSubject: hello\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + strings.Repeat("für alle\r\n", 10_000) + "\x01\r"
		k.say("250", "MAIL FROM:<alice@example.test> BODY=BINARYMIME SMTPUTF8")
		k.say("250", "RCPT TO:<%s>", to)
		k.say("250", "BDAT %d LAST\r\n%s", len(text), strings.TrimSuffix(text, "\r"))
		k.want("500") // the line feed that say adds
	}
	local, relayed := h.inbox("bob", 1)[0], hop.next(t)
	publish(zone, h.keys("example.test", false))
	for _, text := range []string{local, "\n" + strings.TrimSuffix(relayed, ".\r\n")} {
		if strings.ContainsFunc(text, func(r rune) bool { return r > '~' }) {
			t.Error("not 7-bit")
		}
		contains(t, text, "From: =?utf-8?q?=C3=84lice?= <alice@example.test>", "Content-Transfer-Encoding: quoted-printable", "f=C3=BCr alle", "=01=0D=")
		if got := signatures(t, zone, text); len(strings.Fields(got)) != 2 {
			t.Errorf("signed with %q", got)
		}
	}
	wait(t, "the queue's folder to be empty", func() bool {
		left, err := os.ReadDir(filepath.Join(h.dir, "queue", "content"))
		return err == nil && len(left) == 0
	})
}

// TestBinaryRelayed: content of any octets goes from server to server by BDAT as it
// is, small and spooled, and is converted for who does not take it.
func TestBinaryRelayed(t *testing.T) {
	h := newHost(t)
	hop := newSink(t) // knows no extension
	h.load(fmt.Sprintf(`
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
		create
	}
	agent second relay ADDR(second) {
		tls off
	}
	agent plain relay %s {
		tls off
	}
	server first ADDR(first) {
		tls off
		@plain rcpt_domain plain.test
		relay @plain {
			agent plain
			trust 127.0.0.0/8
		}
		relay {
			agent second
			trust 127.0.0.0/8
		}
	}
	server second ADDR(second) {
		tls off
		deliver local
	}`, hop.addr))
	for name, body := range map[string]string{"small": "\x00\r\n.\r\n\xff\n\r.\n", "big": strings.Repeat("\x00\r\n.\r\n\xff\n\r", 100_000) + "x"} {
		k := greet(t, h.addr("first"))
		text := "Subject: " + name + "\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n" + body
		k.say("250", "MAIL FROM:<a@b.test> BODY=BINARYMIME")
		k.say("250", "RCPT TO:<%s@example.test>", name)
		k.say("250", "RCPT TO:<%s@plain.test>", name)
		k.say("503", "DATA")
		fmt.Fprintf(k.conn, "BDAT %d\r\n%sBDAT %d LAST\r\n%s", 10, text[:10], len(text)-10, text[10:])
		k.want("250")
		k.want("250")
		_, stored, _ := strings.Cut(h.inbox(name, 1)[0], "\n\n")
		if b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(stored, "\n", "")); err != nil || string(b) != body {
			t.Errorf("%s: stored it is another: %v", name, err)
		}
		_, got, _ := strings.Cut(strings.TrimSuffix(hop.next(t), ".\r\n"), "\r\n\r\n")
		b, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(got, "\r\n", ""))
		if err != nil || string(b) != body {
			t.Errorf("%s: converted it is another: %v", name, err)
		}
	}
}
