package tests

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Each of these is an invariant of the life cycle: what a reload, a failed
// reload, a validation or an exit must not do.

// TestReloadKeepsTransaction: a transaction that is open over a reload ends
// under the configuration that it began with, and the next one is put off.
func TestReloadKeepsTransaction(t *testing.T) {
	h := newHost(t)
	h.load(local)
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	idle := greet(t, h.addr("mx"))
	idle.send("x@y.test", "alice@example.test", "before")

	h.load(strings.ReplaceAll(local, "bob@example.test", ""))
	k.say("250", "RCPT TO:<bob@example.test>")
	k.say("354", "DATA")
	k.say("250", "Subject: over a reload\r\n\r\nhello\r\n.")
	k.want("421")
	idle.want("421")

	h.inbox("bob", 1)
	n := greet(t, h.addr("mx"))
	n.say("250", "MAIL FROM:<a@b.test>")
	n.say("550", "RCPT TO:<bob@example.test>")
}

// TestStartTLSAfterReload: a session that asks for TLS when its configuration
// has been replaced gets it.
func TestStartTLSAfterReload(t *testing.T) {
	h := newHost(t)
	h.load(local)
	wait(t, "the certificate", func() bool { return issued(greet(t, h.addr("mx")).starttls(insecure(""))) })
	k := greet(t, h.addr("mx"))
	for range 3 {
		h.load(local)
	}
	time.Sleep(50 * time.Millisecond)
	if s := k.starttls(insecure("mx.example.test")); !issued(s) {
		t.Error("it got the temporary certificate")
	}
	k.say("250", "EHLO client.test")
	k.send("a@b.test", "alice@example.test", "x")
	h.inbox("alice", 1)
}

// TestFailedReloadChangesNothing: whatever fails, in our Start, in that of
// another app, or while modules are provisioned.
func TestFailedReloadChangesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, bad := range map[string][2]string{
		"our Start":             {local + "\nserver other " + taken.Addr().String() + " {\n tls off\n discard\n}", ""},
		"another app's Start":   {local, "http://127.0.0.1" + taken.Addr().String()[strings.LastIndex(taken.Addr().String(), ":"):] + " {\n bind 127.0.0.1\n respond x\n}\n"},
		"our Provision":         {strings.ReplaceAll(local, "deliver @local local", "deliver @local nobody"), ""},
		"another's Provision":   {local, "http://127.0.0.1:1 {\n templates {\n mime \n}\n file_server {\n fs nowhere\n}\n}\n"},
		"an unreadable table":   {strings.ReplaceAll(local, "users inline {", "users file /nowhere/users\n#{"), ""},
		"the queue's own place": {"queue /proc/nowhere {\n}\n" + local, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.load(local)
			open := greet(t, h.addr("mx"))
			open.say("250", "MAIL FROM:<a@b.test>")
			for range 5 { // apps start in random order
				if err := h.try(bad[0], bad[1]); err == nil {
					t.Fatal("it loaded")
				}
			}
			open.say("250", "RCPT TO:<alice@example.test>")
			open.say("354", "DATA")
			open.say("250", "Subject: one\r\n\r\n.")
			open.send("a@b.test", "bob@example.test", "the session goes on")
			greet(t, h.addr("mx")).send("a@b.test", "bob@example.test", "new sessions come")
			h.inbox("alice", 1)
			h.inbox("bob", 2)
			if code := h.get("/smtp/queue", nil); code != http.StatusOK {
				t.Errorf("the admin API answers %d", code)
			}
		})
	}
}

