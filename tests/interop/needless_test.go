//go:build linux

package interop

import (
	"fmt"
	"net"
	"net/smtp"
	"strings"
	"testing"
	"time"
)

// TestNeedlessExtensions: Go's net/smtp asks for BODY=8BITMIME and SMTPUTF8
// whenever they are offered, as other clients do. What is all ASCII needs
// neither of the next hop (RFC 6152, section 3; RFC 6531, section 3.4).
func TestNeedlessExtensions(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var hops []*hop
	for i, flags := range [][]string{{}, {"-8"}, {"-e"}} {
		hops = append(hops, newHop(h, i, "relay", flags...))
	}
	hops = append(hops, newHop(h, len(hops), "lmtp", "-L"))
	toHops(h, hops)
	for _, p := range hops {
		if err := goSends(h.addr("out"), login, p.to(), "From: <"+login+">\r\nSubject: ASCII\r\n\r\nhello\r\n"); err != nil {
			t.Fatal(err)
		}
		p.idle(h)
	}
	for _, p := range hops {
		if len(maildir(t, p.dir)) == 0 {
			t.Errorf("%s %v did not get it", p.agent, p.flags)
			continue
		}
		if m := got(t, p.dir, "ASCII"); strings.Contains(m.Header.Get("X-Mail-Args"), "SMTPUTF8") {
			t.Errorf("MAIL FROM:%s", m.Header.Get("X-Mail-Args"))
		}
	}
	if n := len(maildir(t, h.inbox("alice"))); n != 0 {
		t.Fatalf("%d DSNs, of which one is:\n%s", n, arrive(t, h.inbox("alice"), n)[0])
	}

	// What is not ASCII is converted for who lacks them.
	for _, subject := range []string{"Grüße", "=?utf-8?b?R3LDvMOfZQ==?="} {
		if err := goSends(h.addr("out"), login, hops[1].to(), "From: <"+login+">\r\nSubject: "+subject+"\r\n\r\nschöne Grüße\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	hops[1].idle(h)
	for _, text := range arrive(t, hops[1].dir, 3) {
		if !strings.Contains(text, "Subject: ASCII") {
			contains(t, text, "Subject: =?utf-8?b?R3LDvMOfZQ==?=", "sch=C3=B6ne Gr=C3=BC=C3=9Fe")
		}
	}
}

// goSends sends as Go's net/smtp does.
func goSends(addr, from, to, text string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c, err := smtp.NewClient(conn, "")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Mail(from); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	fmt.Fprint(w, text)
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}
