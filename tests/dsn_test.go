package tests

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/dsn"
)

// failing is local, and a relay for clients on this host that gets nothing
// delivered.
func failing(t *testing.T, queue string) string {
	return local + fmt.Sprintf(`
	queue DIR/queue {
		%s
	}
	server out ADDR(out) {
		tls off
		relay %s {
			tls off
			trust 127.0.0.1
		}
	}`, queue, refusingServer(t))
}

// put writes a file of the host's by renaming.
func (h *host) put(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// fail sends a message that is not delivered.
func (k *talker) fail(from, header, body string) {
	k.t.Helper()
	k.say("250", "MAIL FROM:<%s>", from)
	k.say("250", "RCPT TO:<nobody@elsewhere.test>")
	k.say("354", "DATA")
	k.say("250", "From: <%s>\r\n%s\r\n%s\r\n.", from, header, body)
}

// A notice is a DSN as a mail program reads it.
type notice struct {
	netmail.Header
	text  string
	types []string // of the parts
	last  string   // the last one
}

func readNotice(t *testing.T, raw string) (n notice) {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	n.Header = m.Header
	typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" {
		t.Fatalf("%s, %v:\n%s", typ, err, raw)
	}
	for mr := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
		var r io.Reader = p
		if p.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
			r = quotedprintable.NewReader(p)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if n.types = append(n.types, p.Header.Get("Content-Type")); len(n.types) == 1 {
			n.text = strings.ReplaceAll(string(b), "\r\n", "\n") // a Maildir has LF for the one, and not within an encoding
		}
		n.last = string(b)
	}
}

func (n notice) subject(t *testing.T) string {
	t.Helper()
	s, err := new(mime.WordDecoder).DecodeHeader(n.Get("Subject"))
	if err != nil {
		t.Error(err)
	}
	return s
}

// TestDSNTemplate: one's own text, by the sender's language, in force as soon as
// its file is.
func TestDSNTemplate(t *testing.T) {
	h := newHost(t)
	h.put("dsn.txt", "{{range .Failed}}Sorry about {{.Address}}: {{.Reply}}{{end}}.\n")
	de := h.put("dsn.de.txt", `{{define "subject"}}Nicht zugestellt: {{.Subject}}{{end}}Schöne Grüße.`+"\n--x\n\nContent-Type: text/html\n"+strings.Repeat("ä", 3000))
	h.load(failing(t, `dsn_template DIR/dsn.txt
		dsn_template de DIR/dsn.de.txt`))
	k := greet(t, h.addr("out"))
	k.fail("alice@example.test", "Subject: one\r\n", "x")
	n := readNotice(t, h.inbox("alice", 1)[0])
	if n.text != "Sorry about nobody@elsewhere.test: 550 5.1.1 no such user here.\n" || n.types[0] != "text/plain; charset=us-ascii" ||
		n.subject(t) != "Your message could not be delivered" || len(n.types) != 3 {
		t.Errorf("got %+v", n)
	}
	k.fail("bob@example.test", "Subject: =?utf-8?q?=C3=A4=0D=0ABcc:_x?=\r\nAccept-Language: de-DE, en-US\r\n", "x")
	n = readNotice(t, h.inbox("bob", 1)[0])
	if !strings.HasPrefix(n.text, "Schöne Grüße.\n--x\n\nContent-Type: text/html\nää") || n.types[0] != "text/plain; charset=utf-8" ||
		n.subject(t) != "Nicht zugestellt: ä Bcc: x" || n.Get("Bcc") != "" || n.Get("Content-Language") != "de" || len(n.types) != 3 {
		t.Errorf("got %+v", n)
	}
	h.put("dsn.de.txt", "{{nonsense}}")
	time.Sleep(1100 * time.Millisecond) // which is when the file is looked at again
	k.fail("bob@example.test", "Content-Language: de\r\n", "x")
	h.inbox("bob", 2)
	h.put("dsn.de.txt", "Neu.\n")
	time.Sleep(1100 * time.Millisecond)
	k.fail("bob@example.test", "Content-Language: de\r\n", "x")
	var old, neu int
	for _, m := range h.inbox("bob", 3) {
		switch text := readNotice(t, m).text; {
		case strings.HasPrefix(text, "Schöne"):
			old++
		case text == "Neu.\n":
			neu++
		}
	}
	if old != 2 || neu != 1 {
		t.Errorf("%d texts from %s as it was, %d as it is", old, de, neu)
	}
}

