//go:build linux

package interop

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// ends are what some server has taken, or may take, for the end of content in
// the place of CRLF.CRLF: what SEC Consult's "SMTP Smuggling" of December 2023
// lists, and what its neighbours are.
func ends() []string {
	var all []string
	for _, before := range []string{"\n", "\r", "\r\n", "\r\r\n", "\n\r", "\n\n", "\r\n\x00", "\x00\r\n", "\n\r\n"} {
		for _, dot := range []string{".", "..", ".\x00", ". "} {
			for _, after := range []string{"\n", "\r", "\r\n", "\r\r\n", "\n\r", "\n\n", "\x00\r\n"} {
				if end := before + dot + after; !strings.Contains(end, "\r\n.\r\n") {
					all = append(all, end)
				}
			}
		}
	}
	return all
}

// smuggler is a client whose content has a second message behind an end.
type smuggler struct {
	conn net.Conn
	r    *bufio.Reader
}

// say sends, and reads the code of a reply; "" when there is none any more.
func (s *smuggler) say(text string) string {
	fmt.Fprint(s.conn, text)
	for {
		l, err := s.r.ReadString('\n')
		if err != nil {
			return ""
		}
		if len(l) > 3 && l[3] != '-' {
			return l[:3]
		}
	}
}

// smuggle sends one message with a second one in it, and reports whether it was
// taken. More than one reply to its content is a fault.
func smuggle(t *testing.T, addr, to, end, how string, n int) bool {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	s := &smuggler{conn, bufio.NewReader(conn)}
	content := fmt.Sprintf("Subject: outer %s %d\r\n\r\nx%sMAIL FROM:<evil@far.test>\r\nRCPT TO:<%s>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n", how, n, end, to)
	if how == "DATA" {
		content += ".\r\n"
	}
	said := []string{"", "EHLO client.test\r\n", "MAIL FROM:<outer@elsewhere.test>\r\n", "RCPT TO:<" + to + ">\r\n"}
	if how == "DATA" {
		said = append(said, "DATA\r\n")
	}
	for _, l := range said {
		if code := s.say(l); code == "" || code[0] > '3' {
			t.Fatalf("%q: %s", l, code)
		}
	}
	if how == "BDAT" {
		content = fmt.Sprintf("BDAT %d LAST\r\n%s", len(content), content)
	}
	code := s.say(content)
	if more := s.say("QUIT\r\n"); more != "" && more != "221" {
		t.Errorf("%s %q: a second reply, %s", how, end, more)
	}
	return code == "250"
}

// smuggleAll says everything, and returns how many messages were taken.
func smuggleAll(t *testing.T, addr, to string) (taken int) {
	t.Helper()
	for n, end := range ends() {
		for _, how := range []string{"DATA", "BDAT"} {
			if smuggle(t, addr, to, end, how, n) {
				taken++
			}
		}
	}
	t.Logf("%d ends, of which %d messages were taken", len(ends()), taken)
	if taken == 0 {
		t.Error("nothing was taken, so nothing was tried")
	}
	return taken
}

// unsmuggled wants so many messages, each of which is an outer one, by the first
// Subject that it has.
func unsmuggled(t *testing.T, box string, n int) {
	t.Helper()
	for _, m := range arrive(t, box, n) {
		if strings.Contains(m, "Return-Path: <evil@") || strings.Contains(m, "Delivered-To: evil") {
			t.Errorf("smuggled:\n%s", m)
		}
		head, _, _ := strings.Cut(strings.ReplaceAll(m, "\r\n", "\n"), "\n\n")
		if !strings.Contains(head, "\nSubject: outer ") {
			t.Errorf("smuggled:\n%s", m)
		}
	}
}

// TestSmugglingIn: none of the ends makes two messages of one here.
func TestSmugglingIn(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.serve(takes, "mx")
	unsmuggled(t, h.inbox("user"), smuggleAll(t, h.addr("mx"), "user@example.test"))
}

// TestSmugglingOut: what we have taken and send on is one message to a next hop
// that takes some of these for the end of content, such as Postfix 3.7, which
// does unless it is told otherwise, and OpenSMTPD.
func TestSmugglingOut(t *testing.T) {
	t.Parallel()
	t.Run("Postfix", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		to := newPostfix(t, h.addr("postfix"), append(receiving, "smtpd_tls_security_level = none", "smtpd_soft_error_limit = 1001", "smtpd_hard_error_limit = 1000", "smtpd_forbid_bare_newline = no")...)
		to.start()
		// That it does not care: the same, said to it, is two messages.
		lenient(t, to.addr, to.box("second"))
		h.serve(gateway(to.addr+` {
			trust 127.0.0.0/8
			tls off
		}`), "out")
		taken := smuggleAll(t, h.addr("out"), "user@far.test")
		unsmuggled(t, to.box("user"), taken)
		wait(t, "the queue to be empty", func() bool { return !strings.Contains(h.queued(), "far.test") })
	})
	t.Run("OpenSMTPD", func(t *testing.T) {
		t.Parallel()
		h := newHost(t)
		to := newOpensmtpd(t, h.addr("opensmtpd"), "")
		to.start()
		h.serve(gateway(to.addr+` {
			trust 127.0.0.0/8
			tls off
		}`), "out")
		unsmuggled(t, to.box(), smuggleAll(t, h.addr("out"), "user@far.test"))
	})
}

// lenient shows that a next hop takes LF.CRLF for the end.
func lenient(t *testing.T, addr, box string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	s := &smuggler{conn, bufio.NewReader(conn)}
	for _, l := range []string{"", "EHLO client.test\r\n", "MAIL FROM:<outer@elsewhere.test>\r\n", "RCPT TO:<second@far.test>\r\n", "DATA\r\n",
		"Subject: outer\r\n\r\nx\n.\r\nMAIL FROM:<evil@far.test>\r\nRCPT TO:<second@far.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n"} {
		if code := s.say(l); code == "" || code[0] > '3' {
			t.Fatalf("%q: %s", l, code)
		}
	}
	arrive(t, box, 2)
}
