package convert

import (
	"errors"
	"mime"
	netmail "net/mail"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// field converts a field and checks what holds of all of them.
func field(t testing.TB, name, value string) (string, error) {
	t.Helper()
	h, _, err := message.ParseHeader([]byte(name + ": " + value + "\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	for f := range h.Fields() {
		s, err := asciiField(f)
		if err != nil {
			return "", err
		}
		again, rest, perr := message.ParseHeader([]byte(s))
		if perr != nil || again.Len() != 1 || len(rest) > 0 || !isASCII(s) || longest(s) > maxLine {
			t.Fatalf("%q became %q", value, s)
		}
		return strings.TrimSuffix(s, "\r\n"), nil
	}
	t.Fatalf("no field: %q", value)
	return "", nil
}

func TestFields(t *testing.T) {
	for _, tc := range []struct{ name, in, out string }{
		{"Subject", "Grüße an alle", "Subject: =?utf-8?b?R3LDvMOfZQ==?= an alle"},
		{"Subject", "für  dich, für mich", "Subject: =?utf-8?q?f=C3=BCr?=  dich, =?utf-8?q?f=C3=BCr?= mich"},
		{"Subject", "früher später", "Subject: =?utf-8?q?fr=C3=BCher_sp=C3=A4ter?="},
		{"Subject", "=?utf-8?q?a?= über", "Subject: =?utf-8?q?a?= =?utf-8?q?_=C3=BCber?="},
		{"Subject", "über =?utf-8?q?a?=", "Subject: =?utf-8?q?=C3=BCber_?= =?utf-8?q?a?="},
		{"Subject", "привет", "Subject: =?utf-8?b?0L/RgNC40LLQtdGC?="},
		{"subject ", "f\xfcr", "subject: =?unknown-8bit?q?f=FCr?="},
		{"Subject", "日本語の件名はとても長いので二つに分けなければならないのです", "Subject: =?utf-8?b?5pel5pys6Kqe44Gu5Lu25ZCN44Gv44Go44Gm44KC6ZW344GE?=\r\n =?utf-8?b?44Gu44Gn5LqM44Gk44Gr5YiG44GR44Gq44GR44KM44Gw44Gq?=\r\n =?utf-8?b?44KJ44Gq44GE44Gu44Gn44GZ?="},
		{"From", "Jürgen Groß <a@b.test>", "From: =?utf-8?q?J=C3=BCrgen_Gro=C3=9F?= <a@b.test>"},
		{"From", `"Groß, Jürgen" <a@b.test>, "x\"y" <c@d.test>`, `From: =?utf-8?q?Gro=C3=9F=2C_J=C3=BCrgen?= <a@b.test>, "x\"y" <c@d.test>`},
		{"To", "a@bücher.test (Jürgen), <b@BÜCHER.test>", "To: a@xn--bcher-kva.test (=?utf-8?q?J=C3=BCrgen?=), <b@xn--bcher-kva.test>"},
		{"To", `Gäste: a@b.test, "ü"@b.test (x);`, ""},
		{"To", "Gäste: a@b.test, Böll <c@d.test>;", "To: =?utf-8?q?G=C3=A4ste?=: a@b.test, =?utf-8?q?B=C3=B6ll?= <c@d.test>;"},
		{"Cc", "jürgen@b.test", ""},
		{"Cc", "<jürgen@b.test>", ""},
		{"Cc", "<a@\u202e.test>", ""},
		{"Reply-To", `"a@ü" <a@b.test>`, "Reply-To: =?utf-8?b?YUDDvA==?= <a@b.test>"},
		{"Content-Type", `text/plain; name="Grüße; alle.txt"; charset=utf-8`, "Content-Type: text/plain; name*=utf-8''Gr%C3%BC%C3%9Fe%3B%20alle.txt;\r\n charset=utf-8"},
		{"Content-Type", `multipart/mixed; boundary="b" (ü)`, `Content-Type: multipart/mixed; boundary="b"`},
		{"Content-Disposition", `attachment; filename*=utf-8''f%C3%BCr-ü`, "Content-Disposition: attachment; filename*=utf-8''f%C3%BCr-%C3%BC"},
		{"Content-Disposition", `attachment; filename*0="für"; filename*1=dich`, "Content-Disposition: attachment; filename*0*=f%C3%BCr; filename*1=dich"},
		{"Content-Disposition", "attachment; ü=x; y (ü)", "Content-Disposition: attachment"},
		{"Received", "from bücher.test (grün [192.0.2.1]) by mx.test for <ü@b.test>; date", "Received: from xn--bcher-kva.test (=?utf-8?q?gr=C3=BCn?= [192.0.2.1]) by\r\n mx.test ; date"},
		{"Message-ID", "<ü@b.test>", "Downgraded-Message-ID: =?utf-8?b?PMO8QGIudGVzdD4=?="},
		{"X-Own", "ü", "X-Own: =?utf-8?b?w7w=?="},
	} {
		got, err := field(t, tc.name, tc.in)
		if tc.out == "" {
			if !errors.Is(err, errAddress) {
				t.Errorf("%s: got %q, %v", tc.in, got, err)
			}
			continue
		}
		if err != nil || got != tc.out {
			t.Errorf("%s: got\n%s, %v; want\n%s", tc.in, got, err, tc.out)
		}
	}
}

// TestFieldsOfOthers has the library read what we wrote, and find what was meant.
func TestFieldsOfOthers(t *testing.T) {
	dec := new(mime.WordDecoder)
	for _, s := range []string{
		"Grüße an alle, die dies lesen, und an die, die es nicht lesen können, weil es zu lang für eine Zeile ist",
		"ü", "a ü b ü ü c", strings.Repeat("ü", 500), strings.Repeat("wörter ", 100) + "x", "日本語 x 日本語", "a=ü_?",
	} {
		out, _ := field(t, "Subject", s)
		got, err := dec.DecodeHeader(strings.ReplaceAll(strings.TrimPrefix(out, "Subject: "), "\r\n", ""))
		if err != nil || got != s {
			t.Errorf("%q became %q: %q, %v", s, out, got, err)
		}
		for l := range strings.SplitSeq(out, "\r\n") {
			if len(l) > 78 {
				t.Errorf("line of %d octets: %q", len(l), l)
			}
		}
		out, _ = field(t, "Content-Disposition", `attachment; filename="`+s+`"`)
		_, params, err := mime.ParseMediaType(strings.ReplaceAll(strings.TrimPrefix(out, "Content-Disposition: "), "\r\n", ""))
		if err != nil || params["filename"] != s {
			t.Errorf("%q became %q: %v, %v", s, out, params, err)
		}
		out, _ = field(t, "From", `"`+s+`" <a@bücher.test>`)
		a, err := netmail.ParseAddress(strings.ReplaceAll(strings.TrimPrefix(out, "From: "), "\r\n", ""))
		if err != nil || a.Name != s || a.Address != "a@xn--bcher-kva.test" {
			t.Errorf("%q became %q: %v, %v", s, out, a, err)
		}
	}
}

// FuzzField checks that a field stays one field of ASCII, and that addresses
// that could be read can be read still.
func FuzzField(f *testing.F) {
	for _, s := range []string{`"ü" <a@b>, (ü) c@d`, "ü: <ü@b>;", "text/plain; a=\"ü", "from ü (ü(ü) by b for <ü>", "<@ü:a@b>", `"a\`, "[ü]@[ü]", "a@b (ü\\"} {
		for n := range uint8(5) {
			f.Add(s, n)
		}
	}
	names := []string{"Subject", "From", "Content-Type", "Received", "References"}
	f.Fuzz(func(t *testing.T, s string, n uint8) {
		s = strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, s)
		name := names[int(n)%len(names)]
		out, err := field(t, name, s)
		if err != nil || name != "From" {
			return
		}
		before, err := netmail.ParseAddressList(s)
		if err != nil {
			return
		}
		after, err := netmail.ParseAddressList(strings.ReplaceAll(strings.TrimPrefix(out, "From: "), "\r\n", ""))
		if err != nil || len(after) != len(before) {
			t.Fatalf("%q became %q: %v", s, out, err)
		}
	})
}
