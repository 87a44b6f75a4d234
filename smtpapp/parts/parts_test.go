package parts

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

var roomy = Limits{Parts: 50, Depth: 10, Text: 1 << 16, Content: 1 << 16}

func parse(t testing.TB, text string, l Limits) *Content {
	t.Helper()
	m, err := message.Parse([]byte(strings.ReplaceAll(text, "\n", "\r\n")))
	if err != nil {
		t.Skip(err)
	}
	c, err := Read(m, l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const mixed = `Subject: x
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="out er"

preamble
--out er
Content-Type: multipart/alternative; boundary=in

--in
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

Gr=FC=DFe =
an alle
--in
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: base64

PGI+R3LDvMOfZTwvYj4=
--in--
--out er
Content-Type: image/png; name="=?utf-8?q?B=C3=A4r.png?="
Content-Disposition: inline
Content-ID: <pic@x>
Content-Transfer-Encoding: base64

AAEC
 AwQ=
--out er
Content-Disposition: attachment; filename*=utf-8''%E2%82%AC.txt
Content-Type: text/plain

price
--out er--
epilogue
`

func TestRead(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		want Content
	}{
		"plain":   {"A: b\n\nhi\nthere\n", Content{Text: "hi\nthere\n"}},
		"no body": {"A: b\n", Content{}},
		"html":    {"Content-Type: TEXT/HTML\n\n<p>\n", Content{HTML: "<p>\n"}},
		"mixed": {mixed, Content{Text: "Grüße an alle", HTML: "<b>Grüße</b>", Attachments: []Attachment{
			{Filename: "Bär.png", Type: "image/png", ID: "pic@x", Inline: true, Size: 5, Data: []byte{0, 1, 2, 3, 4}},
			{Filename: "€.txt", Type: "text/plain", Size: 5, Data: []byte("price")},
		}}},
		"unknown charset": {"Content-Type: text/plain; charset=klingon\n\na\xffb\n", Content{Text: "a\uFFFDb\n", Defects: []string{`charset "klingon" is not known`}}},
		"invalid UTF-8":   {"A: b\n\na\xffb\n", Content{Text: "a\uFFFDb\n"}},
		"bad type":        {"Content-Type: nonsense;;;\n\nx\n", Content{Attachments: []Attachment{{Type: "application/octet-stream", Size: 3, Data: []byte("x\r\n")}}, Defects: []string{"Content-Type cannot be read"}}},
		"bad encoding":    {"Content-Transfer-Encoding: x-uue\n\nx\n", Content{Text: "x\n", Defects: []string{"Content-Transfer-Encoding is not known"}}},
		"no boundary":     {"Content-Type: multipart/mixed\n\nx\n", Content{Attachments: []Attachment{{Type: "multipart/mixed", Size: 3, Data: []byte("x\r\n")}}, Defects: []string{"parts too deep or without a boundary are kept as they are"}}},
		"never closed":    {"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n", Content{Text: "x", Defects: []string{"a text part breaks off", "a multipart breaks off"}}},
		"base64 cut":      {"Content-Transfer-Encoding: base64\n\nAAE\n", Content{Text: "\x00\x01", Defects: []string{"a text part breaks off"}}},
		"two texts":       {"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b\n\ny\n--b--\n", Content{Text: "x\ny"}},
		"message inside":  {"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\n\nA: b\n\nx\n--b--\n", Content{Attachments: []Attachment{{Type: "message/rfc822", Size: 9, Data: []byte("A: b\r\n\r\nx")}}}},
	} {
		got := parse(t, tc.in, roomy)
		if name == "base64 cut" { // how much of the last group comes is Go's business
			got.Text = tc.want.Text
		}
		if !reflect.DeepEqual(*got, tc.want) {
			t.Errorf("%s: got %+v\nwant %+v", name, *got, tc.want)
		}
	}
}

// TestLimits: what is over them is left out, and told.
func TestLimits(t *testing.T) {
	c := parse(t, mixed, Limits{Parts: 50, Depth: 10, Text: 4, Content: 5})
	if c.Text != "Grü" || c.HTML != "<b>G" || c.Attachments[0].Data == nil || !c.Attachments[1].Truncated || c.Attachments[1].Data != nil || c.Attachments[1].Size != 5 || len(c.Defects) != 2 {
		t.Errorf("%+v", c)
	}
	if c := parse(t, mixed, Limits{Parts: 3, Depth: 10, Text: 100, Content: 100}); c.HTML != "" || len(c.Attachments) != 0 || len(c.Defects) == 0 {
		t.Errorf("%+v", c)
	}
	if c := parse(t, mixed, Limits{Parts: 9, Depth: 1, Text: 100, Content: 1000}); c.Text != "" || c.Attachments[0].Type != "multipart/alternative" {
		t.Errorf("%+v", c)
	}
	// A hundred thousand parts, and parts as deep.
	many := "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", 100000)
	if c := parse(t, many, roomy); len(c.Text) > 200 || len(c.Defects) == 0 {
		t.Error(len(c.Text), c.Defects)
	}
	deep := "Content-Type: multipart/mixed; boundary=b0\n\n"
	for i := range 1000 {
		deep += fmt.Sprintf("--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n", i, i+1)
	}
	if c := parse(t, deep, roomy); len(c.Attachments) != 1 {
		t.Errorf("%+v", c)
	}
}

// TestUnreadable: a message that is damaged is an error, not a shorter one.
func TestUnreadable(t *testing.T) {
	file := t.TempDir() + "/body"
	if err := os.WriteFile(file, []byte("--b\r\n\r\nx\r\n--b--\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, _, err := message.ParseHeader([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Read(message.New(h, message.OpenBody(file, 18, "none")), roomy); err == nil {
		t.Errorf("%+v", c)
	}
}

func TestDecode(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "=?utf-8?B?R3LDvMOfZQ==?= =?iso-8859-15?q?_=A4?=": "Grüße €", "=?klingon?q?x?=": "=?klingon?q?x?=", "a\xffb": "a\uFFFDb", "=?utf-8?q?=FF?=": "\uFFFD",
	} {
		if got := Decode(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(mixed)
	f.Add("Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Transfer-Encoding: base64\n\n====\n")
	f.Fuzz(func(t *testing.T, in string) {
		l := Limits{Parts: 10, Depth: 3, Text: 100, Content: 100}
		c := parse(t, in, l)
		var data int64
		for _, a := range c.Attachments {
			data += int64(len(a.Data))
		}
		if int64(len(c.Text)) > 3*l.Text+int64(l.Parts) || data > l.Content || len(c.Attachments) > l.Parts || len(c.Defects) > maxDefects {
			t.Errorf("%+v", c)
		}
	})
}
