package dsn

import (
	"bytes"
	"log/slog"
	"mime"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

func parse(t *testing.T, text string) *Template {
	t.Helper()
	p, err := ParseTemplate("dsn.txt", text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTemplate(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"recipients", "{{range .Failed}}Nix für {{.Address}}: {{.Status}} {{.Action}}\n{{end}}.", "Nix für bob@b.test: 5.1.1 failed\n.\n"},
		{"all", "{{.Hostname}} {{.Postmaster}} {{.Action}} {{.Sender}} {{.Subject}} {{.EnvelopeID}} {{.Arrived}} {{len .Recipients}}",
			"mx.a.test postmaster@mx.a.test failed alice@a.test Grüße QQ314159 Mon, 5 Jan 2026 10:00:00 +0000 1\n"},
		{"recipient", "{{range .Recipients}}{{.Remote}} {{.Reply}} {{with .Tried}}{{.Format \"15:04\"}}{{end}} {{join \"|\" .Words}}{{end}}.",
			"mx.b.test 550 5.1.1 no such mailbox 11:00 550 5.1.1 no such mailbox.\n"},
		{"functions", "{{if hasSuffix \".test\" .Sender}}{{upper .Action}}{{end}} {{.Sender | replace \"a\" \"o\"}} {{wrap 5 \"a bc def g\" | indent 2}}",
			"FAILED olice@o.test   a bc\n  def g\n"},
		{"a line that is long", strings.Repeat("x", 5000), strings.Repeat("x", 5000) + "\n"},
		{"line ends and control characters", "a\rb\r\nc\x00\x1b[31md\x7f\xff\n", "a\nb\nc[31md?\n"},
		{"a MIME boundary", "\n--=_x--\n\nContent-Type: text/html\n\n<b>x</b>\n", "\n--=_x--\n\nContent-Type: text/html\n\n<b>x</b>\n"},
	} {
		r := report(t)
		r.Template = parse(t, tc.text)
		_, h, parts := build(t, r)
		if got := strings.ReplaceAll(parts[0].body, "\r\n", "\n"); got != tc.want || len(parts) != 3 {
			t.Errorf("%s: got %q in %d parts", tc.name, got, len(parts))
		}
		if got := h.Get("Subject"); got != subjects[Failed] {
			t.Errorf("%s: a template without a subject has the built-in one: %q", tc.name, got)
		}
	}
}

// TestSubject has templates and senders who would like to have fields of theirs.
func TestSubject(t *testing.T) {
	for subject, want := range map[string]string{
		"Nicht zustellbar: Grüße":     "Nicht zustellbar: Grüße",
		"a\r\nBcc: c@c.test\r\n\r\nb": "a Bcc: c@c.test b",
		"=?utf-8?q?a=0D=0Ab?=":        "= ?utf-8?q?a=0D=0Ab?=",
		strings.Repeat("ä", 500):      strings.Repeat("ä", 200) + "...",
		strings.Repeat("y", 500):      strings.Repeat("y", 200) + "...",
		"  \n ":                       subjects[Failed],
		"{{.Nothing}}":                "",
	} {
		p, err := ParseTemplate("dsn.txt", `{{define "subject"}}`+subject+`{{end}}x`)
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), "dsn.txt:1:22: ") {
				t.Errorf("got %v", err)
			}
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		r := report(t)
		r.Template = p
		_, h, _ := build(t, r)
		got, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
		if err != nil || got != want || h.Get("Bcc") != "" {
			t.Errorf("%q: got %q, %v, %v", subject, got, err, h)
		}
	}
}

// TestTemplateFails: what cannot be tried when it is loaded gives way to the
// built-in text, and the log says so.
func TestTemplateFails(t *testing.T) {
	for _, bad := range []string{
		`{{index .Failed 7}}`, `{{range .Failed}}{{.Until.Year}}{{end}}`, `{{indent 9999 "x"}}`,
		`{{range 100000}}octets{{end}}`, `{{template "r"}}`, `{{range .Failed}}{{slice .Reply 0 999}}{{end}}`,
	} {
		var log bytes.Buffer
		r := report(t)
		r.Log = slog.New(slog.NewTextHandler(&log, nil))
		r.Template = parse(t, `{{define "r"}}{{template "r"}}{{end}}line 1
			{{if eq .EnvelopeID "other"}}`+bad+`{{end}}.`)
		if _, h, parts := build(t, r); strings.HasPrefix(parts[0].body, "This is the mail system at") || h.Get("Subject") != subjects[Failed] {
			t.Errorf("%s: what the samples have is to work: %q", bad, parts[0].body)
		}
		r.Envelope.ID = "other"
		if _, h, parts := build(t, r); !strings.HasPrefix(parts[0].body, "This is the mail system at") || h.Get("Subject") != subjects[Failed] {
			t.Errorf("%s: a template that fails must give way: %q", bad, parts[0].body)
		}
		if !strings.Contains(log.String(), "template: dsn.txt") && !strings.Contains(log.String(), "octets of text") {
			t.Errorf("%s: logged %q", bad, log.String())
		}
	}
}