// TestDSNOptions: what is wrong is said at load, with the place.
func TestDSNOptions(t *testing.T) {
	h := newHost(t)
	h.put("bad.txt", "fine\n{{if}}\n")
	h.put("field.txt", "fine\n\n{{.Recipient}}\n")
	h.put("empty.txt", "{{range .Failed}}x{{end}}")
	h.put("good.txt", "fine\n")
	for option, want := range map[string]string{
		"dsn_template DIR/bad.txt":                                   "/bad.txt:2: ",
		"dsn_template DIR/field.txt":                                 "/field.txt:3:2: ",
		"dsn_template DIR/empty.txt":                                 "/empty.txt: no text",
		"dsn_template DIR/none.txt":                                  "/none.txt: no such file",
		"dsn_template klingon! DIR/good.txt":                         "'klingon!' is not a language tag",
		"dsn_template de DIR/good.txt\ndsn_template de DIR/good.txt": "language de stands twice",
		"dsn_template DIR/good.txt\ndsn_template DIR/good.txt":       "two files have no language",
		"dsn_template":                                               "Caddyfile:",
		"dsn_template a b c":                                         "Caddyfile:",
		"dsn_content much":                                           "'much' is not a size",
		"dsn_content 2MiB":                                           "dsn_content is more than 1048576 octets",
		"double_failure someone":                                     "double_failure is drop, postmaster or an address",
	} {
		err := h.try("queue DIR/queue {\n"+option+"\n}", "")
		if want == "Caddyfile:" && (err == nil || !strings.Contains(err.Error(), "Caddyfile:")) || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", option, err)
		}
	}
}

// TestDSNContent: how much of a message its sender gets back.
func TestDSNContent(t *testing.T) {
	h := newHost(t)
	for i, tc := range []struct {
		option, mail string
		size         int
		typ          string
	}{
		{"", "", 20_000, "message/rfc822"},
		{"", "", 60_000, "text/rfc822-headers"},
		{"", " RET=HDRS", 100, "text/rfc822-headers"},
		{"dsn_content 100KiB", " RET=FULL", 60_000, "message/rfc822"},
		{"dsn_content 1KB", " RET=FULL", 2_000, "text/rfc822-headers"},
		{"dsn_content off", " RET=FULL", 100, "text/rfc822-headers"},
	} {
		h.load(failing(t, tc.option))
		k := greet(t, h.addr("out"))
		k.say("250", "MAIL FROM:<alice@example.test>%s", tc.mail)
		k.say("250", "RCPT TO:<nobody@elsewhere.test>")
		k.say("354", "DATA")
		k.say("250", "Subject: %d\r\n\r\n%s.", i, strings.Repeat("0123456789\r\n", tc.size/12))
		k.say("221", "QUIT")
		found := false
		for _, m := range h.inbox("alice", i+1) {
			n := readNotice(t, m)
			if !strings.Contains(n.last, fmt.Sprintf("Subject: %d\n", i)) {
				continue
			}
			found = true
			if !strings.HasPrefix(n.types[2], tc.typ) || strings.Contains(n.last, "0123456789") != (tc.typ == "message/rfc822") {
				t.Errorf("%+v: got %s", tc, n.types[2])
			}
		}
		if !found {
			t.Errorf("%+v: no DSN", tc)
		}
	}
}

