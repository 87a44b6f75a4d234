package nexthop

import (
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestFit hands messages to hosts that take less, or not.
func TestFit(t *testing.T) {
	const (
		all    = "8BITMIME CHUNKING BINARYMIME SMTPUTF8"
		quoted = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nf=C3=BCr\r\n"
	)
	long := strings.Repeat("long ", 300)
	for _, tc := range []struct {
		name, content string
		body          mail.Body
		utf8          bool
		ext           string
		lmtp          bool
		noConvert     bool

		mail, out, want string // want is what becomes of the recipient, if the host does not take it
	}{
		{name: "ASCII", content: "A: b\r\n\r\nx\r\n", mail: "", out: "A: b\r\n\r\nx\r\n"},
		{name: "8-bit", content: "A: b\r\n\r\nfür\r\n", body: mail.Body8Bit, ext: all, mail: " BODY=8BITMIME", out: "A: b\r\n\r\nfür\r\n"},
		{name: "8-bit that nobody declared", content: "A: b\r\n\r\nfür\r\n", ext: all, mail: " BODY=8BITMIME", out: "A: b\r\n\r\nfür\r\n"},
		{name: "8-bit to 7-bit", content: "A: b\r\n\r\nfür\r\n", body: mail.Body8Bit, mail: "", out: "A: b\r\n" + quoted},
		{name: "the same to a store", content: "A: b\r\n\r\nfür\r\n", lmtp: true, mail: "", out: "A: b\r\n" + quoted},
		{name: "the same returned", content: "A: b\r\n\r\nfür\r\n", noConvert: true, want: "failed 554 5.6.3"},
		{name: "signed", content: "Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n\r\nfür\r\n--b--\r\n", want: "failed 554 5.6.2"},
		{name: "binary", content: "A: b\r\n\r\nf\x00r\n.\n", body: mail.BodyBinary, ext: all, mail: " BODY=BINARYMIME", out: "A: b\r\n\r\nf\x00r\n.\n"},
		{name: "binary to 8-bit", content: "Content-Type: a/b\r\n\r\nf\x00\xff\n", body: mail.BodyBinary, ext: "8BITMIME", mail: " BODY=7BIT",
			out: "Content-Type: a/b\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\nZgD/Cg==\r\n"},
		{name: "binary without chunks", content: "A: b\r\n\r\nfür\r\n", body: mail.BodyBinary, ext: "8BITMIME BINARYMIME", mail: " BODY=8BITMIME", out: "A: b\r\n\r\nfür\r\n"},
		{name: "binary returned", content: "A: b\r\n\r\nfür\r\n", body: mail.BodyBinary, ext: "8BITMIME", noConvert: true, want: "failed 554 5.6.3"},
		{name: "header", content: "Subject: für\r\n\r\nfür\r\n", utf8: true, ext: all, mail: " BODY=8BITMIME SMTPUTF8", out: "Subject: für\r\n\r\nfür\r\n"},
		{name: "header made ASCII", content: "Subject: für\r\n\r\nfür\r\n", utf8: true, ext: "8BITMIME", mail: " BODY=8BITMIME", out: "Subject: =?utf-8?q?f=C3=BCr?=\r\n\r\nfür\r\n"},
		{name: "header that nobody declared", content: "Subject: für\r\n\r\nfür\r\n", ext: "8BITMIME", mail: " BODY=8BITMIME", out: "Subject: =?utf-8?q?f=C3=BCr?=\r\n\r\nfür\r\n"},
		{name: "the same to a store", content: "Subject: für\r\n\r\nfür\r\n", ext: "8BITMIME", lmtp: true, mail: " BODY=8BITMIME", out: "Subject: für\r\n\r\nfür\r\n"},
		{name: "declared to a store", content: "Subject: für\r\n\r\nfür\r\n", utf8: true, ext: "8BITMIME", lmtp: true, mail: " BODY=8BITMIME", out: "Subject: =?utf-8?q?f=C3=BCr?=\r\n\r\nfür\r\n"},
		{name: "header returned", content: "Subject: für\r\n\r\n", utf8: true, ext: "8BITMIME", noConvert: true, want: "failed 550 5.6.7"},
		{name: "address in the header", content: "From: <für@a.test>\r\n\r\n", utf8: true, ext: "8BITMIME", want: "failed 550 5.6.7"},
		{name: "SMTPUTF8 for another recipient", content: "A: b\r\n\r\nx\r\n", utf8: true, mail: "", out: "A: b\r\n\r\nx\r\n"},
		{name: "long lines", content: "A: b\r\n\r\n" + long + "\r\n", ext: all, mail: " BODY=7BIT",
			out: "A: b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + strings.Repeat(long[:75]+"=\r\n", 19) + long[:74] + "=\r\n=20\r\n"},
		{name: "long line in the header", content: "A: " + long + "\r\n\r\nx\r\n", mail: "", out: message.Fold("A", long) + "\r\nx\r\n"},
		{name: "long lines to a store", content: "A: b\r\n\r\n" + long + "\r\n", lmtp: true, mail: "", out: "A: b\r\n\r\n" + long + "\r\n"},
		{name: "long lines in what is too deep", content: strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 60) + "A: b\r\n\r\n" + long + "\r\n", mail: "",
			out: strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 60) + "A: b\r\n\r\n" + long + "\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			srv := clienttest.Start(t, clienttest.Options{Extensions: append([]string{"PIPELINING"}, strings.Fields(tc.ext)...), LMTP: tc.lmtp})
			s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}})
			s.NoConvert = tc.noConvert
			if tc.lmtp {
				s.Client.LMTP, s.Done = true, queue.Delivered
			}
			d := delivery(t, "a@o.test")
			d.Envelope.Body, d.Envelope.UTF8 = tc.body, tc.utf8
			m, err := message.Parse([]byte(tc.content))
			if err != nil {
				t.Fatal(err)
			}
			d.Content = m
			for range 2 { // a retry sends the same
				sts := s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))
				if got := words(sts); tc.want != "" && !strings.HasPrefix(got, tc.want) || tc.want == "" && sts[0].Action != s.Done {
					t.Fatalf("got %s", got)
				}
			}
			ms := srv.Messages()
			if tc.want != "" {
				if len(ms) > 0 {
					t.Errorf("sent %d", len(ms))
				}
				return
			}
			for _, m := range ms {
				if string(m.Content) != tc.out || m.Mail != "<bob@us.test>"+tc.mail {
					t.Errorf("MAIL FROM:%s\n%s", m.Mail, m.Content)
				}
			}
		})
	}
}

