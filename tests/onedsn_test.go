package tests

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
)

// threeHosts is a host with three next hops: one takes all but nobody@, the others
// refuse everybody, one of them only after some time.
func threeHosts(t *testing.T, late time.Duration) string {
	t.Helper()
	take := clienttest.Start(t, clienttest.Options{Extensions: []string{"PIPELINING"}}, clienttest.Rule{At: "RCPT TO:<nobody@", Reply: "550 5.1.1 unknown"})
	soon := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RCPT", Reply: "550 5.1.1 unknown"})
	slow := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RCPT", Delay: late, Reply: "550 5.1.1 unknown"})
	text := local
	for name, s := range map[string]*clienttest.Server{"take": take, "soon": soon, "late": slow} {
		text += fmt.Sprintf("agent %s relay %s {\ntls off\n}\n", name, s.Addr)
	}
	text += "server out ADDR(out) {\ntls off\n"
	for _, name := range []string{"take", "soon", "late"} {
		text += fmt.Sprintf("@%[1]s rcpt_domain %[1]s.test\ndeliver @%[1]s %[1]s\n", name)
	}
	return text + "}"
}

// spread sends one message to several recipients.
func (k *talker) spread(from string, to ...string) {
	k.t.Helper()
	k.say("250", "MAIL FROM:<%s>", from)
	for _, r := range to {
		k.say("250", "RCPT TO:%s", r)
	}
	k.say("354", "DATA")
	k.say("250", "From: <%s>\r\nSubject: x\r\n\r\nhello\r\n.", from)
}

// TestOneDSN: there is one DSN about all recipients of a message of whom there is
// news at about the same time, wherever they are, and one about each whose end comes
// later.
func TestOneDSN(t *testing.T) {
	h := newHost(t)
	h.load(threeHosts(t, time.Second))
	k := greet(t, h.addr("out"))
	k.spread("alice@example.test", "<a@soon.test>", "<b@late.test>", "<nobody@take.test>", "<fine@take.test>", "<asked@take.test> NOTIFY=SUCCESS", "<not@late.test> NOTIFY=NEVER")
	n := readNotice(t, h.inbox("alice", 1)[0])
	contains(t, n.text, "a@soon.test", "b@late.test", "nobody@take.test", "asked@take.test")
	if strings.Contains(n.text, "fine@take.test") || strings.Contains(n.text, "not@late.test") {
		t.Errorf("got\n%s", n.text)
	}
	k.spread("bob@example.test", "<a@soon.test>", "<fine@take.test>")
	began := time.Now()
	h.inbox("bob", 1)
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("a DSN with nothing to wait for took %v", d)
	}
	wait(t, "the queue to become empty", func() bool { return len(h.queue("")) == 0 })
	h.inbox("alice", 1)
	h.inbox("bob", 1)
}

// TestOneDSNAfterKill: whatever an end of the process leaves, each recipient is
// reported once.
func TestOneDSNAfterKill(t *testing.T) {
	p := runCaddy(t, threeHosts(t, 3*time.Second))
	greet(t, p.addr("out")).spread("alice@example.test", "<a@soon.test>", "<b@late.test>", "<nobody@take.test>")
	wait(t, "a DSN about two", func() bool {
		all := p.queue("")
		return len(p.queue("sender="+url.QueryEscape("<>"))) == 1 && len(all) == 2 && len(append(p.queue("agent=soon"), p.queue("agent=take")...)) == 0
	})
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.restart()
	wait(t, "the queue to become empty", func() bool { return len(p.queue("")) == 0 })
	got := p.inbox("alice", 2)
	if strings.Contains(got[0], "late.test") {
		got[0], got[1] = got[1], got[0]
	}
	first, second := readNotice(t, got[0]).text, readNotice(t, got[1]).text
	contains(t, first, "a@soon.test", "nobody@take.test")
	contains(t, second, "b@late.test")
	if strings.Contains(second, "soon.test") || strings.Contains(second, "take.test") {
		t.Errorf("reported twice:\n%s\n%s", first, second)
	}
}