// TestDoubleFailure: what cannot be told its sender is dropped, or told whom the
// configuration names, who is not told that this has failed.
func TestDoubleFailure(t *testing.T) {
	h := newHost(t)
	empty := func() { wait(t, "an empty queue", func() bool { return len(h.queue("")) == 0 }) }
	fail := func(from string) {
		k := greet(t, h.addr("out"))
		k.fail(from, "Subject: lost\r\n", "x")
		k.say("221", "QUIT")
		empty()
	}
	count := func(all int) (toSender int) {
		for _, m := range h.inbox("alice", all) {
			if readNotice(t, m).subject(t) == "Your message could not be delivered" {
				toSender++
			}
		}
		return toSender
	}
	box := h.dir + "/mail/example.test/alice"
	for _, option := range []string{"", "double_failure drop", "double_failure nobody@elsewhere.test"} {
		h.load(failing(t, option))
		fail("")
		fail("nobody@elsewhere.test") // to whom the DSN is refused as well
		if got := mails(t, box); len(got) != 0 {
			t.Fatalf("%s: got %q", option, got)
		}
	}
	h.load("postmaster alice@example.test\n" + failing(t, "double_failure postmaster"))
	fail("")
	n := readNotice(t, h.inbox("alice", 1)[0])
	contains(t, n.text, `The message "lost" could not be delivered`, "like all notifications", "nobody@elsewhere.test")
	if n.subject(t) != "Undeliverable mail that nobody else hears of" || n.types[2] != "message/rfc822" {
		t.Errorf("got %+v", n)
	}
	fail("nobody@elsewhere.test")
	if got := count(2); got != 0 {
		t.Errorf("%d of 2 DSNs are to a sender", got)
	}
	// Nobody is told twice: the DSN of the DSN ends there.
	h.load("postmaster nobody@elsewhere.test\n" + failing(t, "double_failure postmaster"))
	fail("")
	fail("alice@example.test")
	if got := count(3); got != 1 {
		t.Errorf("%d of 3 DSNs are to a sender", got)
	}
}

// TestDSNDocs: the template that docs/dsn.md shows is one.
func TestDSNDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/dsn.md")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(text)) {
		if l, ok := strings.CutPrefix(line, "    "); ok {
			b.WriteString(l)
		}
	}
	if _, err := dsn.ParseTemplate("docs/dsn.md", b.String()); err != nil {
		t.Error(err)
	}
}

// TestExpanded: of an address that leads to several the sender hears once, that it
// does, and of none of those that it was delivered; of an alias for one, that it was.
func TestExpanded(t *testing.T) {
	next := clienttest.Start(t, clienttest.Options{})
	h := newHost(t)
	h.load(fmt.Sprintf(`
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
		create
	}
	server mx ADDR(mx) {
		tls off
		aliases inline {
			team@example.test bob@example.test carol@example.test far@elsewhere.test
			one@example.test  dave@example.test
		}
		@local rcpt_domain example.test
		deliver @local local
		relay %s {
			tls off
		}
	}`, next.Addr))
	k := greet(t, h.addr("mx"))
	told := 0
	for notify, want := range map[string]struct {
		rcpt, passed string
		dsns         []string
	}{
		"SUCCESS":         {"team", "NEVER", []string{"Action: expanded"}},
		"SUCCESS,FAILURE": {"team", "FAILURE", []string{"Action: expanded"}},
		"FAILURE":         {"team", "FAILURE", nil},
		"SUCCESS,DELAY":   {"one", "", []string{"Action: delivered"}},
	} {
		before := len(next.Messages())
		k.say("250", "MAIL FROM:<alice@example.test> RET=HDRS ENVID=%s", strings.ReplaceAll(notify, ",", "."))
		k.say("250", "RCPT TO:<%s@example.test> NOTIFY=%s ORCPT=rfc822;The.List@old.test", want.rcpt, notify)
		k.say("354", "DATA")
		k.say("250", "Subject: x\r\n\r\nhello\r\n.")
		wait(t, "an empty queue", func() bool { return len(h.queue("")) == 0 })
		if want.passed != "" {
			m := next.Messages()
			if len(m) != before+1 || m[before].Rcpt[0] != "<far@elsewhere.test> NOTIFY="+want.passed+" ORCPT=rfc822;The.List@old.test" {
				t.Errorf("%s: got %+v", notify, m)
			}
		}
		told += len(want.dsns)
		if told == 0 {
			continue
		}
		var got []string
		for _, m := range h.inbox("alice", told) {
			if strings.Contains(m, "Original-Envelope-Id: "+strings.ReplaceAll(notify, ",", ".")+"\n") {
				got = append(got, m)
			}
		}
		if len(got) != len(want.dsns) {
			t.Errorf("%s: %d DSNs, want %d", notify, len(got), len(want.dsns))
		}
		for i, m := range got {
			contains(t, m, want.dsns[i], "Final-Recipient: rfc822;"+want.rcpt+"@example.test", "Original-Recipient: rfc822;The.List@old.test", "text/rfc822-headers")
			if strings.Count(m, "Final-Recipient") != 1 || strings.Contains(m, "carol") || strings.Contains(m, "dave") {
				t.Errorf("%s: got %s", notify, m)
			}
		}
	}
}