// TestFitRecipients: who cannot be named without SMTPUTF8 is returned, and the
// others get the message without it.
func TestFitRecipients(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{Extensions: []string{"8BITMIME"}})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}})
	d := delivery(t, "für@o.test", "a@für.test")
	d.Envelope.UTF8 = true
	d.Envelope.Recipients[1].Original = "utf-8;ä@für.test"
	sts := s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))
	if sts[0].Action != queue.Failed || sts[0].Reply.Enh != "5.6.7" || sts[1].Action != queue.Relayed {
		t.Errorf("got %s", words(sts))
	}
	if ms := srv.Messages(); len(ms) != 1 || ms[0].Rcpt[0] != "<a@xn--fr-xka.test>" {
		t.Errorf("got %+v", ms)
	}
	d.Envelope.From.Local = "für"
	if got := words(s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test"))); strings.Count(got, "failed 550 5.6.7") != 2 {
		t.Errorf("got %s", got)
	}
}

// TestFitFails: content that cannot be read is for later, and a fault of ours.
func TestFitFails(t *testing.T) {
	srv := clienttest.Start(t, clienttest.Options{Extensions: []string{"SIZE"}})
	s := sender(t, &world{at: map[string]*clienttest.Server{"192.0.2.1:25": srv}})
	d := delivery(t, "a@o.test")
	d.Content = message.New(d.Content.Header, message.OpenBody("/nowhere", 10, "none"))
	if sts := s.Send(t.Context(), d, d.Envelope.Recipients, hosts("a.mx.test")); sts[0].Action != queue.Delayed || sts[0].Reply.Enh != "4.3.0" {
		t.Errorf("got %s", words(sts))
	}
}