// TestTemplateErrors: what is wrong with a template is said when it is loaded,
// with its name and the line.
func TestTemplateErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a\n{{if}}":                                "dsn.txt:2: missing value for if",
		"a\nb\n{{.Recipient}}":                     "dsn.txt:3:2: ",
		"{{range .Failed}}\n{{.Place}}{{end}}.":    "dsn.txt:2:2: ",
		"{{env \"HOME\"}}":                         "dsn.txt:1: function \"env\" not defined",
		"{{readFile \"/etc/passwd\"}}":             "function \"readFile\" not defined",
		" \n{{/* nothing */}}\n":                   "of mail that is delayed: template: dsn.txt: no text",
		"{{range .Failed}}x{{end}}":                "of mail that is delayed: template: dsn.txt: no text",
		"{{range .Delayed}}{{.Until.Foo}}{{end}}x": "dsn.txt:1:",
	} {
		if _, err := ParseTemplate("dsn.txt", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

// TestTemplateSafe: words of strangers cannot become anything but words.
func TestTemplateSafe(t *testing.T) {
	r := report(t)
	r.Content = parsed(t, "Subject: =?utf-8?q?a=0D=0A--x=0D=0A=1B[31m=E2=80=AE?= {{.Hostname}}\r\n\r\n")
	r.Recipients[0].Reply = mail.Refuse(550, "5.1.1", "{{template \"subject\"}}\n.\n--x\n\x00")
	r.Recipients[0].RemoteMTA = "a\r\nb"
	r.Envelope.ID = "a\nb"
	r.Template = parse(t, `{{define "subject"}}{{.Subject}}{{end}}{{.Subject}}|{{.EnvelopeID}}|{{range .Failed}}{{.Remote}}|{{.Reply}}|{{range .Words}}{{.}}{{end}}{{end}}`)
	_, h, parts := build(t, r)
	want := "a  --x  ?[31m? {{.Hostname}}|a b|a  b|550 5.1.1 {{template \"subject\"}} . --x ?|550 5.1.1 {{template \"subject\"}} . --x ?\r\n"
	if parts[0].body != want {
		t.Errorf("got %q", parts[0].body)
	}
	if got := h.Get("Subject"); got != "a --x ?[31m? {{.Hostname}}" {
		t.Errorf("got %q", got)
	}
}

// TestDoubleFailure tells the postmaster of a notification that got nowhere.
func TestDoubleFailure(t *testing.T) {
	r := report(t)
	r.To = addr(t, "postmaster@a.test")
	r.Envelope.From = mail.Address{}
	o, h, parts := build(t, r)
	if !o.Envelope.Final || !o.Envelope.From.IsNull() || h.Get("To") != "<postmaster@a.test>" || h.Get("Subject") != "Undeliverable mail that nobody else hears of" {
		t.Errorf("got %+v, %v", o.Envelope, h)
	}
	const want = `This is the mail system at mx.a.test.

The message "Grüße" could not be delivered, and its sender
cannot be told: it has none, like all notifications.

    bob@b.test

    mx.b.test said:
        550 5.1.1 no such mailbox

    The address does not exist. Check it for a typing error, or ask the
    recipient for the right one.
`
	if got := strings.ReplaceAll(parts[0].body, "\r\n", "\n"); got != want {
		t.Errorf("got\n%s", got)
	}
	r.Envelope.From = addr(t, "alice@a.test")
	if _, _, parts = build(t, r); !strings.Contains(parts[0].body, "no way leads to alice@a.test.") {
		t.Errorf("got %q", parts[0].body)
	}
}

// TestReturnedSize: how much is given back is a matter of configuration.
func TestReturnedSize(t *testing.T) {
	for _, tc := range []struct {
		returned int64
		size     int
		full     bool
	}{
		{0, 40_000, true}, {0, 60_000, false}, {100_000, 60_000, true}, {1000, 1100, false}, {1000, 900, true}, {-1, 200, false},
		{MaxReturned, MaxReturned, true}, {10 * MaxReturned, MaxReturned + 2, false},
	} {
		r := report(t)
		r.Returned = tc.returned
		const head = "From: a@a.test\r\n\r\n"
		body := strings.Repeat("0123456789abcdef\r\n", tc.size/18+1)
		r.Content = parsed(t, head+body[len(body)-(tc.size-len(head)):])
		if got := r.Content.Size(); got != int64(tc.size) {
			t.Fatalf("size %d", got)
		}
		_, _, parts := build(t, r)
		if got := parts[2].typ == "message/rfc822"; got != tc.full {
			t.Errorf("%d octets, at most %d: got %s", tc.size, tc.returned, parts[2].typ)
		}
	}
}

func TestLanguages(t *testing.T) {
	l, err := ParseLanguages([]string{"de", "pt-BR", "fr"})
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]int{
		"":                                                       -1,
		"Accept-Language: de-DE, en-US\r\n":                      0,
		"Accept-Language: en-US, de\r\n":                         0,
		"Accept-Language: fr-CH, de;q=0.5\r\n":                   2,
		"Accept-Language: pt-BR\r\n":                             1,
		"Content-Language: fr\r\n":                               2,
		"Content-Language: en\r\n":                               -1,
		"Accept-Language: ja\r\nContent-Language: de\r\n":        -1,
		"Accept-Language: ;;;\r\nContent-Language: de\r\n":       0,
		"Accept-Language: " + strings.Repeat("de-", 80) + "\r\n": -1,
	} {
		h := new(message.Header)
		for line := range strings.SplitSeq(strings.TrimSuffix(header, "\r\n"), "\r\n") {
			if name, v, ok := strings.Cut(line, ": "); ok {
				h.Append(name, v)
			}
		}
		if got := l.Of(h); got != want {
			t.Errorf("%q: got %d, want %d", header, got, want)
		}
	}
	for _, bad := range [][]string{{"de", "de"}, {"deutsch sprache"}, {"und"}, {""}} {
		if _, err := ParseLanguages(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if l, err = ParseLanguages(nil); err != nil || l.Of(parsed(t, "Accept-Language: de\r\n\r\n").Header) != -1 {
		t.Errorf("no languages: %v", err)
	}
	r := report(t)
	r.Template = parse(t, "Nix da.")
	r.Template.Language = "de"
	if _, h, _ := build(t, r); h.Get("Content-Language") != "de" {
		t.Errorf("got %v", h)
	}
}
