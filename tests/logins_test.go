package tests

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(new(witness)) }

// witness writes events down.
type witness struct{}

var witnessed struct {
	sync.Mutex
	events []string
}

func (*witness) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_witness", New: func() caddy.Module { return new(witness) }}
}

func (*witness) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (*witness) Handle(_ context.Context, e caddy.Event) error {
	witnessed.Lock()
	defer witnessed.Unlock()
	witnessed.events = append(witnessed.events, fmt.Sprint(e.Name(), " ", e.Data))
	return nil
}

func heard(name string) (found []string) {
	witnessed.Lock()
	defer witnessed.Unlock()
	for _, e := range witnessed.events {
		if strings.HasPrefix(e, name+" ") {
			found = append(found, e)
		}
	}
	return found
}

// guarded is a server with two users, whose password is "secret".
const guarded = `
	logins {
		address 2 10
		user 3
		delay 1ms 1s
		ban 10m
		exempt none
	}
	agent local discard
	server guarded ADDR(submission) ADDR(tls) {
		tls internal
		plaintext_auth
		auth {
			inline {
				alice $2a$04$ji6dziZNN6robtJeQGNapefceOZ8cnaqnWGjJb/HfxGvG89RI92mC
				bob   $2a$04$ji6dziZNN6robtJeQGNapefceOZ8cnaqnWGjJb/HfxGvG89RI92mC
			}
		}
		deliver local
	}
	server mx ADDR(mx) {
		deliver local
	}
`

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func logIn(t *testing.T, source, addr, user, password, want string) {
	t.Helper()
	k := from(t, source, addr)
	k.want("220")
	k.say("250", "EHLO client.test")
	k.say(want, "AUTH PLAIN %s", base64Of("\x00"+user+"\x00"+password))
	k.conn.Close()
}

// TestLoginGuesses is promise P30 through the whole of it: who guesses is sent
// away, at the greeting too; the users are not; a reload forgets nothing; whoever
// runs the server sees it and can change it.
func TestLoginGuesses(t *testing.T) {
	h := newHost(t)
	load := func() {
		t.Helper()
		text := strings.Replace(h.config(guarded, ""), "\tsmtp {", "\tevents {\n\t\ton smtp_login_failed test_witness\n\t\ton smtp_login_limited test_witness\n\t\ton smtp_login_banned test_witness\n\t}\n\tsmtp {", 1)
		cfg, err := adapt(t, text)
		if err != nil {
			t.Fatal(err)
		}
		loadJSON(t, cfg)
	}
	load()
	addr := h.addr("submission")
	logIn(t, "127.7.0.1", addr, "alice", "secret", "235")
	logIn(t, "127.8.0.1", addr, "bob", "wrong", "535 5.7.8")
	logIn(t, "127.8.0.1", addr, "stranger's password", "wrong", "535 5.7.8")
	load()
	from(t, "127.8.0.1", addr).want("421 4.7.0")
	from(t, "127.8.0.1", h.addr("mx")).want("220") // mail goes on
	logIn(t, "127.8.0.2", addr, "bob", "secret", "235")

	// Guesses at alice from many addresses; where she is known, she still gets in.
	for i := range 3 {
		logIn(t, fmt.Sprintf("127.9.%d.1", 8*i), addr, "alice", "wrong", "535 5.7.8")
	}
	logIn(t, "127.9.100.1", addr, "alice", "secret", "454 4.7.0")
	logIn(t, "127.7.0.2", addr, "alice", "secret", "235")

	var bans []struct {
		Network, Scope string
		Strikes        int
	}
	if h.get("/smtp/bans", &bans); len(bans) != 1 || bans[0].Network != "127.8.0.1/32" || bans[0].Scope != "address" || bans[0].Strikes != 1 {
		t.Errorf("%+v", bans)
	}
	if e := heard("smtp_login_failed"); len(e) != 5 || !strings.Contains(e[0], "user:bob") || !strings.Contains(e[0], "mechanism:PLAIN") || strings.Contains(e[1], "stranger") {
		t.Errorf("%d: %q", len(e), e)
	}
	if e := heard("smtp_login_limited"); len(e) != 1 || !strings.Contains(e[0], "scope:user") || !strings.Contains(e[0], "user:alice") {
		t.Errorf("%q", e)
	}
	if e := heard("smtp_login_banned"); len(e) != 1 || !strings.Contains(e[0], "network:127.8.0.1/32") {
		t.Errorf("%q", e)
	}
	var metrics string
	h.get("/metrics", &metrics)
	contains(t, metrics, `caddy_smtp_logins_failed_total{mechanism="PLAIN",server="guarded"} 5`, `caddy_smtp_logins_limited_total{scope="user",server="guarded"} 1`,
		`caddy_smtp_banned_connections_total{server="guarded"} 1`, `caddy_smtp_login_bans_total{scope="address"} 1`, "caddy_smtp_login_bans 1\n")

	bansCommand := func(args ...string) string {
		t.Helper()
		out, err := command(t, caddyBinary(t), append([]string{"smtp", "bans", "--address", h.admin}, args...)...).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "no ban concerns") {
			t.Errorf("%v: %v %s", args, err, out)
		}
		return string(out)
	}
	contains(t, bansCommand(), "127.8.0.1/32  address  20")
	contains(t, bansCommand("lift", "198.51.100.1"), "no ban concerns 198.51.100.1/32")
	contains(t, bansCommand("lift", "127.8.0.0/16"), "127.8.0.1/32")
	logIn(t, "127.8.0.1", addr, "bob", "secret", "235")
	for range 2 {
		logIn(t, "127.8.64.1", addr, "carol", "wrong", "535 5.7.8")
	}
	if code := h.del("/smtp/bans/198.51.100.1"); code != 404 {
		t.Error(code)
	}
	if code := h.del("/smtp/bans/everybody"); code != 400 {
		t.Error(code)
	}
	if code := h.del("/smtp/bans/127.8.64.1"); code != 200 {
		t.Error(code)
	}
	logIn(t, "127.8.64.1", addr, "bob", "secret", "235")
	if h.get("/smtp/bans", &bans); len(bans) != 0 {
		t.Errorf("%+v", bans)
	}
}

