package tests

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// TestIPv6: a server on IPv6, whose client is in the trace field as one.
func TestIPv6(t *testing.T) {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	addr := ln.Addr().String()
	ln.Close()
	h := newHost(t)
	h.load(strings.Replace(local, "server mx ADDR(mx)", "server mx "+addr+" ADDR(mx)", 1))
	greet(t, addr).send("s@elsewhere.test", "alice@example.test", "over IPv6")
	contains(t, h.inbox("alice", 1)[0], "from client.test ([IPv6:::1])")
	k := dial(t, addr)
	k.want("220")
	k.say("250", "EHLO [IPv6:2001:db8::1]")
	k.send("s@elsewhere.test", "bob@example.test", "a literal in EHLO")
	contains(t, h.inbox("bob", 1)[0], "from [IPv6:2001:db8::1] ([IPv6:::1])")
}

// TestProxied: limits are those of the client that the proxy names, not of the
// proxy; what is no PROXY header is no client.
func TestProxied(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(local, "tls internal", `tls off
		listener_wrappers {
			proxy_protocol {
				allow 127.0.0.0/8
				fallback_policy reject
			}
		}
		limits {
			connections_per_address 2
		}`, 1))
	from := func(head, code string) *talker {
		t.Helper()
		k := dial(t, h.addr("mx"))
		fmt.Fprint(k.conn, head)
		if code != "" {
			k.want(code)
		} else if r, err := k.reply(); err == nil || r != "" {
			t.Errorf("%q: %q", head, r)
		}
		return k
	}
	const four, six = "PROXY TCP4 192.0.2.7 127.0.0.1 12345 25\r\n", "PROXY TCP6 2001:db8::%d ::1 12345 25\r\n"
	first := from(four, "220")
	from(four, "220")
	from(four, "421 4.7.0")
	from("PROXY TCP4 192.0.2.8 127.0.0.1 12345 25\r\n", "220")
	first.say("221", "QUIT")
	wait(t, "room", func() bool {
		k := dial(t, h.addr("mx"))
		fmt.Fprint(k.conn, four)
		r, _ := k.reply()
		return strings.HasPrefix(r, "220")
	})
	from(fmt.Sprintf(six, 1), "220")
	from(fmt.Sprintf(six, 2), "220")
	from(fmt.Sprintf(six, 3), "421 4.7.0") // of the same /64
	// In version 2: 2001:db8:1::7.
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24" + "\x20\x01\x0d\xb8\x00\x01" + strings.Repeat("\x00", 9) + "\x07" + strings.Repeat("\x00", 15) + "\x01" + "\x30\x39\x00\x19"
	k := from(v2, "220")
	k.say("250", "EHLO client.test")
	k.send("s@elsewhere.test", "alice@example.test", "by proxy")
	contains(t, h.inbox("alice", 1)[0], "([IPv6:2001:db8:1::7])")
	// Not from whom it says, or nothing that can be read.
	for _, head := range []string{"PROXY TCP4 example.org 127.0.0.1 1 25\r\n", "PROXY TCP4 192.0.2.7\r\n", "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c" + strings.Repeat("\x01", 12), "PROXY " + strings.Repeat("x", 2000) + "\r\n"} {
		from(head, "")
	}
}

// TestImpatience: who does not wait where he has to, through the whole of it.
func TestImpatience(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(local, "tls internal", "tls internal\ntimeouts {\ngreeting 500ms\n}", 1))
	early := dial(t, h.addr("mx"))
	early.say("554 5.5.0", "EHLO client.test")
	begin := func() *talker {
		k := greet(t, h.addr("mx"))
		k.say("250", "MAIL FROM:<s@elsewhere.test>")
		k.say("250", "RCPT TO:<alice@example.test>")
		return k
	}
	k := begin()
	k.say("554 5.5.0", "DATA\r\nSubject: early\r\n\r\nx\r\n.")
	if r, err := k.reply(); err == nil {
		t.Errorf("it goes on: %q", r)
	}
	k = greet(t, h.addr("mx"))
	k.say("554 5.5.0", "STARTTLS\r\nEHLO injected.test")
	// What may be sent in one go is answered in order (RFC 2920).
	k = greet(t, h.addr("mx"))
	fmt.Fprint(k.conn, "MAIL FROM:<s@elsewhere.test>\r\nRCPT TO:<nobody@example.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n")
	for _, code := range []string{"250", "550", "250", "354"} {
		k.want(code)
	}
	k.say("250", "Subject: in one go\r\n\r\nx\r\n.\r\nQUIT")
	k.want("221")
	contains(t, h.inbox("alice", 1)[0], "in one go")
}
