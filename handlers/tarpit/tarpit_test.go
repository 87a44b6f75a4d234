package tarpit

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// from is a matcher that decides at a stage.
type from session.Stage

func (f from) Stage() session.Stage                              { return session.Stage(f) }
func (from) Match(context.Context, *session.Point) (bool, error) { return true, nil }

// talk serves a client that waits 20 s behind each of its lines, and returns
// how long it waited for each reply.
func talk(t *testing.T, ctx context.Context, r session.Route, lines ...string) (waits []time.Duration) {
	t.Helper()
	plan, err := session.Compile([]session.Route{r})
	if err != nil {
		t.Fatal(err)
	}
	client, server := net.Pipe()
	defer client.Close()
	s := session.New(server, &session.Config{Hostname: "mx.example", Plan: plan, NewID: func() string { return "id" }}, false)
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	in := bufio.NewReader(client)
	began := time.Now()
	for i := 0; ; i++ {
		l, err := in.ReadString('\n')
		if err != nil {
			break
		}
		if len(l) > 3 && l[3] == '-' {
			i--
			continue
		}
		waits = append(waits, time.Since(began).Round(time.Second))
		if i == len(lines) {
			break
		}
		began = time.Now()
		if _, err := client.Write([]byte(lines[i] + "\r\n")); err != nil {
			break
		}
	}
	client.Close()
	<-done
	return waits
}

func TestStages(t *testing.T) {
	lines := []string{"EHLO client.example", "MAIL FROM:<s@example.org>", "RCPT TO:<a@example.org>"}
	for st, want := range map[session.Stage][]int{
		session.StageConnect: {5, 0, 0, 0}, session.StageHello: {0, 5, 0, 0}, session.StageAuth: {0, 0, 5, 0},
		session.StageMail: {0, 0, 5, 0}, session.StageRcpt: {0, 0, 0, 5},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := new(Handler)
			if err := h.Provision(caddy.Context{}); err != nil {
				t.Fatal(err)
			}
			got := talk(t, t.Context(), session.Route{
				Matchers: [][]session.Matcher{{from(st)}}, Handlers: []session.Handler{{Name: "tarpit", Module: h}},
			}, lines...)
			for i, w := range want {
				if i >= len(got) || got[i] != time.Duration(w)*time.Second {
					t.Errorf("from %s on: waited %v, want %v s", st, got, want)
					break
				}
			}
		})
	}
}

// TestEnd: who waits does not hold up the end of the process.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		began := time.Now()
		talk(t, ctx, session.Route{Handlers: []session.Handler{{Name: "tarpit", Module: &Handler{Delay: caddy.Duration(time.Minute)}}}})
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"tarpit": `{}`, "tarpit 10s": `{"delay":10000000000}`, "tarpit 2m": "at most 1m0s, at Testfile:1", "tarpit soon": "at Testfile:1",
		"tarpit 1s 2s": "wrong argument count or unexpected line ending after '1s', at Testfile:1", "tarpit {\nx\n}": "unrecognized option 'x', at Testfile:2",
	} {
		h := new(Handler)
		got := ""
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			got = err.Error()
		} else if b, err := json.Marshal(h); err != nil {
			t.Fatal(err)
		} else {
			got = string(b)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