// TestReloadLosesNoConnection: sixteen clients, and a reload every few
// milliseconds.
func TestReloadLosesNoConnection(t *testing.T) {
	h := newHost(t)
	h.load(local)
	reloads, clients := 150, 16
	if testing.Short() {
		reloads = 20
	}
	var stop atomic.Bool
	var served, sent atomic.Int64
	var wg sync.WaitGroup
	failures := make(chan string, 1000)
	for range clients {
		wg.Go(func() {
			for !stop.Load() {
				mailed, err := hammer(h.addr("mx"))
				if err != nil {
					failures <- err.Error()
				}
				served.Add(1)
				sent.Add(int64(mailed))
			}
		})
	}
	for range reloads {
		h.load(local)
		time.Sleep(5 * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	close(failures)
	n := 0
	for f := range failures {
		if n++; n <= 5 {
			t.Errorf("lost: %s", f)
		}
	}
	t.Logf("%d reloads, %d connections, %d messages, %d lost", reloads, served.Load(), sent.Load(), n)
	h.inbox("alice", int(sent.Load()))
}

// hammer sends one message over a connection of its own. 421 between messages
// is an orderly end; anything else that is not asked for is a loss.
func hammer(addr string) (mailed int, err error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	k := &talker{conn: conn, r: newReader(conn)}
	for _, step := range [][2]string{
		{"", "220"},
		{"EHLO client.test", "250"},
		{"MAIL FROM:<a@b.test>", "250"},
		{"RCPT TO:<alice@example.test>", "250"},
		{"DATA", "354"},
		{"Subject: x\r\n\r\nhello\r\n.", "250"},
	} {
		if step[0] != "" {
			if _, err := fmt.Fprintf(conn, "%s\r\n", step[0]); err != nil {
				return 0, fmt.Errorf("%s: %w", step[0], err)
			}
		}
		r, err := k.reply()
		if strings.HasPrefix(r, "421") && step[0] != "DATA" && !strings.HasPrefix(step[0], "Subject") {
			return 0, nil
		}
		if err != nil || !strings.HasPrefix(r, step[1]) {
			return 0, fmt.Errorf("after %q: %q, %w", step[0], r, err)
		}
	}
	return 1, nil
}

// TestNothingIsLeftAfterReloads: no goroutine and no descriptor.
func TestNothingIsLeftAfterReloads(t *testing.T) {
	h := newHost(t)
	h.load(local)
	one := func() {
		greet(t, h.addr("mx")).send("a@b.test", "alice@example.test", "x")
		h.load(local)
	}
	for range 5 {
		one()
	}
	g0, f0 := settled(t)
	n := 200
	if testing.Short() {
		n = 30
	}
	for range n {
		h.load(local)
	}
	for range 5 {
		one()
	}
	g1, f1 := settled(t)
	t.Logf("%d reloads: goroutines %d -> %d, descriptors %d -> %d", n, g0, g1, f0, f1)
	if g1 > g0+10 || f1 > f0+10 { // clients of this test come and go
		buf := make([]byte, 1<<20)
		t.Errorf("goroutines %d -> %d, descriptors %d -> %d\n%s", g0, g1, f0, f1, buf[:runtime.Stack(buf, true)])
	}
}

// settled is how many goroutines and descriptors there are when what has ended
// is gone.
func settled(t *testing.T) (goroutines, fds int) {
	t.Helper()
	for range 50 {
		time.Sleep(20 * time.Millisecond)
	}
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	return runtime.NumGoroutine(), len(d)
}

// TestValidateTouchesNothing beside a live server: no lock, no socket, no
// folder.
func TestValidateTouchesNothing(t *testing.T) {
	h := newHost(t)
	h.load(local)
	text := strings.ReplaceAll(h.config(local, ""), h.dir+"/queue", h.dir+"/elsewhere")
	for i, text := range []string{h.config(local, ""), text} {
		cfg, err := adapt(t, text)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 { // which app is provisioned first is random
			var c caddy.Config
			if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(cfg), &c); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(&c); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(h.dir, "elsewhere")); !os.IsNotExist(err) {
		t.Errorf("validation made the queue's folder: %v", err)
	}
	greet(t, h.addr("mx")).send("a@b.test", "alice@example.test", "still here")
	h.inbox("alice", 1)
}

// TestPortOfAnotherApp is an error at load, whichever app starts first.
func TestPortOfAnotherApp(t *testing.T) {
	h := newHost(t)
	_, port, _ := strings.Cut(h.addr("mx"), ":")
	for range 8 {
		err := h.try(local, "http://127.0.0.1:"+port+" {\n bind 127.0.0.1\n respond x\n}\n")
		if err == nil {
			t.Fatal("two apps share a port without a word")
		}
		contains(t, err.Error(), "address already in use")
	}
}

// TestAddressTwice is an error at load.
func TestAddressTwice(t *testing.T) {
	h := newHost(t)
	err := h.try(local+"\nserver b ADDR(mx) {\n tls off\n discard\n}", "")
	if err == nil {
		t.Fatal("it loaded")
	}
	contains(t, err.Error(), "already that of server")
}

// TestStopLetsSessionsFinish: at exit what is open has the grace period, and no
// more.
func TestCutAfterDrainPeriod(t *testing.T) {
	h := newHost(t)
	cfg := "drain_period 300ms\n" + local
	h.load(cfg)
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	began := time.Now()
	h.load(cfg)
	r, err := k.reply()
	if took := time.Since(began); took < 250*time.Millisecond || took > 5*time.Second {
		t.Errorf("cut off after %v", took)
	}
	if !strings.HasPrefix(r, "421") {
		t.Errorf("got %q, %v", r, err)
	}
}

// TestMetricsSurviveReload: counters are of the process.
func TestMetricsSurviveReload(t *testing.T) {
	h := newHost(t)
	h.load(local)
	greet(t, h.addr("mx")).send("a@b.test", "alice@example.test", "one")
	h.inbox("alice", 1)
	count := func() (v string) {
		var body string
		h.get("/metrics", &body)
		for l := range strings.Lines(body) {
			if strings.HasPrefix(l, `caddy_smtp_messages_total{class="2xx",server="mx"}`) {
				v = strings.Fields(l)[1]
			}
		}
		return v
	}
	before := count()
	if before == "" || before == "0" {
		t.Fatalf("nothing was counted: %q", before)
	}
	h.load(local)
	if after := count(); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

// TestQueueIsHandedOver: mail that is queued under one configuration is
// delivered under the next, by the agent of that name.
func TestQueueIsHandedOver(t *testing.T) {
	h := newHost(t)
	to := newSink(t)
	down := freePort(t)
	cfg := func(hop string) string {
		return fmt.Sprintf(`
			queue {
				retry 1s
			}
			agent out relay %s {
				tls off
			}
			server mx ADDR(mx) {
				tls off
				deliver out
			}`, hop)
	}
	h.load(cfg(fmt.Sprintf("127.0.0.1:%d", down)))
	greet(t, h.addr("mx")).send("a@b.test", "x@far.test", "handed over")
	time.Sleep(200 * time.Millisecond) // an attempt fails
	h.load(cfg(to.addr))
	contains(t, to.next(t), "handed over")
}

// TestQueueOfAnotherProcess cannot be opened.
func TestQueueOfAnotherProcess(t *testing.T) {
	h := newHost(t)
	h.load(local)
	bin := caddyBinary(t)
	cfg := filepath.Join(t.TempDir(), "Caddyfile")
	text := h.config(local, "")
	text = strings.ReplaceAll(text, h.admin, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	text = strings.ReplaceAll(text, h.addr("mx"), fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, bin, "run", "--config", cfg).CombinedOutput()
	if err == nil {
		t.Fatal("two processes use one queue")
	}
	contains(t, string(out), "in use by another process")
	out, err = command(t, bin, "validate", "--config", cfg).CombinedOutput()
	if err != nil {
		t.Errorf("validate: %v\n%s", err, out)
	}
}

// TestTerm: a process that is told to end finishes what is open, within its
// grace period.
func TestTerm(t *testing.T) {
	p := runCaddy(t, "grace_period 3s\n"+local)
	k := greet(t, p.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	k.say("250", "RCPT TO:<alice@example.test>")
	k.say("354", "DATA")
	idle := greet(t, p.addr("mx"))
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	idle.want("421")
	k.say("250", "Subject: last words\r\n\r\nhello\r\n.")
	began := time.Now()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to exit", took)
	}
	// Delivered before the exit, or waiting in the queue for the next start.
	p.restart()
	p.inbox("alice", 1)
}

// TestGrace: a session that never ends does not keep the process.
func TestGrace(t *testing.T) {
	p := runCaddy(t, "grace_period 1s\n"+local)
	k := greet(t, p.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	began := time.Now()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 6*time.Second {
		t.Errorf("it took %v to exit", took)
	}
	if b, _ := io.ReadAll(k.r); !strings.HasPrefix(string(b), "421") {
		t.Errorf("the session was not told: %q", b)
	}
}
