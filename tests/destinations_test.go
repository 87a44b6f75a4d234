package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
)

// A standing is a destination as the admin API shows it.
type standing struct {
	Agent, Destination, Rule, State, Reason string
	Until                                   time.Time
	Running, Limit, Active, Failures        int
	Rates                                   []struct {
		Of          string
		Used, Limit int
		Seconds     float64
	}
}

func (h *host) destinations(query string) (ss []standing) {
	h.t.Helper()
	if code := h.get("/smtp/destinations?"+query, &ss); code != http.StatusOK {
		h.t.Fatalf("%s: %d", query, code)
	}
	return ss
}

// TestDestinations: which destinations are held back, until when and why, and the
// end of that by an operator.
func TestDestinations(t *testing.T) {
	slow := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RCPT", Reply: "450 4.7.1 unusual rate", Times: 1})
	full := newNarrow(t, "127.0.0.1:0", 2)
	dead := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	h := newHost(t)
	h.load(fmt.Sprintf(`shaping {
		rule slow {
			agent tardy
			concurrency 8
			messages 40/1m
			reply "unusual rate" slow 10m
		}
	}
	agent tardy relay %s
	agent full relay %s
	agent dead relay %s
	agent none discard
	server in ADDR(in) {
		tls off
		@slow rcpt_domain slow.test
		deliver @slow tardy
		@full rcpt_domain full.test
		deliver @full full
		@dead rcpt_domain dead.test
		deliver @dead dead
		deliver none
	}`, slow.Addr, full.addr, dead))
	state := func(agent, want string) standing {
		t.Helper()
		wait(t, agent+" to be "+want, func() bool {
			ss := h.destinations("agent=" + agent)
			return len(ss) == 1 && ss[0].State == want
		})
		return h.destinations("agent=" + agent)[0]
	}
	k := greet(t, h.addr("in"))
	if got := h.destinations(""); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	k.send("a@b.test", "x@none.test", "x")

	k.send("a@b.test", "x@slow.test", "x")
	s := state("tardy", "slowed")
	if s.Limit != 4 || s.Rule != "slow" || !strings.HasPrefix(s.Reason, "450 4.7.1 unusual rate") || time.Until(s.Until) < 9*time.Minute ||
		len(s.Rates) != 1 || s.Rates[0].Of != "messages" || s.Rates[0].Used != 1 || s.Rates[0].Limit != 20 || s.Rates[0].Seconds != 60 {
		t.Errorf("got %+v", s)
	}
	for i := range 30 {
		k.send("a@b.test", fmt.Sprintf("x%d@full.test", i), "x")
	}
	if s = state("full", "narrowed"); s.Limit < 1 || s.Limit > 2 || !strings.HasPrefix(s.Reason, "421 4.7.0 too many connections") {
		t.Errorf("got %+v", s)
	}
	k.send("a@b.test", "tried@dead.test", "x")
	s = state("dead", "paused")
	if s.Limit != 1 || s.Failures != 1 || s.Destination != "smarthost "+dead || !strings.HasPrefix(s.Reason, "451 4.4.1") || time.Until(s.Until) < 30*time.Second {
		t.Errorf("got %+v", s)
	}
	k.send("a@b.test", "untried@dead.test", "x")
	if got := h.destinations(""); len(got) != 3 {
		t.Errorf("got %+v", got)
	}

	for path, want := range map[string]int{
		"?do=resume": 400, "?do=eat&all=true": 400, "?do=resume&all=perhaps": 400, "?do=resume&agnet=x": 400, "?do=resume&all=true&agent=dead": 400, "": 405,
	} {
		if resp := h.ask(http.MethodPost, "/smtp/destinations"+path); resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
	if code := h.get("/smtp/destinations?do=resume&all=true", nil); code != 405 {
		t.Errorf("got %d", code)
	}
	command := func(want int, args ...string) string {
		t.Helper()
		out, err := exec.Command(caddyBinary(t), append([]string{"smtp", "queue", "--address", h.admin}, args...)...).CombinedOutput()
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		}
		if code != want {
			t.Errorf("%q: exit code %d, want %d:\n%s", args, code, want, out)
		}
		return string(out)
	}
	contains(t, command(0, "destinations"), "dead ", "smarthost "+dead, "paused", "0/1", "451 4.4.1", "slowed", "0/4", "1/20 messages in 1m0s")
	if out := command(0, "destinations", "--json", "smarthost "+dead); strings.Count(out, "\n") != 1 || !json.Valid([]byte(out)) {
		t.Errorf("got\n%s", out)
	}
	command(1, "resume")
	command(4, "resume", "nowhere.test")
	alive := newNarrow(t, dead, 5)
	if out := command(0, "resume", "smarthost "+dead); out != "1 resumed\n" {
		t.Errorf("got\n%s", out)
	}
	wait(t, "what was not tried yet", func() bool { return alive.taken.Load() == 1 && len(h.queue("agent=dead")) == 1 })
	if left := h.queue("agent=dead"); left[0].Recipients[0].Address != "tried@dead.test" {
		t.Errorf("got %+v", left)
	}
	command(0, "resume", "--agent", "tardy")
	if got := h.destinations("agent=tardy"); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	if got := h.destinations("agent=tardy&all=true"); len(got) != 1 || got[0].State != "free" || got[0].Limit != 5 || got[0].Rates[0].Limit != 40 {
		t.Errorf("got %+v", got)
	}
}
