//go:build linux

package interop

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/convert"
	rfc5321 "github.com/caddymail/caddy-smtp/smtpapp/mail"
	mime "github.com/caddymail/caddy-smtp/smtpapp/message"
)

// lines are what bodies are put together of.
var lines = []string{
	"für alle", "привет, мир", "Gr\xfc\xdfe", "a = b", "=3D", "=", "soft=", " ", "\t", "trailing  ", "-- ", "--", "--b", "--b0x", ".", "..", "From x", "\x7f", "\xff\xfe\xfd",
	"x", "", strings.Repeat("long ", 300), strings.Repeat("ü", 700), strings.Repeat("-", 1100), "QUJD", "=C3=BC",
}

// odd are what binary bodies may have too.
var odd = []string{"\x00", "\n", "\r", "\x01\x02\n\n", "a\nb"}

func pick(r *rand.Rand, of []string) string { return of[r.IntN(len(of))] }

func body(r *rand.Rand, binary bool) string {
	var b strings.Builder
	for range r.IntN(6) {
		b.WriteString(pick(r, lines))
		if binary && r.IntN(2) == 0 {
			b.WriteString(pick(r, odd) + "x")
		}
		b.WriteString("\r\n")
	}
	return b.String()
}

var shown = []string{"Subject: für dich", "Subject: Grüße  an   alle, und mehr", "Subject: plain", "X-Own: 日本語のテスト, ja", "From: Jürgen Groß <a@x.test>", `From: "Groß, J." <a@bücher.test>`,
	"To: a@x.test, Bärbel <b@x.test>", "Subject: " + strings.Repeat("ü lang ", 60) + "x"}

// entity makes a part or a message.
func entity(r *rand.Rand, depth int, binary bool) string {
	head := ""
	if r.IntN(3) == 0 {
		head = "Content-Disposition: attachment; filename=\"" + pick(r, []string{"x.txt", "Grüße; alle.txt", strings.Repeat("ü", 60) + ".txt"}) + "\"\r\n"
	}
	eight := "Content-Transfer-Encoding: 8bit\r\n"
	if binary {
		eight = "Content-Transfer-Encoding: binary\r\n"
	}
	kind := r.IntN(10)
	if depth > 4 {
		kind = r.IntN(6)
	}
	switch kind {
	case 0:
		return head + "\r\nx\r\n" + body(r, false) // in a digest it is a message; readers disagree on one that begins with white space
	case 1:
		return head + "Content-Type: text/plain; charset=utf-8\r\n" + eight + "\r\n" + body(r, binary)
	case 2:
		return head + "Content-Type: text/html; charset=iso-8859-1\r\n\r\n" + body(r, false)
	case 3:
		return head + "Content-Type: image/png\r\n" + eight + "\r\n" + body(r, binary)
	case 4:
		return head + "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + body(r, false)
	case 5:
		raw := base64.StdEncoding.EncodeToString([]byte(body(r, true)))
		return head + "Content-Type: application/x\r\nContent-Transfer-Encoding: BASE64\r\n\r\n" + raw + "\r\n"
	case 6:
		return head + "Content-Type: message/rfc822\r\n" + eight + "\r\n" + pick(r, shown) + "\r\n" + entity(r, depth+1, binary)
	}
	b := fmt.Sprintf("b%d", depth)
	s := head + pick(r, []string{"Content-Type: multipart/mixed; boundary=" + b, "Content-Type: multipart/alternative;\r\n boundary=\"" + b + "\"", "Content-Type: multipart/digest; boundary=" + b}) + "\r\n" + eight + "\r\n"
	if r.IntN(2) == 0 {
		s += "preamble, plain\r\n"
	}
	for range r.IntN(4) {
		s += "--" + b + pick(r, []string{"", " "}) + "\r\n" + entity(r, depth+1, binary)
	}
	if r.IntN(5) > 0 {
		s += "--" + b + "--\r\n"
	}
	return s
}

