//go:build linux

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A sink is Postfix's smtp-sink: a next hop that lacks what flags take from
// it, and fails as they say.
type sink struct {
	t    testing.TB
	dir  string // a Maildir of what it took, under headers of its own
	addr string
	proc *process
}

func newSink(t testing.TB, addr string) *sink {
	t.Helper()
	need(t, "smtp-sink")
	s := &sink{t: t, dir: openDir(t), addr: addr}
	if err := os.Mkdir(filepath.Join(s.dir, "new"), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		chown(t, filepath.Join(s.dir, "new"), "nobody")
	}
	return s
}

func (s *sink) start(flags ...string) {
	s.t.Helper()
	args := append([]string{"-h", "sink.test", "-d", filepath.Join(s.dir, "new") + "/m."}, flags...)
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody")
	}
	s.proc = start(s.t, "smtp-sink", command("smtp-sink", append(args, s.addr, "100")...))
	s.proc.serves(s.t, "tcp", s.addr)
}

// A hop is a domain whose mail goes to a sink of its own.
type hop struct {
	*sink
	name, agent string
	flags       []string
}

func newHop(h *host, i int, agent string, flags ...string) *hop {
	name := fmt.Sprintf("d%d", i)
	return &hop{newSink(h.t, h.addr(name)), name, agent, flags}
}

func (p *hop) to() string { return "user@" + p.name + ".test" }

// toHops starts a server that has a way to each of them, and the sinks.
func toHops(h *host, hops []*hop) {
	h.t.Helper()
	var agents, routes strings.Builder
	for _, p := range hops {
		options, give := "tls off", "relay @%s {\nagent %s\n trust 127.0.0.0/8\n}\n"
		if p.agent == "lmtp" {
			options, give = "hello mx.example.test\nverify off", "deliver @%s %s\n"
		}
		fmt.Fprintf(&agents, "agent %s %s %s {\n%s\n}\n", p.name, p.agent, p.addr, options)
		fmt.Fprintf(&routes, "@%s rcpt_domain %s.test\n"+give, p.name, p.name, p.name, p.name)
		p.start(p.flags...)
	}
	h.serve(boxes+"\n"+agents.String()+"server out ADDR(out) {\n tls off"+local+"\n"+routes.String()+"\n}", "out")
}

// idle waits until nothing for a hop is queued.
func (p *hop) idle(h *host) {
	h.t.Helper()
	wait(h.t, fmt.Sprintf("the queue for %v", p.flags), func() bool { return !strings.Contains(h.queued(), p.to()) })
}

// TestPoorPeers lack extensions, down to those that know no EHLO.
func TestPoorPeers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var hops []*hop
	for i, flags := range [][]string{
		{}, {"-e"}, {"-p"}, {"-8"}, {"-E"}, {"-N"}, {"-P"}, {"-8", "-a", "-C", "-E", "-F", "-N", "-p"},
	} {
		hops = append(hops, newHop(h, i, "relay", flags...))
	}
	hops = append(hops, newHop(h, len(hops), "lmtp", "-L"), newHop(h, len(hops)+1, "lmtp", "-L", "-p", "-8", "-E"))
	toHops(h, hops)
	for _, p := range hops {
		send(t, h.addr("out"), login, p.to(), "plain")
	}
	for _, p := range hops {
		p.idle(h)
		m := got(t, p.dir, "plain")
		contains(t, m.text, "X-Mail-Args: <"+login+">", "X-Rcpt-Args: <"+p.to()+">", "\n.dot\n")
	}
	if n := len(maildir(t, h.inbox("alice"))); n != 0 {
		t.Errorf("%d DSNs:\n%s", n, arrive(t, h.inbox("alice"), n))
	}
}

// TestFailingPeers fail at one command: for good, for now, or without a word.
func TestFailingPeers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	commands := []string{"MAIL", "RCPT", "DATA", "."}
	var forGood, forNow []*hop
	n := 0
	for _, c := range commands {
		forGood = append(forGood, newHop(h, n, "relay", "-f", c), newHop(h, n+1, "lmtp", "-L", "-f", c))
		n += 2
		for _, how := range []string{"-r", "-q", "-Q"} {
			forNow = append(forNow, newHop(h, n, "relay", how, c), newHop(h, n+1, "lmtp", "-L", how, c))
			n += 2
		}
	}
	for _, c := range []string{"CONNECT", "EHLO,HELO"} {
		forNow = append(forNow, newHop(h, n, "relay", "-q", c), newHop(h, n+1, "relay", "-Q", c))
		n += 2
	}
	toHops(h, append(append([]*hop{}, forGood...), forNow...))
	for _, p := range append(append([]*hop{}, forGood...), forNow...) {
		send(t, h.addr("out"), login, p.to(), "to "+p.name)
	}

	// For good: a DSN for each.
	dsns := strings.Join(arrive(t, h.inbox("alice"), len(forGood)), "\n")
	for _, p := range forGood {
		p.idle(h)
		if !strings.Contains(dsns, "Final-Recipient: rfc822; "+p.to()) && !strings.Contains(dsns, "Final-Recipient: rfc822;"+p.to()) {
			t.Errorf("no DSN of %v %s", p.flags, p.to())
		}
	}
	if c := strings.Count(dsns, "Status: 5.3.0"); c != len(forGood) {
		t.Errorf("%d of %d DSNs have the status that was given:\n%s", c, len(forGood), dsns)
	}

	// For now: it waits, and the next attempts find a peer that is well.
	time.Sleep(time.Second)
	waiting := h.queued()
	for _, p := range forNow {
		if !strings.Contains(waiting, p.to()) {
			t.Errorf("with %v it does not wait", p.flags)
		}
		p.proc.kill()
		for _, partial := range maildir(t, p.dir) {
			os.Remove(partial)
		}
		p.start(strings.Fields(map[string]string{"lmtp": "-L"}[p.agent])...)
	}
	for _, p := range forNow {
		p.idle(h)
		got(t, p.dir, "to "+p.name)
	}
	if n := len(maildir(t, h.inbox("alice"))); n != len(forGood) {
		t.Errorf("%d DSNs, want %d", n, len(forGood))
	}
}
