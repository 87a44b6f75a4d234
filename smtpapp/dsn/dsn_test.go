package dsn

import (
	"bufio"
	"bytes"
	"errors"
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

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

var (
	arrived = time.Date(2026, 1, 5, 10, 0, 0, 0, time.UTC)
	tried   = arrived.Add(time.Hour)
	until   = arrived.Add(120 * time.Hour)
)

const original = "From: alice@a.test\r\nMessage-ID: <1@a.test>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nhello\r\n"

func addr(t *testing.T, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func parsed(t *testing.T, content string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// report is about bob, whose mailbox does not exist.
func report(t *testing.T) Report {
	return Report{
		Hostname: "mx.a.test",
		Envelope: &mail.Envelope{From: addr(t, "alice@a.test"), ID: "QQ314159"},
		Content:  parsed(t, original),
		Arrived:  arrived,
		Recipients: []Recipient{{
			Recipient:   &mail.Recipient{Address: addr(t, "bob@b.test"), Original: "rfc822;Bob@b.test"},
			Action:      Failed,
			Reply:       mail.Refuse(550, "5.1.1", "no such\nmailbox"),
			RemoteMTA:   "mx.b.test",
			LastAttempt: tried,
		}},
	}
}

// part is a part of a notification, decoded.
type part struct{ typ, encoding, body string }

// build builds a notification, checks what holds of all of them, and takes it
// apart with other code than ours.
func build(t *testing.T, r Report) (o *message.Object, h netmail.Header, parts []part) {
	t.Helper()
	o, err := Build(r)
	if err != nil {
		t.Fatal(err)
	}
	checkEnvelope(t, r, o)
	in, err := o.Content.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	checkLines(t, raw, o.Envelope.UTF8)
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	typ, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || typ != "multipart/report" {
		t.Fatalf("%s, %v", typ, err)
	}
	mr := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			return o, m.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, decode(t, p))
	}
}

func decode(t *testing.T, p *multipart.Part) part {
	t.Helper()
	enc := p.Header.Get("Content-Transfer-Encoding")
	var r io.Reader = p
	if enc == "quoted-printable" {
		r = quotedprintable.NewReader(p)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return part{p.Header.Get("Content-Type"), enc, string(b)}
}

func checkEnvelope(t *testing.T, r Report, o *message.Object) {
	t.Helper()
	e := o.Envelope
	if !e.From.IsNull() || len(e.Recipients) != 1 || e.Recipients[0].Address != r.to() || e.Size != o.Content.Size() {
		t.Errorf("envelope %+v", e)
	}
	if o.Content.Size() > 3*max(r.mostReturned(), defaultReturned)+10000 {
		t.Errorf("it has %d octets", o.Content.Size())
	}
}

func checkLines(t *testing.T, raw []byte, utf8 bool) {
	t.Helper()
	s := bufio.NewScanner(bytes.NewReader(raw))
	s.Buffer(nil, len(raw)+1)
	for s.Scan() {
		if len(s.Bytes()) > 998 {
			t.Errorf("line of %d octets: %.60q", len(s.Bytes()), s.Bytes())
		}
	}
	if bareNewline(raw) || bytes.IndexByte(raw, 0) >= 0 {
		t.Error("bare CR or LF, or NUL")
	}
	if !utf8 && !isASCII(string(raw)) {
		t.Error("8-bit octets")
	}
}

func TestFailed(t *testing.T) {
	o, h, parts := build(t, report(t))
	for name, want := range map[string]string{
		"From": "Mail Delivery System <postmaster@mx.a.test>", "To": "<alice@a.test>", "Auto-Submitted": "auto-replied",
		"Subject": "Your message could not be delivered", "In-Reply-To": "<1@a.test>", "References": "<1@a.test>", "Mime-Version": "1.0",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if d, err := h.Date(); err != nil || time.Since(d) > time.Hour {
		t.Errorf("Date: %v, %v", d, err)
	}
	if id := h.Get("Message-ID"); !strings.HasPrefix(id, "<") || !strings.HasSuffix(id, "@mx.a.test>") {
		t.Errorf("Message-ID: %q", id)
	}
	if len(parts) != 3 || parts[1].typ != "message/delivery-status" || parts[2] != (part{"message/rfc822", "7bit", original}) {
		t.Fatalf("got %q", parts)
	}
	want := `Original-Envelope-Id: QQ314159
Reporting-MTA: dns; mx.a.test
Arrival-Date: Mon, 5 Jan 2026 10:00:00 +0000

Original-Recipient: rfc822;Bob@b.test
Final-Recipient: rfc822;bob@b.test
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.b.test
Diagnostic-Code: smtp; 550 5.1.1 no such mailbox
Last-Attempt-Date: Mon, 5 Jan 2026 11:00:00 +0000
`
	if got := strings.ReplaceAll(parts[1].body, "\r\n", "\n"); got != want {
		t.Errorf("got\n%s", got)
	}
	if o.Envelope.UTF8 || o.Envelope.RequireTLS {
		t.Errorf("envelope %+v", o.Envelope)
	}
}

func TestTextForPeople(t *testing.T) {
	r := report(t)
	r.Recipients = append(r.Recipients,
		Recipient{Recipient: mail.NewRecipient(addr(t, "carol@c.test")), Action: Delayed, Until: until, Reply: mail.Refuse(451, "4.7.1", "greylisted")},
		Recipient{Recipient: mail.NewRecipient(addr(t, "dan@d.test")), Action: Delivered})
	_, h, parts := build(t, r)
	want := `This is the mail system at mx.a.test.

Your message "Grüße" could not be delivered to:

    bob@b.test

    mx.b.test said:
        550 5.1.1 no such mailbox

    The address does not exist. Check it for a typing error, or ask the
    recipient for the right one.

Your message "Grüße" has not been delivered yet to:

    carol@c.test

    Reason:
        451 4.7.1 greylisted

    You need not do anything, and need not send the message again.

    We keep trying until Sat, 10 Jan 2026 10:00:00 +0000.

Your message "Grüße" was delivered or passed on to:

    dan@d.test

    The message is in the mailbox.

For help, write to postmaster@mx.a.test and include this notification.
`
	if got := strings.ReplaceAll(parts[0].body, "\r\n", "\n"); got != want {
		t.Errorf("got\n%s", got)
	}
	if h.Get("Subject") != "Your message could not be delivered" || parts[0].typ != "text/plain; charset=utf-8" {
		t.Errorf("%q, %q", h.Get("Subject"), parts[0].typ)
	}
}

var subjects = [actions]string{
	"Your message is delayed", "Your message was delivered", "Your message was passed on", "Your message was passed on to a list",
	"Your message could not be delivered",
}

func TestKinds(t *testing.T) {
	for a := range actions {
		r := report(t)
		r.Recipients[0].Action, r.Recipients[0].Reply, r.Recipients[0].Until = a, nil, until
		_, h, parts := build(t, r)
		if got := h.Get("Subject"); got != subjects[a] {
			t.Errorf("%s: subject %q", a, got)
		}
		if !strings.Contains(parts[1].body, "\r\nAction: "+a.String()+"\r\nStatus: ") {
			t.Errorf("%s: got %q", a, parts[1].body)
		}
		if a != Failed && parts[2] != (part{"text/rfc822-headers", "7bit", strings.TrimSuffix(original, "\r\nhello\r\n")}) {
			t.Errorf("%s: only failures return the whole message: %q", a, parts[2])
		}
		if got := strings.Contains(parts[1].body, "Will-Retry-Until"); got != (a == Delayed) {
			t.Errorf("%s: Will-Retry-Until: %t", a, got)
		}
	}
	if actions.String() != "unknown" {
		t.Error("String")
	}
}

func TestRemoteMTA(t *testing.T) {
	for host, want := range map[string]string{"mx.b.test": "mx.b.test", "192.0.2.1": "[192.0.2.1]", "2001:db8::1": "[IPv6:2001:db8::1]", "[192.0.2.1]": "[192.0.2.1]"} {
		r := report(t)
		r.Recipients[0].RemoteMTA = host
		if _, _, parts := build(t, r); !strings.Contains(parts[1].body, "\r\nRemote-MTA: dns; "+want+"\r\n") {
			t.Errorf("%s: got %q", host, parts[1].body)
		}
	}
}

func TestReturned(t *testing.T) {
	header := "From: a@a.test\r\n"
	long := strings.Repeat("x", 2000)
	for _, tc := range []struct {
		name, content string
		change        func(*Report)
		typ, enc, out string
	}{
		{"RET=HDRS", original, func(r *Report) { r.Envelope.Return = mail.ReturnHeaders }, "text/rfc822-headers", "7bit", original[:len(original)-9]},
		{"REQUIRETLS", original, func(r *Report) { r.Envelope.RequireTLS = true }, "text/rfc822-headers", "7bit", original[:len(original)-9]},
		{"big", header + "\r\n" + strings.Repeat("x\r\n", defaultReturned/3), nil, "text/rfc822-headers", "7bit", header},
		{"8-bit body", header + "\r\n\xfc\r\n", nil, "text/rfc822-headers", "7bit", header},
		{"long line", header + "\r\n" + long, nil, "text/rfc822-headers", "7bit", header},
		{"NUL", header + "\r\n\x00", nil, "text/rfc822-headers", "7bit", header},
		{"bare LF", header + "\r\na\nb\r\n", nil, "text/rfc822-headers", "7bit", header},
		{"BINARYMIME", header + "\r\nx", func(r *Report) { r.Envelope.Body = mail.BodyBinary }, "text/rfc822-headers", "7bit", header},
		{"8-bit header", "From: \xfc\r\n\r\n", nil, "text/rfc822-headers", "quoted-printable", "From: \xfc\r\n"},
		{"long field", "X: " + long + "\r\n\r\n", nil, "text/rfc822-headers", "quoted-printable", "X: " + long + "\r\n"},
		{"no header", "\r\nhello\r\n", nil, "message/rfc822", "7bit", "\r\nhello\r\n"},
		{"no CRLF at the end", header + "\r\nhello", nil, "message/rfc822", "7bit", header + "\r\nhello"},
	} {
		r := report(t)
		r.Content = parsed(t, tc.content)
		if tc.change != nil {
			tc.change(&r)
		}
		_, _, parts := build(t, r)
		if got := parts[2]; got != (part{tc.typ, tc.enc, tc.out}) {
			t.Errorf("%s: got %.200q", tc.name, got)
		}
	}
}

// TestContentOnDisk has a message that must not be read into memory, and one
// that cannot be read.
func TestContentOnDisk(t *testing.T) {
	r := report(t)
	path := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{7, 8, 35 << 20} {
		r.Content = message.New(parsed(t, original).Header, message.OpenBody(path, size, "none"))
		_, _, parts := build(t, r)
		if parts[2].typ != "text/rfc822-headers" || !strings.HasPrefix(parts[2].body, "From: alice@a.test\r\n") {
			t.Errorf("%d: got %q", size, parts[2])
		}
	}
	r.Content = nil
	if _, _, parts := build(t, r); len(parts) != 2 {
		t.Errorf("lost content: got %q", parts)
	}
	r.Content = parsed(t, strings.Repeat("X: "+strings.Repeat("y", 90)+"\r\n", 2000))
	if _, _, parts := build(t, r); len(parts[2].body) > defaultReturned || len(parts[2].body) < defaultReturned/2 {
		t.Errorf("big header: %d octets returned", len(parts[2].body))
	}
}

func TestUTF8(t *testing.T) {
	r := report(t)
	r.Envelope.UTF8 = true
	if o, _, _ := build(t, r); o.Envelope.UTF8 {
		t.Error("nothing needs SMTPUTF8")
	}
	content := "From: jürgen@a.test\r\n\r\nGrüße\r\n"
	r.Content = parsed(t, content)
	r.Envelope.From = addr(t, "jürgen@a.test")
	r.Recipients[0].Recipient = &mail.Recipient{Address: addr(t, "bärbel@b.test"), Original: "utf-8;bärbel@b.test"}
	r.Recipients[0].Reply = mail.Refuse(550, "5.1.1", "gibt’s nicht\u202e")
	o, h, parts := build(t, r)
	if !o.Envelope.UTF8 || o.Envelope.Body != mail.Body8Bit || h.Get("To") != "<jürgen@a.test>" {
		t.Errorf("envelope %+v, To %q", o.Envelope, h.Get("To"))
	}
	if parts[0].typ != "text/plain; charset=utf-8" || parts[0].encoding != "8bit" || parts[2] != (part{"message/global", "8bit", content}) {
		t.Errorf("got %q", parts)
	}
	if p := parts[1]; p.typ != "message/global-delivery-status" || !strings.Contains(p.body, "Final-Recipient: utf-8;bärbel@b.test\r\n") ||
		!strings.Contains(p.body, "Diagnostic-Code: smtp; 550 5.1.1 gibt’s nicht?\r\n") {
		t.Errorf("got %q", p)
	}
	r.Content = parsed(t, "From: \xfc\r\n\r\n")
	if _, _, parts := build(t, r); parts[2] != (part{"message/global-headers", "quoted-printable", "From: \xfc\r\n"}) {
		t.Errorf("not UTF-8: got %q", parts[2])
	}
}

// TestUTF8InASCII has an address that is not ASCII of a message that is.
func TestUTF8InASCII(t *testing.T) {
	r := report(t)
	r.Recipients[0].Recipient = mail.NewRecipient(addr(t, "bärbel@b.test"))
	_, _, parts := build(t, r)
	if !strings.Contains(parts[1].body, `Final-Recipient: utf-8;b\x{E4}rbel@b.test`) || !strings.Contains(parts[0].body, "bärbel@b.test") {
		t.Errorf("got %q", parts)
	}
}

// TestHostileWords has everything that comes from outside try to become
// something else: a field, a part, a line of its own, a command of a terminal.
func TestHostileWords(t *testing.T) {
	evil := "x\r\nBcc: victim@b.test\r\n\r\n--=_\x1b[2J\x00\u2028\xff{{.}}\n"
	r := report(t)
	r.Envelope.ID, r.Recipients[0].Original = evil, evil+";"+evil
	r.Recipients[0].RemoteMTA = evil
	r.Recipients[0].Reply = &mail.Reply{Code: 550, Enh: "5.1.1\r\nX: y", Text: evil + strings.Repeat("y", 100000)}
	r.Content = parsed(t, "Message-ID: <a b@c>\r\nSubject: =?utf-8?q?a=0D=0ABcc:_b=1B?=\r\n\r\n")
	_, h, parts := build(t, r)
	if len(parts) != 3 || h.Get("Bcc") != "" || h.Get("In-Reply-To") != "" {
		t.Fatalf("got %q, %q", h, parts)
	}
	s, err := Parse(buildMessage(t, r))
	if err != nil || len(s.Recipients) != 1 || s.Recipients[0].Status != "5.0.0" || len(s.Recipients[0].Diagnostic) > maxText+10 {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, p := range parts[:2] {
		if strings.Contains(p.body, "\nBcc") || strings.ContainsAny(p.body, "\x00\x1b\u2028\xff") || len(p.body) > 5000 {
			t.Errorf("got %q", p.body)
		}
	}
}

func buildMessage(t *testing.T, r Report) *message.Message {
	t.Helper()
	o, err := Build(r)
	if err != nil {
		t.Fatal(err)
	}
	return o.Content
}

func TestMessageID(t *testing.T) {
	for id, ok := range map[string]bool{
		"<a@b>": true, "<a.b+c@[127.0.0.1]>": true, "": false, "a@b": false, "<a>": false, "<@b>": false, "<a@>": false,
		"<a@b> <c@d>": false, "<a@b@c>": false, "<ü@b>": false, "<" + strings.Repeat("a", 600) + "@b>": false,
	} {
		r := report(t)
		r.Content = parsed(t, "Message-ID: "+id+"\r\n\r\n")
		if got := r.messageID(); (got == id) != ok && id != "" || got != "" && !ok {
			t.Errorf("%q: got %q", id, got)
		}
	}
}

// TestAliasStaysSecret has a recipient whom our own configuration sends
// elsewhere, which is none of the sender's business.
func TestAliasStaysSecret(t *testing.T) {
	r := report(t)
	rc := mail.NewRecipient(addr(t, "info@b.test"))
	rc.Rewrite(addr(t, "secret@hidden.test"))
	r.Recipients[0].Recipient = rc
	_, _, parts := build(t, r)
	if s := parts[0].body + parts[1].body; strings.Contains(s, "secret") || !strings.Contains(s, "Final-Recipient: rfc822;info@b.test") {
		t.Errorf("got %s", s)
	}
}

func TestBuildRefuses(t *testing.T) {
	r := report(t)
	r.Envelope.From = mail.Address{}
	if _, err := Build(r); !errors.Is(err, ErrNullSender) {
		t.Errorf("got %v", err)
	}
	r = report(t)
	r.Recipients = nil
	if _, err := Build(r); err == nil {
		t.Error("a report about nobody")
	}
}

func TestWanted(t *testing.T) {
	for _, tc := range []struct {
		n    mail.Notify
		want string
	}{
		{0, "delayed failed"}, {mail.NotifyNever, ""}, {mail.NotifyFailure, "failed"}, {mail.NotifyDelay, "delayed"},
		{mail.NotifySuccess, "delivered relayed expanded"},
	} {
		var got []string
		for a := range actions {
			if Wanted(&mail.Recipient{Notify: tc.n}, a) {
				got = append(got, a.String())
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%d: got %q", tc.n, got)
		}
	}
}

func TestAdvice(t *testing.T) {
	for status, want := range map[string]string{
		"5.1.1": "address does not exist", "5.1.2": "domain does not exist", "5.1.10": "domain takes no mail", "4.2.2": "full",
		"5.3.4": "too big", "4.4.7": "for as long", "4.4.1": "cannot be reached", "5.7.26": "rule", "5.0.0": "another way", "5.9.9": "another way",
	} {
		r := Recipient{Action: Failed, Reply: &mail.Reply{Code: 550, Enh: status}}
		if got := r.advice(); !strings.Contains(got, want) {
			t.Errorf("%s: got %q", status, got)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	m, err := message.Parse([]byte(original))
	if err != nil {
		b.Fatal(err)
	}
	a := mail.Address{Local: "alice", Domain: "a.test"}
	r := Report{Hostname: "mx.a.test", Envelope: &mail.Envelope{From: a}, Content: m, Recipients: []Recipient{
		{Recipient: mail.NewRecipient(a), Action: Failed, Reply: mail.Refuse(550, "5.1.1", "no such mailbox")}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(r); err != nil {
			b.Fatal(err)
		}
	}
}
