package convert

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

func parsed(t testing.TB, content string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// converted returns the content for a target, and what it was if nothing is to
// be done.
func converted(t testing.TB, content string, binary bool, target Target) (string, error) {
	t.Helper()
	m := parsed(t, content)
	c, err := New(m, binary, target)
	if err != nil {
		return "", err
	}
	read := m.NewReader
	if c != nil {
		read = c.NewReader
	}
	r, err := read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if c != nil && c.Size() != int64(len(b)) {
		t.Fatalf("size %d, read %d", c.Size(), len(b))
	}
	return string(b), nil
}

func TestParts(t *testing.T) {
	const (
		ascii = "From: a@a.test\r\n"
		mime1 = ascii + "MIME-Version: 1.0\r\n"
	)
	mixed := func(parts ...string) string {
		s := mime1 + "Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\npreamble\r\n"
		for _, p := range parts {
			s += "--b\r\n" + p
		}
		return s + "--b--\r\n"
	}
	mixed7 := func(parts ...string) string { return strings.Replace(mixed(parts...), ": 8bit", ": 7bit", 1) }
	long := strings.Repeat("x", 1000)
	for _, tc := range []struct{ name, in, out string }{
		{"ASCII", ascii + "\r\nhello\r\n", ascii + "\r\nhello\r\n"},
		{"no MIME", ascii + "\r\nGrüße\r\n", mime1 + "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n"},
		{"nobody knows the charset", ascii + "\r\nGr\xfc\xdfe\r\n", mime1 + "Content-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe\r\n"},
		{"text", mime1 + "Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\nX: y\r\n\r\na = \xfc \r\n",
			mime1 + "Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\nX: y\r\n\r\na =3D =FC=20\r\n"},
		{"text with little ASCII", mime1 + "Content-Type: text/plain; charset=utf-8\r\n\r\nпривет\r\n",
			mime1 + "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n0L/RgNC40LLQtdGCDQo=\r\n"},
		{"image", mime1 + "Content-Type: image/png\r\n\r\n\xff\xfe\r\n", mime1 + "Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n//4NCg==\r\n"},
		{"long line", mime1 + "\r\n" + long + "\r\n", mime1 + "Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" +
			strings.Repeat(long[:75]+"=\r\n", 13) + long[:25] + "\r\n"},
		{"only what needs it", mixed("Content-Type: text/plain\r\n\r\nplain\r\n", "Content-Type: text/plain\r\n\r\nü\r\n", "Content-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"),
			mixed7("Content-Type: text/plain\r\n\r\nplain\r\n", "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nw7w=\r\n", "Content-Type: a/b\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n")},
		{"a part without a header", mixed("\r\nfür\r\n"), mixed7("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n")},
		{"a part without an empty line", mixed("Content-Type: text/plain\r\nno field, für\r\n"),
			mixed7("Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nno field, f=C3=BCr\r\n")},
		{"nested", mixed("Content-Type: multipart/alternative; boundary=\"b c\"\r\n\r\n--b c\r\n\r\nfür\r\n--b c--\r\n"),
			mixed7("Content-Type: multipart/alternative; boundary=\"b c\"\r\n\r\n--b c\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n--b c--\r\n")},
		{"message", mixed("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: für\r\n\r\nfür\r\n"),
			mixed7("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: =?utf-8?q?f=C3=BCr?=\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n")},
		{"digest", strings.Replace(mixed("\r\nSubject: x\r\n\r\nfür\r\n"), "/mixed", "/digest", 1),
			strings.Replace(mixed7("\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n"), "/mixed", "/digest", 1)},
		{"message in UTF-8", mixed("Content-Type: message/global\r\n\r\nSubject: x\r\n\r\nfür\r\n"),
			mixed7("Content-Type: message/global\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nSubject: x\r\n\r\nf=C3=BCr\r\n")},
		{"what nobody is shown", strings.Replace(mixed("\r\na\r\n"), "preamble", "für alle\r\nand more", 1) + "epilögue\r\n",
			strings.Replace(mixed7("\r\na\r\n"), "preamble", "and more", 1)},
		{"quoted-printable that is none", mime1 + "Content-Transfer-Encoding: Quoted-Printable\r\n\r\nü=3D=\r\n-" + long + "\r\n",
			mime1 + "Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC=3D=\r\n=2D" + long[:897] + "=\r\n" + long[:103] + "\r\n"},
		{"base64 that is none", mime1 + "Content-Transfer-Encoding: base64\r\n\r\nAü-AA\r\nA\r\n", mime1 + "Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n"},
		{"two encodings", mime1 + "Content-Transfer-Encoding: 8bit\r\nContent-transfer-encoding: base64\r\n\r\nfür\r\n",
			mime1 + "Content-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nf=C3=BCr\r\n"},
		{"dashes", mime1 + "Content-Type: text/plain; charset=utf-8\r\n\r\n-- \r\nfür\r\n", mime1 + "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=2D-=20\r\nf=C3=BCr\r\n"},
		{"signed, and clean", mixed("Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\nContent-Transfer-Encoding: 8bit\r\n\r\nx\r\n--s \r\n\r\n"+long+"\r\n--s--\r\n", "\r\nfür\r\n"),
			mixed7("Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\nContent-Transfer-Encoding: 8bit\r\n\r\nx\r\n--s \r\n\r\n"+long+"\r\n--s--\r\n", "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n")},
		{"no end", strings.TrimSuffix(mixed("\r\nfür\r\n"), "--b--\r\n"), strings.TrimSuffix(mixed7("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n"), "--b--\r\n")},
	} {
		got, err := converted(t, tc.in, false, Target{})
		if err != nil || got != tc.out {
			t.Errorf("%s:\n%s\n%v; want\n%s", tc.name, got, err, tc.out)
		}
	}
}

func TestTargets(t *testing.T) {
	const (
		eight = "Subject: für\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: binary\r\n\r\n"
		part  = "--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: binary\r\n\r\nfür\r\n"
		image = "--b\r\nContent-Type: image/png\r\n\r\n\xff\n\r\x00\r\n"
	)
	for _, tc := range []struct {
		name, in string
		binary   bool
		target   Target
		out      string
		body     mail.Body
	}{
		{"binary to 8-bit", eight + part + image + "--b--\r\n", true, Target{EightBit: true, UTF8: true},
			strings.ReplaceAll(eight+part, ": binary", ": 8bit") + "--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\n/woNAA==\r\n--b--\r\n", mail.Body8Bit},
		{"binary to 7-bit", "Subject: x\r\nContent-Type: text/plain\r\n\r\na\nb", true, Target{},
			"Subject: x\r\nContent-Type: text/plain\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na=0Ab=\r\n", mail.Body7Bit},
		{"header only", "Subject: für\r\n\r\nfür\r\n", false, Target{EightBit: true}, "Subject: =?utf-8?q?f=C3=BCr?=\r\n\r\nfür\r\n", mail.Body8Bit},
		{"body only", "Subject: für\r\n\r\nfür dich\r\n", false, Target{UTF8: true},
			"Subject: für\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr dich\r\n", mail.Body8Bit},
		{"long lines for who takes them", "A: " + strings.Repeat("x", 1000) + "\r\n\r\n" + strings.Repeat("x", 1000) + "\r\n", false, Target{LongLines: true}, "", ""},
		{"long field", "A: " + strings.Repeat("x ", 1000) + "\r\n\r\nx\r\n", false, Target{}, message.Fold("A", strings.Repeat("x ", 1000)) + "\r\nx\r\n", mail.Body7Bit},
		{"long field in UTF-8", "A: " + strings.Repeat("ü ", 1000) + "\r\n\r\nx\r\n", false, Target{EightBit: true, UTF8: true}, message.Fold("A", strings.Repeat("ü ", 1000)) + "\r\nx\r\n", mail.Body8Bit},
		{"message/global", "Content-Type: message/global\r\n\r\nSubject: für\r\n", false, Target{EightBit: true},
			"Content-Type: message/global\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nSubject: f=C3=BCr\r\n", mail.Body7Bit},
	} {
		c, err := New(parsed(t, tc.in), tc.binary, tc.target)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if c == nil || tc.body == "" {
			if tc.body != "" || c != nil {
				t.Errorf("%s: converted: %t", tc.name, c != nil)
			}
			continue
		}
		if got, _ := converted(t, tc.in, tc.binary, tc.target); got != tc.out || c.Body() != tc.body {
			t.Errorf("%s:\n%s\n%s; want\n%s", tc.name, got, c.Body(), tc.out)
		}
	}
}

// TestUnconvertible are messages that are returned.
func TestUnconvertible(t *testing.T) {
	deep := ""
	for i := range 60 {
		deep += "Content-Type: multipart/mixed; boundary=b" + strings.Repeat("x", i) + "\r\n\r\n--b" + strings.Repeat("x", i) + "\r\n"
	}
	signed := "Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n"
	for _, tc := range []struct {
		name, in string
		binary   bool
		want     error
	}{
		{"signed", signed + "\r\nfür\r\n--s--\r\n", false, errSigned},
		{"header of a part signed", signed + "Subject: für\r\n\r\nx\r\n--s--\r\n", false, errSigned},
		{"around a part signed", signed + "Content-Type: multipart/mixed; boundary=m\r\n\r\nfür\r\n--m--\r\n--s--\r\n", false, errSigned},
		{"unknown encoding", "Content-Transfer-Encoding: x-own\r\n\r\nfür\r\n", false, errEncoding},
		{"message/partial", "Content-Type: message/partial\r\n\r\nfür\r\n", false, errPartial},
		{"no boundary", "Content-Type: multipart/mixed\r\n\r\nfür\r\n", false, errMalformed},
		{"8-bit boundary", "Content-Type: multipart/mixed; boundary=\"ü\"\r\n\r\nfür\r\n", false, errMalformed},
		{"8-bit boundary in pieces", "Content-Type: multipart/mixed; boundary*0=\"ü\"; boundary*1=b\r\n\r\nx\r\n", false, errMalformed},
		{"bare LF in the header of a part", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nA: b\nc: d\r\n\r\n\x00\r\n", true, errMalformed},
		{"too deep", deep + "\r\nfür\r\n", false, errComplex},
		{"messages in messages", strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 60) + "\r\nfür\r\n", false, errComplex},
		{"too many parts", "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n", 10_001) + "\r\nfür\r\n", false, errComplex},
		{"big header of a part", "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + strings.Repeat("A: b\r\n", 20_000) + "\r\nfür\r\n", false, errComplex},
		{"address", "From: <ü@a.test>\r\n\r\nx\r\n", false, errAddress},
		{"address in a message within", "Content-Type: message/rfc822\r\n\r\nFrom: <ü@a.test>\r\n\r\nx\r\n", false, errAddress},
	} {
		if _, err := New(parsed(t, tc.in), tc.binary, Target{}); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

// TestReadsFail: what cannot be read is a fault of ours and nobody's message.
func TestReadsFail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(path, []byte("für\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*message.Body{"gone": message.OpenBody("/nowhere", 6, "none"), "damaged": message.OpenBody(path, 6, "none")} {
		_, err := New(message.New(parsed(t, "A: b\r\n\r\n").Header, b), false, Target{})
		if _, ok := errors.AsType[*mail.Reply](err); err == nil || ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// leaves are the parts of a message as readers see them: an independent reading
// of bodies over the same walk. Package email of Python is asked in
// tests/interop.
type leaves struct {
	bodies  []string
	e       *entity
	body    bytes.Buffer
	pending bool
}

func (l *leaves) entity(e *entity) error { l.e = e; l.body.Reset(); l.pending = false; return nil }

func (l *leaves) data(f fragment) error {
	if l.pending {
		l.body.WriteString("\r\n")
	}
	l.body.Write(f.data)
	l.pending = f.eol
	return nil
}

func (l *leaves) end(delimited bool) error {
	if l.pending && !delimited {
		l.body.WriteString("\r\n")
	}
	s := l.body.String()
	switch l.e.encoding {
	case quotedPrintable:
		s = unquotePrintable(s)
	case base64Text:
		s = strings.Map(func(r rune) rune {
			if r < 0x80 && inAlphabet(byte(r)) {
				return r
			}
			return -1
		}, s)
		if b, err := base64.StdEncoding.DecodeString(s); err == nil {
			s = string(b)
		}
	}
	l.bodies = append(l.bodies, s)
	return nil
}

func (l *leaves) aside(fragment, bool) error             { return nil }
func (l *leaves) delimiter(string, bool, fragment, bool) {}

func unquotePrintable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '=':
			b.WriteByte(s[i])
		case strings.HasPrefix(s[i+1:], "\r\n"):
			i += 2
		case i+1 < len(s) && (s[i+1] == '\n' || s[i+1] == '\r'):
			i++
		case i+1 == len(s):
		case i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			n, _ := strconv.ParseUint(s[i+1:i+3], 16, 8)
			b.WriteByte(byte(n))
			i += 2
		default:
			b.WriteByte('=')
		}
	}
	return b.String()
}

func leavesOf(t testing.TB, content string, binary bool) []string {
	t.Helper()
	l := &leaves{}
	w, err := walk(parsed(t, content), binary, l)
	for err == nil && !w.done {
		err = w.step()
	}
	if err != nil {
		t.Fatalf("%v: %q", err, content)
	}
	return l.bodies
}

// FuzzConvert checks that what comes of any content is what its target takes,
// that every part has the same octets as before, and that there is nothing left
// to convert.
func FuzzConvert(f *testing.F) {
	for _, s := range []string{
		"\r\nü\r\n", "Subject: ü\r\n\r\nx", "Content-Type: multipart/mixed; boundary=b\r\n\r\nü\r\n--b\r\n\r\nü\r\n--b \r\nContent-Type: image/png\r\n\r\n\xff\r\n--b--\r\nü",
		"Content-Type: message/rfc822\r\n\r\nFrom: \"ü\" <a@ü.test> (ü)\r\n\r\nü\n", "Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=\r\n=\xff= \r\n--\xff=4",
		"Content-Transfer-Encoding: base64\r\n\r\nAA\xffAA=\r\n", "Content-Type: text/plain; name=\"ü\"; x*=utf-8''ü\r\n\r\n" + strings.Repeat(" ", 1200),
		"Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nA: b\r\n\r\n\x00\r\n--b\r\n\r\n" + strings.Repeat("-", 1200) + "\r\n--b",
		"Received: from ü.test (ü) by b for <ü@c>; x\r\n\r\n", "Content-Type: multipart/mixed; boundary=\"a\"\r\n\r\n--a\r\nContent-Type: multipart/mixed; boundary=\"a--\"\r\n\r\n--a--\r\n\r\n\xff\r\n--a----\r\n",
	} {
		f.Add([]byte(s), true, uint8(0))
		f.Add([]byte(s), false, uint8(1))
	}
	f.Fuzz(check)
}

// TestVectors does the same with published messages.
func TestVectors(t *testing.T) {
	dir := os.Getenv("CADDY_SMTP_VECTORS")
	if dir == "" {
		if os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
			t.Fatal("CADDY_SMTP_VECTORS is not set")
		}
		t.Skip("CADDY_SMTP_VECTORS is not set")
	}
	n := 0
	for _, sub := range []string{"eai", "mimekit", "mailauth"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			for kind := range uint8(4) {
				n++
				check(t, b, false, kind)
				check(t, b, true, kind)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 400 {
		t.Errorf("only %d", n)
	}
}

func check(t *testing.T, in []byte, binary bool, kind uint8) {
	t.Helper()
	m, err := message.Parse(in)
	if err != nil || m.Header.HasNUL() {
		return
	}
	if !binary {
		in = []byte(strings.NewReplacer("\r\n", "\r\n", "\n", "\r\n", "\r", "", "\x00", "").Replace(string(in)))
	}
	content := string(in)
	if m, err = message.Parse(in); err != nil {
		return
	}
	target := []Target{{}, {EightBit: true}, {EightBit: true, UTF8: true}, {LongLines: true}}[kind%4]
	out, err := converted(t, content, binary, target)
	if err != nil {
		if _, ok := errors.AsType[*mail.Reply](err); !ok {
			t.Fatal(err)
		}
		return
	}
	signed := bytes.Contains(bytes.ToLower(in), []byte("signed")) || bytes.Contains(bytes.ToLower(in), []byte("partial"))
	// Long lines are kept in what says that it has parts, and cannot have any.
	multiparts := bytes.Count(bytes.ToLower(in), []byte("multipart"))
	broken := multiparts > 1 || multiparts == 1 && boundary(m.Header.Get("Content-Type")) == ""
	fits(t, out, target, signed || broken || bytes.Contains(in, []byte("Encoding")))
	again, err := New(parsed(t, out), false, target)
	if err != nil || again != nil {
		t.Fatalf("converted again: %v\n%q", err, out)
	}
	if before, after := leavesOf(t, content, binary), leavesOf(t, out, false); !slices.EqualFunc(before, after, sameBody) {
		t.Fatalf("%q\nbefore %q\nafter  %q", out, before, after)
	}
}

// sameBody allows for a last line that is given its end, as content has to have.
func sameBody(a, b string) bool {
	return strings.TrimSuffix(a, "\r\n") == strings.TrimSuffix(b, "\r\n")
}

// fits checks that content is what a target takes.
func fits(t *testing.T, out string, target Target, longLines bool) {
	t.Helper()
	rest := strings.ReplaceAll(out, "\r\n", "")
	if strings.ContainsAny(rest, "\r\n\x00") {
		t.Fatalf("bare CR, LF or NUL: %q", out)
	}
	if !target.EightBit && !target.UTF8 && !isASCII(out) {
		t.Fatalf("8-bit octets: %q", out)
	}
	for l := range strings.SplitSeq(out, "\r\n") {
		if len(l) > maxLine && !target.LongLines && !longLines {
			t.Fatalf("line of %d octets", len(l))
		}
	}
}

// TestNothingQuadratic: the bound is far above what it takes.
func TestNothingQuadratic(t *testing.T) {
	nested := "Content-Type: multipart/mixed; boundary=b\r\n\r\n"
	for i := range maxDepth - 1 {
		nested += "--b" + strings.Repeat("x", max(0, i-1)) + "\r\nContent-Type: multipart/mixed; boundary=b" + strings.Repeat("x", i) + "\r\n\r\n"
	}
	for name, in := range map[string]string{
		"dashes":      nested + strings.Repeat("--bxü\r\n", 1<<18),
		"parts":       "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nü\r\n", 9000),
		"long line":   "A: b\r\n\r\n" + strings.Repeat("ü", 1<<20),
		"white space": "A: b\r\n\r\nü" + strings.Repeat(" ", 1<<21),
		"words":       "Subject:" + strings.Repeat(" ü x", 20_000) + "\r\n\r\n",
		"one word":    "Subject: " + strings.Repeat("ü", 50_000) + "\r\n\r\n",
		"parameters":  "Content-Type: text/plain" + strings.Repeat("; a=ü", 10_000) + "\r\n\r\n",
		"addresses":   "To: " + strings.Repeat("ü <a@b.test>, ", 5000) + "\r\n\r\n",
		"comments":    "To: " + strings.Repeat("(ü", 20_000) + "\r\n\r\n",
		"quotes":      "To: " + strings.Repeat("\"ü\" ", 10_000) + "\r\n\r\n",
	} {
		start := time.Now()
		if _, err := New(parsed(t, in), false, Target{}); err != nil {
			if _, ok := errors.AsType[*mail.Reply](err); !ok {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// TestMemory: a big message is not held.
func TestMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "body")
	body := bytes.Repeat([]byte("für alle, die es lesen\r\n"), 1<<18)
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	m := message.New(parsed(t, "A: b\r\n\r\n").Header, message.OpenBody(path, int64(len(body)), message.NewBody(body).Sum()))
	c, err := New(m, false, Target{})
	if err != nil {
		t.Fatal(err)
	}
	allocated := testing.AllocsPerRun(1, func() {
		r, err := c.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
	})
	if allocated > 1000 {
		t.Errorf("%.0f allocations", allocated)
	}
}

// TestReader: whatever the reads are, they are of the same octets.
func TestReader(t *testing.T) {
	c, err := New(parsed(t, "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"+strings.Repeat("für ", 2000)+"\r\n--b--\r\n"), false, Target{})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := c.NewReader()
	want, _ := io.ReadAll(r)
	for range 2 { // the plan is not used up
		r, _ = c.NewReader()
		got, err := io.ReadAll(iotest.OneByteReader(r))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatal(err)
		}
	}
}

func BenchmarkConvert(b *testing.B) {
	for name, body := range map[string]string{"text": strings.Repeat("Grüße an alle, die dies lesen, und auch an die anderen.\r\n", 20_000), "image": strings.Repeat("\xff\xfe\xfd\r\n12345678901234567890", 40_000)} {
		typ := map[string]string{"text": "text/plain", "image": "image/png"}[name]
		b.Run(name, func(b *testing.B) {
			m := parsed(b, "Content-Type: "+typ+"\r\n\r\n"+body)
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := New(m, true, Target{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
