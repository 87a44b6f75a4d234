package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() {
	caddy.RegisterModule(new(probe))
	caddy.RegisterModule(new(slowAgent))
}

// events is what the modules below did, in order.
var events eventLog

type eventLog struct {
	mu   sync.Mutex
	list []string
}

func (l *eventLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, fmt.Sprintf(format, args...))
}

// take returns the log and begins a new one.
func (l *eventLog) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.Join(l.list, ", ")
	l.list = nil
	return s
}

func (l *eventLog) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(strings.Join(l.list, ", "), s)
}

// probe is a handler that notes when it is used and when it is cleaned up.
type probe struct {
	Tag string `json:"tag,omitempty"`
}

func (*probe) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.probe", New: func() caddy.Module { return new(probe) }}
}

func (p *probe) HandleMail(context.Context, *session.Transaction) error {
	events.add("%s mail", p.Tag)
	return nil
}

func (p *probe) HandleRcpt(_ context.Context, _ *session.Transaction, r *mail.Recipient) error {
	events.add("%s rcpt", p.Tag)
	return nil
}

func (p *probe) Cleanup() error {
	if p.Tag != "" { // not the empty instance of the adapter
		events.add("%s cleanup", p.Tag)
	}
	return nil
}

func (p *probe) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&p.Tag) {
		return d.ArgErr()
	}
	return nil
}

// slowAgent delivers when the test lets it.
type slowAgent struct {
	Tag string `json:"tag,omitempty"`
}

// letGo lets one delivery end.
var letGo = make(chan bool)

func (*slowAgent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.slow", New: func() caddy.Module { return new(slowAgent) }}
}

func (a *slowAgent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	events.add("%s begins", a.Tag)
	select {
	case <-letGo:
	case <-ctx.Done():
		events.add("%s is cut off", a.Tag)
		return nil
	}
	events.add("%s ends", a.Tag)
	ss := make([]queue.Status, len(d.Envelope.Recipients))
	for i := range ss {
		ss[i].Action = queue.Delivered
	}
	return ss
}

func (a *slowAgent) Cleanup() error {
	if a.Tag != "" {
		events.add("%s cleanup", a.Tag)
	}
	return nil
}

func (a *slowAgent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&a.Tag) {
		return d.ArgErr()
	}
	return nil
}

// TestHandlersOutliveReload: a session uses the handlers that it began with,
// and they are cleaned up when it has ended, not before.
func TestHandlersOutliveReload(t *testing.T) {
	h := newHost(t)
	cfg := "server mx ADDR(mx) {\n tls off\n probe %s\n discard\n}"
	events.take()
	h.load(fmt.Sprintf(cfg, "A"))
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	h.load(fmt.Sprintf(cfg, "B"))
	time.Sleep(50 * time.Millisecond)
	k.say("250", "RCPT TO:<x@y.test>")
	k.say("354", "DATA")
	k.say("250", "Subject: x\r\n\r\n.")
	k.want("421")
	wait(t, "cleanup", func() bool { return events.has("A cleanup") })
	if got := events.take(); got != "A mail, A rcpt, A cleanup" {
		t.Errorf("got %s", got)
	}
	greet(t, h.addr("mx")).send("a@b.test", "x@y.test", "x")
	if got := events.take(); got != "B mail, B rcpt" {
		t.Errorf("got %s", got)
	}
}

// TestAttemptsOutliveReload: an attempt ends with the agent that it began with,
// the next one is the new configuration's.
func TestAttemptsOutliveReload(t *testing.T) {
	h := newHost(t)
	cfg := "agent out slow %s\nserver mx ADDR(mx) {\n tls off\n deliver out\n}"
	events.take()
	h.load(fmt.Sprintf(cfg, "A"))
	greet(t, h.addr("mx")).send("a@b.test", "x@y.test", "x")
	wait(t, "an attempt", func() bool { return events.has("A begins") })
	h.load(fmt.Sprintf(cfg, "B"))
	greet(t, h.addr("mx")).send("a@b.test", "x@y.test", "x")
	wait(t, "the other", func() bool { return events.has("B begins") })
	if events.has("A cleanup") {
		t.Error("the agent was cleaned up under its attempt")
	}
	letGo <- true
	letGo <- true
	wait(t, "cleanup", func() bool { return events.has("A cleanup") })
	got := events.take()
	if !strings.HasPrefix(got, "A begins, B begins, ") || strings.Index(got, "A ends") > strings.Index(got, "A cleanup") || strings.Contains(got, "cut off") {
		t.Errorf("got %s", got)
	}
	wait(t, "an empty queue", func() bool {
		var list []any
		h.get("/smtp/queue", &list)
		return len(list) == 0
	})
}

// TestAttemptsAreCutOff when they take longer than they may.
func TestAttemptsAreCutOff(t *testing.T) {
	h := newHost(t)
	cfg := "drain_period 200ms\nagent out slow %s\nserver mx ADDR(mx) {\n tls off\n deliver out\n}"
	events.take()
	h.load(fmt.Sprintf(cfg, "A"))
	greet(t, h.addr("mx")).send("a@b.test", "x@y.test", "x")
	wait(t, "an attempt", func() bool { return events.has("A begins") })
	h.load("server mx ADDR(mx) {\n tls off\n discard\n}")
	wait(t, "cleanup", func() bool { return events.has("A cleanup") })
	if got := events.take(); got != "A begins, A is cut off, A cleanup" {
		t.Errorf("got %s", got)
	}
	var list []struct {
		Recipients []struct{ Agent string }
	}
	if h.get("/smtp/queue", &list); len(list) != 1 || list[0].Recipients[0].Agent != "out" {
		t.Errorf("its mail does not wait for the agent to come back: %+v", list)
	}
}

// TestTermWithOldSession: an exit waits for the sessions of configurations that
// have been replaced, too.
func TestTermWithOldSession(t *testing.T) {
	p := runCaddy(t, "grace_period 4s\n"+local)
	k := greet(t, p.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	if out, err := exec.Command(caddyBinary(t), "reload", "--force", "--config", p.file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	k.say("250", "RCPT TO:<alice@example.test>")
	k.say("354", "DATA")
	k.say("250", "Subject: late\r\n\r\n.")
	began := time.Now()
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v to exit", took)
	}
	p.restart()
	p.inbox("alice", 1)
}