// convertible are messages from this generator and from published ones.
func convertible(t *testing.T) (all []string, binary []bool) {
	r := rand.New(rand.NewPCG(2045, 6152))
	for i := range 4000 {
		all = append(all, pick(r, shown)+"\r\nMIME-Version: 1.0\r\n"+entity(r, 0, i%2 == 1))
		binary = append(binary, i%2 == 1)
	}
	dir := os.Getenv("CADDY_SMTP_VECTORS")
	if dir == "" {
		if os.Getenv("CADDY_SMTP_REQUIRE_ALL") == "1" {
			t.Fatal("CADDY_SMTP_VECTORS is not set")
		}
		return all, binary
	}
	for _, sub := range []string{"eai", "mimekit"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			text := strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n")
			if err == nil && !strings.ContainsRune(text, 0) && !strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\r") {
				all, binary = append(all, text), append(binary, false)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all, binary
}

// TestConvertedPartsAgree: Python's email package finds the same parts with the
// same content, and the same names in fields, before and after.
func TestConvertedPartsAgree(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	all, binary := convertible(t)
	var in strings.Builder
	var pairs [][2]string
	refused, untouched := 0, 0
	for i, text := range all {
		m, err := mime.Parse([]byte(text))
		if err != nil {
			continue
		}
		c, err := convert.New(m, binary[i], convert.Target{})
		if _, ok := errors.AsType[*rfc5321.Reply](err); ok {
			refused++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if c == nil {
			untouched++
			continue
		}
		r, err := c.NewReader()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, [2]string{text, string(b)})
		fmt.Fprintln(&in, base64.StdEncoding.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString(b))
	}
	t.Logf("%d messages: %d converted, %d as they were, %d refused", len(all), len(pairs), untouched, refused)
	if len(pairs) < 2000 {
		t.Fatalf("only %d were converted", len(pairs))
	}
	said := strings.Split(strings.TrimSpace(run(t, in.String(), "python3", "testdata/parts.py")), "\n")
	if len(said) != len(pairs) {
		t.Fatalf("%d answers for %d messages", len(said), len(pairs))
	}
	for i, s := range said {
		if s != "same" {
			t.Errorf("%s\n%q\n%q", s, pairs[i][0], pairs[i][1])
			break
		}
	}
}

// TestPostfixTakes7Bit: a Postfix that announces neither 8BITMIME nor SMTPUTF8
// nor CHUNKING, and refuses 8-bit octets in header and body, gets what clients
// sent with them, by way of an agent that converts; one that does not returns it.
func TestPostfixTakes7Bit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	to := newPostfix(t, h.addr("postfix"), append([]string{
		"smtpd_discard_ehlo_keywords = 8bitmime, smtputf8, chunking, binarymime", "smtputf8_enable = no", "strict_8bitmime = yes",
	}, receiving...)...)
	to.start()
	h.serve(fmt.Sprintf(`
	%s
	agent converts relay %s {
		tls off
	}
	agent returns relay %[2]s {
		tls off
		convert off
	}
	server out ADDR(out) {
		tls off
		%[3]s
		@second rcpt second@far.test
		deliver @second returns
		@far rcpt_domain far.test
		deliver @far converts
	}`, boxes, to.addr, local), "out")

	const header = "From: Jürgen <alice@example.test>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\nSubject: "
	const parts = "\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nfür alle\r\n--b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: %s\r\n\r\n%s\r\n--b--\r\n"
	binary := "\x00\r\n.\r\n\xff\n\r" + strings.Repeat("x", 5000)
	sendBDAT(t, h.addr("out"), "BODY=8BITMIME SMTPUTF8", "user@far.test", header+"für-dich"+fmt.Sprintf(parts, "8bit", "\xfc"))
	sendBDAT(t, h.addr("out"), "BODY=BINARYMIME", "user@far.test", header+"binär"+fmt.Sprintf(parts, "binary", binary))
	sendBDAT(t, h.addr("out"), "", "user@far.test", header+"nothing-declared"+fmt.Sprintf(parts, "8bit", "\xfc"))
	for _, text := range arrive(t, to.box("user"), 3) {
		if strings.ContainsFunc(text, func(r rune) bool { return r > 0x7e || r == 0 }) {
			t.Errorf("not 7-bit:\n%q", text)
		}
		contains(t, text, "From: =?utf-8?q?J=C3=BCrgen?= <alice@example.test>", "f=C3=BCr alle", "Content-Transfer-Encoding: base64")
	}
	contains(t, got(t, to.box("user"), "=?utf-8?q?bin=C3=A4r?=").text, base64.StdEncoding.EncodeToString([]byte(binary))[:76])

	sendBDAT(t, h.addr("out"), "BODY=8BITMIME", "second@far.test", "Subject: returned\r\n\r\nfür\r\n")
	sendBDAT(t, h.addr("out"), "BODY=8BITMIME", "user@far.test", "Subject: signed\r\nContent-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nfür\r\n--b--\r\n")
	sendBDAT(t, h.addr("out"), "BODY=8BITMIME SMTPUTF8", "user@far.test", "Subject: address\r\nFrom: <jürgen@example.test>\r\n\r\nx\r\n")
	dsns := strings.Join(arrive(t, h.inbox("alice"), 3), "")
	contains(t, dsns, "Status: 5.6.3", "Status: 5.6.2", "Status: 5.6.7")
}

