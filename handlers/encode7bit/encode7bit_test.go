package encode7bit

import (
	"io"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestHandler(t *testing.T) {
	const mime = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n"
	for _, tc := range []struct {
		name, in string
		body     mail.Body
		stranger bool
		any      bool

		out  string // "" for as it came
		then mail.Body
	}{
		{name: "ASCII", in: "A: b\r\n\r\nx\r\n", body: mail.Body7Bit, then: mail.Body7Bit},
		{name: "8-bit", in: "A: b\r\n\r\nfür\r\n", body: mail.Body8Bit, out: "A: b\r\n" + mime, then: mail.Body7Bit},
		{name: "undeclared", in: "A: b\r\n\r\nfür\r\n", out: "A: b\r\n" + mime, then: mail.Body7Bit},
		{name: "header", in: "Subject: für\r\n\r\nx\r\n", out: "Subject: =?utf-8?q?f=C3=BCr?=\r\n\r\nx\r\n", then: mail.Body7Bit},
		{name: "header that cannot be", in: "From: <ü@a.test>\r\n\r\nfür\r\n", body: mail.Body8Bit, out: "From: <ü@a.test>\r\n" + mime, then: mail.Body8Bit},
		{name: "long line", in: "A: b\r\n\r\n" + strings.Repeat("x", 999) + "\r\n",
			out: "A: b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" +
				strings.Repeat(strings.Repeat("x", 75)+"=\r\n", 13) + strings.Repeat("x", 24) + "\r\n", then: mail.Body7Bit},
		{name: "binary", in: "Content-Type: a/b\r\n\r\n\x00\n", body: mail.BodyBinary, out: "Content-Type: a/b\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nAAo=\r\n", then: mail.Body7Bit},
		{name: "binary that is none", in: "A: b\r\n\r\nx\r\n", body: mail.BodyBinary, then: mail.Body7Bit},
		{name: "signed by S/MIME", in: "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nfür\r\n--b--\r\n", body: mail.Body8Bit, then: mail.Body8Bit},
		{name: "signed by DKIM", in: "DKIM-Signature: x\r\n\r\nfür\r\n", body: mail.Body8Bit, then: mail.Body8Bit},
		{name: "sealed", in: "ARC-Seal: x\r\n\r\nfür\r\n", body: mail.Body8Bit, then: mail.Body8Bit},
		{name: "of a stranger", in: "A: b\r\n\r\nfür\r\n", body: mail.Body8Bit, stranger: true, then: mail.Body8Bit},
		{name: "of any stranger", in: "A: b\r\n\r\nfür\r\n", body: mail.Body8Bit, stranger: true, any: true, out: "A: b\r\n" + mime, then: mail.Body7Bit},
	} {
		m, err := message.Parse([]byte(tc.in))
		if err != nil {
			t.Fatal(err)
		}
		tx := &session.Transaction{Session: &session.Session{User: "alice"}, Envelope: &mail.Envelope{Body: tc.body}}
		if tc.stranger {
			tx.Session.User = ""
		}
		h := &Handler{AnyClient: tc.any}
		if err := h.HandleMessage(t.Context(), tx, m); err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		r, _ := m.NewReader()
		got, _ := io.ReadAll(r)
		if want := tc.out; want == "" && string(got) != tc.in || want != "" && string(got) != want || tx.Envelope.Body != tc.then {
			t.Errorf("%s: %s\n%s", tc.name, tx.Envelope.Body, got)
		}
	}
}

// TestUnreadable: a message that cannot be read is a fault of ours, not passed on.
func TestUnreadable(t *testing.T) {
	m, _ := message.Parse([]byte("A: b\r\n\r\n"))
	m = message.New(m.Header, message.OpenBody("/nowhere", 5, "none"))
	tx := &session.Transaction{Session: &session.Session{User: "alice"}, Envelope: &mail.Envelope{}}
	if err := new(Handler).HandleMessage(t.Context(), tx, m); err == nil {
		t.Error("passed")
	}
}

func TestCaddyfile(t *testing.T) {
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser("encode_7bit {\nany_client\n}")); err != nil || !h.AnyClient {
		t.Error(err)
	}
	for _, in := range []string{"encode_7bit x", "encode_7bit {\nheader\n}"} {
		if err := new(Handler).UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err == nil {
			t.Errorf("%s: no error", in)
		}
	}
}
