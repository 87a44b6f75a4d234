package clienttest_test

import (
	"fmt"
	"net"
	"net/textproto"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
)

// talk says lines and checks the code of the reply to each.
func talk(t *testing.T, c *textproto.Conn, script ...any) {
	t.Helper()
	for i := 0; i+1 < len(script); i += 2 {
		if line := script[i].(string); line != "" {
			fmt.Fprintf(c.W, "%s\r\n", line)
			c.W.Flush()
		}
		if code, text, _ := c.ReadResponse(0); code != script[i+1] {
			t.Fatalf("%q: got %d %s, want %d", script[i], code, text, script[i+1])
		}
	}
}

func connect(t *testing.T, s *clienttest.Server) *textproto.Conn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(5 * time.Second))
	c := textproto.NewConn(nc)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDialogue(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "rcpt to:<no@", Reply: "550 5.1.1 no", Times: 1})
	c := connect(t, s)
	talk(t, c, "", 220, "MAIL FROM:<>", 503, "EHLO x", 250, "RCPT TO:<a@b.test>", 503, "DATA", 503,
		"MAIL FROM:<> SIZE=3", 250, "MAIL FROM:<>", 503, "RCPT TO:<no@b.test>", 550, "RCPT TO:<a@b.test> NOTIFY=NEVER", 250,
		"DATA", 354, "x\r\n..y\r\n.", 250, "NOOP", 250, "FROB", 500, "STARTTLS", 502, "BDAT x", 501)
	m := s.Messages()
	if len(m) != 1 || string(m[0].Content) != "x\r\n.y\r\n" || m[0].Mail != "<> SIZE=3" || m[0].Recipients[0] != "a@b.test" || m[0].Hello != "x" {
		t.Errorf("got %+v", m)
	}
	if s.Connections() != 1 || s.Commands()[0] != "MAIL FROM:<>" {
		t.Errorf("%d connections, %q", s.Connections(), s.Commands())
	}
}

func TestBareLineEnds(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{})
	for _, body := range []string{"a\nb", "a\rb", "a\n.\nb"} {
		c := connect(t, s)
		talk(t, c, "", 220, "EHLO x", 250, "MAIL FROM:<>", 250, "RCPT TO:<a@b.test>", 250, "DATA", 354)
		talk(t, c, body+"\r\n.", 554)
	}
	talk(t, connect(t, s), "", 220, "NOOP\nNOOP", 500)
	if n := len(s.Messages()); n != 0 {
		t.Errorf("%d messages", n)
	}
}

func TestAuthDemanded(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Users: map[string]string{"a": "b"}})
	talk(t, connect(t, s), "", 220, "EHLO x", 250, "MAIL FROM:<>", 530, "AUTH PLAIN AGEAYw==", 535,
		"AUTH PLAIN", 334, "AGEAYg==", 235, "MAIL FROM:<>", 250)
}