// sendBDAT sends a message by BDAT, in two chunks.
func sendBDAT(t *testing.T, addr, params, to, text string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := textproto.NewConn(conn)
	half := len(text) / 2
	for _, step := range [][2]string{
		{"", "220"}, {"EHLO client.test\r\n", "250"}, {"MAIL FROM:<" + login + "> " + params + "\r\n", "250"}, {"RCPT TO:<" + to + ">\r\n", "250"},
		{fmt.Sprintf("BDAT %d\r\n%s", half, text[:half]), "250"}, {fmt.Sprintf("BDAT %d LAST\r\n%s", len(text)-half, text[half:]), "250"}, {"QUIT\r\n", "221"},
	} {
		if _, err := io.WriteString(conn, step[0]); err != nil {
			t.Fatal(err)
		}
		code, _ := strconv.Atoi(step[1])
		if _, _, err := c.ReadResponse(code); err != nil {
			t.Fatalf("%.40q: %v", step[0], err)
		}
	}
}

// TestDovecotTakesBinary: Dovecot stores what it is given by LMTP, converted where
// it says that it does not take it, in a message whose parts are as they were.
func TestDovecotTakesBinary(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	h := newHost(t)
	d := newDovecot(t, h.addr("lmtp"))
	d.start()
	h.serve(fmt.Sprintf("server out ADDR(out) {\ntls off\ndeliver lmtp %s\n}", d.addr), "out")
	binary := "\x00\r\n.\r\n\xff\n\r" + strings.Repeat("x", 5000)
	text := "From: Jürgen <alice@example.test>\r\nSubject: binär\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" +
		"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nfür alle\r\n--b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n" + binary + "\r\n--b--\r\n"
	sendBDAT(t, h.addr("out"), "BODY=BINARYMIME SMTPUTF8", "known@example.test", text)
	stored := arrive(t, d.box("known"), 1)[0]
	_, stored, _ = strings.Cut(stored, "\nFrom: ") // below what the two servers add
	pair := base64.StdEncoding.EncodeToString([]byte(text)) + " " + base64.StdEncoding.EncodeToString([]byte("From: "+stored)) + "\n"
	if said := strings.TrimSpace(run(t, pair, "python3", "testdata/parts.py")); said != "same" {
		t.Errorf("%s\n%q", said, stored)
	}
	if strings.Contains(stored, "\x00") {
		t.Errorf("NUL is stored: %q", stored)
	}
}