// TestWhoMayAsk: strangers, whose sender may be forged, are not offered DSN where
// the configuration says so.
func TestWhoMayAsk(t *testing.T) {
	h := newHost(t)
	for _, tc := range []struct {
		option          string
		trusted, offers bool
	}{{"", false, true}, {"dsn on", false, true}, {"dsn trusted", false, false}, {"dsn trusted", true, true}, {"dsn off", true, false}} {
		server := strings.Replace(local, "tls internal", "tls internal\n"+tc.option, 1)
		if tc.trusted {
			server = strings.Replace(server, "@local", "relay 127.0.0.1:1 {\ntrust 127.0.0.1\n}\n@local", 1)
		}
		h.load(server)
		k := dial(t, h.addr("mx"))
		k.want("220")
		if got := strings.Contains(k.say("250", "EHLO client.test"), "250-DSN\r\n"); got != tc.offers {
			t.Errorf("%+v: offered: %t", tc, got)
		}
		want := map[bool]string{true: "250", false: "555 5.5.4"}[tc.offers]
		k.say(want, "MAIL FROM:<a@b.test> RET=HDRS")
		k.say("250", "RSET")
		k.say(want, "MAIL FROM:<a@b.test> ENVID=x")
		k.say("250", "RSET")
		k.say("250", "MAIL FROM:<a@b.test>")
		k.say(want, "RCPT TO:<alice@example.test> NOTIFY=SUCCESS")
		k.say(want, "RCPT TO:<bob@example.test> ORCPT=rfc822;x@y.test")
		k.say("221", "QUIT")
	}
	if err := h.try(strings.Replace(local, "tls internal", "dsn perhaps", 1), ""); err == nil || !strings.Contains(err.Error(), "'perhaps' is none of off, trusted, on, at Caddyfile:") {
		t.Errorf("got %v", err)
	}
}

// TestDSNRoute: a DSN takes the way that the server has which took the message, then
// that of one that knows whom it delivers to, and not to a server that takes mail for
// anybody, whatever it is called.
func TestDSNRoute(t *testing.T) {
	smart := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RCPT TO:<nobody@", Reply: "550 5.1.1 unknown"})
	h := newHost(t)
	h.load(local + fmt.Sprintf(`
	agent all maildir DIR/all {
		create
	}
	agent smart relay %s {
		tls off
	}
	server archive ADDR(archive) {
		tls off
		deliver all
	}
	server guarded ADDR(guarded) {
		tls off
		@elsewhere rcpt_domain elsewhere.test
		deliver @elsewhere smart
	}
	server out ADDR(out) {
		tls off
		relay {
			agent smart
			trust 127.0.0.1
		}
	}
	server whole ADDR(whole) {
		tls off
		@elsewhere rcpt_domain elsewhere.test
		deliver @elsewhere smart
		deliver all
	}`, smart.Addr))
	swallowed := func() []string { return mails(t, filepath.Join(h.dir, "all")) }

	greet(t, h.addr("out")).fail("alice@example.test", "", "to a mailbox here")
	h.inbox("alice", 1)
	greet(t, h.addr("out")).fail("x@world.test", "", "out as it came")
	wait(t, "a DSN", func() bool { return len(smart.Messages()) == 1 })
	greet(t, h.addr("guarded")).fail("y@world.test", "", "by the server that sends to the world")
	wait(t, "a DSN", func() bool { return len(smart.Messages()) == 2 })
	for i, to := range []string{"x@world.test", "y@world.test"} {
		if m := smart.Messages()[i]; m.Recipients[0] != to || !strings.HasPrefix(m.Mail, "<> ") {
			t.Errorf("got %s to %s", m.Mail, m.Recipients)
		}
	}
	if all := swallowed(); len(all) != 0 {
		t.Errorf("the archive has got\n%s", all)
	}
	greet(t, h.addr("whole")).fail("z@world.test", "", "where all goes that this server takes")
	wait(t, "a DSN", func() bool { return len(swallowed()) == 1 })
}