func (h *host) del(path string) int {
	h.t.Helper()
	resp := h.ask(http.MethodDelete, path)
	resp.Body.Close()
	return resp.StatusCode
}

// TestLoginTime: a password that is wrong and a user that does not exist take
// the same time, by the client's clock (promise P30).
func TestLoginTime(t *testing.T) {
	h := newHost(t)
	_, servers, _ := strings.Cut(strings.ReplaceAll(guarded, "alice", "timed"), "agent local") // failures are counted by user, and outlive the test
	h.load("logins {\n exempt 127.0.0.0/8\n user 100000 100000\n delay 1ms 1ms\n}\nagent local" + strings.Replace(strings.Replace(servers, "server guarded", "server timed", 1), "plaintext_auth", `plaintext_auth
		limits {
			failed_auth none
			hard_errors none
			soft_errors none
			error_delay none
		}`, 1))
	clients, rounds, limit := 10, 4, math.Inf(1) // so few say nothing of a millisecond
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		clients, rounds, limit = 50, 40, 1.0
	}
	for try := 1; ; try++ {
		known, unknown := failures(t, h.addr("submission"), clients, rounds)
		diff := known.mean - unknown.mean
		deviation := diff / math.Sqrt(known.variance/known.n+unknown.variance/unknown.n)
		t.Logf("%.0f of each: they differ by %.3f ms, which is %.2f standard errors", known.n, diff, deviation)
		// One in a hundred runs is that far off by chance, and two together as good as never.
		if math.Abs(diff) <= limit && math.Abs(deviation) < 2.58 {
			return
		}
		if try == 3 {
			t.Fatal("known and unknown users can be told apart")
		}
	}
}

// failures measures logins that fail, in milliseconds, in turns and over several
// connections.
func failures(t *testing.T, addr string, clients, rounds int) (known, unknown sample) {
	t.Helper()
	var (
		mu   sync.Mutex
		took = map[string][]float64{}
		all  sync.WaitGroup
	)
	for c := range clients {
		k := greet(t, addr)
		all.Go(func() {
			for r := range 2 * rounds {
				user := []string{"timed", "nobody"}[(c+r)%2]
				k.conn.SetDeadline(time.Now().Add(patience))
				began := time.Now()
				k.say("535 5.7.8", "AUTH PLAIN %s", base64Of("\x00"+user+"\x00wrong"))
				mu.Lock()
				took[user] = append(took[user], float64(time.Since(began))/float64(time.Millisecond))
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return describe(took["timed"]), describe(took["nobody"])
}

// A sample is what a t-test needs to know of some measurements.
type sample struct{ n, mean, variance float64 }

func describe(xs []float64) (s sample) {
	s.n = float64(len(xs))
	for _, x := range xs {
		s.mean += x / s.n
	}
	for _, x := range xs {
		s.variance += (x - s.mean) * (x - s.mean) / (s.n - 1)
	}
	return s
}

// TestNobodyLogsIn: where nobody can, AUTH is a command that there is not; where it
// takes TLS, the client hears so, whether there is any or not.
func TestNobodyLogsIn(t *testing.T) {
	const login = "auth {\ninline {\nalice@example.test " + `"{PLAIN}pencil"` + "\n}\n}"
	for _, c := range []struct{ options, want string }{
		{"tls off", "502 5.5.1"}, {"tls internal", "502 5.5.1"}, {"tls internal\n" + login, "538 5.7.11"}, {"tls off\n" + login, "538 5.7.11"},
	} {
		h := newHost(t)
		if err := h.try("server in ADDR(in) {\n"+c.options+"\ndeliver discard\n}", ""); err != nil {
			t.Errorf("%s: %v", c.options, err)
			continue
		}
		k := greet(t, h.addr("in"))
		if r := k.say("", "AUTH PLAIN AGFsaWNlQGV4YW1wbGUudGVzdABwZW5jaWw="); !strings.HasPrefix(r, c.want) {
			t.Errorf("%s: got %q", c.options, r)
		}
		k.say("250", "NOOP")
	}
}
