package dsn

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

func TestRoundTrip(t *testing.T) {
	r := report(t)
	r.Recipients = append(r.Recipients,
		Recipient{Recipient: mail.NewRecipient(addr(t, "carol@c.test")), Action: Delayed, Until: until, LastAttempt: tried},
		Recipient{Recipient: mail.NewRecipient(addr(t, "bärbel@d.test")), Action: Relayed, Reply: &mail.Reply{Code: 250, Enh: "2.1.5", Text: "ok"}},
		Recipient{Recipient: mail.NewRecipient(addr(t, `"a b"@e.test`)), Action: Expanded})
	s, err := Parse(buildMessage(t, r))
	if err != nil {
		t.Fatal(err)
	}
	if s.ReportingMTA != "mx.a.test" || s.EnvelopeID != "QQ314159" || !s.Arrived.Equal(arrived) || len(s.Recipients) != 4 {
		t.Fatalf("got %+v", s)
	}
	want := RecipientStatus{
		Original: "rfc822;Bob@b.test", Final: "rfc822;bob@b.test", Action: Failed, Status: "5.1.1", RemoteMTA: "mx.b.test",
		Diagnostic: "smtp; 550 5.1.1 no such mailbox",
	}
	got := s.Recipients[0]
	if !got.LastAttempt.Equal(tried) {
		t.Errorf("got %v", got.LastAttempt)
	}
	if got.LastAttempt = (time.Time{}); got != want {
		t.Errorf("got %+v", got)
	}
	if c := s.Recipients[1]; c.Action != Delayed || c.Status != "4.0.0" || !c.WillRetry.Equal(until) {
		t.Errorf("got %+v", c)
	}
	for i, want := range []string{"Bob@b.test", "carol@c.test", "bärbel@d.test", `"a b"@e.test`} {
		if a, err := s.Recipients[i].Address(); err != nil || a != addr(t, want) {
			t.Errorf("got %v, %v", a, err)
		}
	}
}

// notification wraps a delivery-status part as others do.
func notification(status, headers string) string {
	return "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\npreamble\r\n--b\r\n\r\nSorry.\r\n" +
		"--b\r\nContent-Type: message/delivery-status\r\n" + headers + "\r\n" + status + "\r\n--b--\r\n"
}

func TestParseOthers(t *testing.T) {
	const min = "Reporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@b.test\r\nAction: failed\r\n"
	for name, in := range map[string]string{
		"minimal":            notification(min, ""),
		"two empty lines":    notification(strings.Replace(min, "\r\n\r\n", "\r\n\r\n\r\n", 1)+"\r\n\r\n", ""),
		"leading empty line": notification("\r\n"+min, ""),
		"LF":                 notification(strings.ReplaceAll(min, "\r\n", "\n"), ""),
		"base64":             notification(base64.StdEncoding.EncodeToString([]byte(min)), "Content-Transfer-Encoding: base64\r\n"),
		"quoted-printable":   notification(strings.ReplaceAll(min, "b.test", "b=2Etest"), "Content-Transfer-Encoding: quoted-printable\r\n"),
		"case and comment":   notification("reporting-mta: DNS;x\r\n\r\nfinal-recipient: RFC822;a@b.test\r\naction: Failed (for good)\r\n", ""),
		"a line of no field": notification(min+"what is this\r\n\r\nAction: failed\r\n", ""),
		"unknown action too": notification(min+"\r\nFinal-Recipient: rfc822;c@d.test\r\nAction: eaten\r\n", ""),
	} {
		s, err := Parse(parsed(t, in))
		if err != nil || s.ReportingMTA != "x" || len(s.Recipients) != 1 || s.Recipients[0].Action != Failed {
			t.Errorf("%s: got %+v, %v", name, s, err)
			continue
		}
		if a, err := s.Recipients[0].Address(); err != nil || a != addr(t, "a@b.test") {
			t.Errorf("%s: got %v, %v", name, a, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"plain text":    "Subject: Undelivered\r\n\r\nsorry\r\n",
		"mixed":         "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b--\r\n",
		"no boundary":   "Content-Type: multipart/report\r\n\r\n",
		"no parts":      "Content-Type: multipart/report; boundary=b\r\n\r\n",
		"cut":           "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Ty",
		"no status":     "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n",
		"many parts":    "Content-Type: multipart/report; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", 1000) + "--b--\r\n",
		"no recipient":  notification("Reporting-MTA: dns; x\r\n", ""),
		"no action":     notification("Reporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822;a@b.test\r\n", ""),
		"broken base64": notification("!!!", "Content-Transfer-Encoding: base64\r\n"),
	} {
		if s, err := Parse(parsed(t, in)); !errors.Is(err, ErrNotDSN) {
			t.Errorf("%s: got %+v, %v", name, s, err)
		}
	}
}

func TestUnitext(t *testing.T) {
	for in, want := range map[string]string{
		`b\x{E4}rbel@b.test`: "bärbel@b.test", `a@b.test`: "a@b.test", `\x{5C}`: `\`, `\x{}`: `\x{}`, `\x{D800}`: `\x{D800}`, `\x{41`: "A", `\x{zz}`: `\x{zz}`,
	} {
		if got := fromUnitext(in); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}

// FuzzParse also feeds what was read into a notification of our own, which has
// to be well-formed whatever that was.
func FuzzParse(f *testing.F) {
	f.Add(notification("Reporting-MTA: dns; x\r\n\r\nFinal-Recipient: rfc822; a@b.test\r\nAction: failed\r\nStatus: 5.1.1\r\n", ""))
	f.Add(notification("a\r\n\r\n:b\r\n\r\nFinal-Recipient: utf-8;\\x{E4}\r\nAction: delayed", "Content-Transfer-Encoding: base64\r\n"))
	f.Fuzz(func(t *testing.T, in string) {
		m := parsedOrSkip(t, in)
		s, err := Parse(m)
		if err != nil {
			if !errors.Is(err, ErrNotDSN) {
				t.Fatal(err)
			}
			return
		}
		r := report(t)
		r.Content = m
		r.Hostname, r.Envelope.ID = "mx.a.test", s.EnvelopeID
		for _, rs := range s.Recipients {
			rc := Recipient{Recipient: &mail.Recipient{Address: addr(t, "a@b.test"), Original: rs.Original}, Action: rs.Action,
				Reply: &mail.Reply{Code: 500, Enh: rs.Status, Text: rs.Diagnostic}, RemoteMTA: rs.RemoteMTA}
			r.Recipients = append(r.Recipients, rc)
		}
		again, err := Parse(buildMessage(t, r))
		if err != nil || len(again.Recipients) != len(r.Recipients) {
			t.Fatalf("%q: %v", in, err)
		}
		if len(r.Recipients) < 50 {
			build(t, r)
		}
	})
}

func parsedOrSkip(t *testing.T, in string) *message.Message {
	m, err := message.Parse([]byte(in))
	if err != nil {
		t.Skip()
	}
	return m
}
