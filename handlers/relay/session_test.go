package relay

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// converse has a session on loopback whose only handler is h, and returns the
// first words of the replies to lines.
func converse(t *testing.T, h *Handler, lines ...string) string {
	t.Helper()
	plan, err := session.Compile([]session.Route{{Handlers: []session.Handler{{Name: "relay", Module: h}}}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := &session.Config{
		Hostname: "us.test", Plan: plan, Trusted: h.TrustedNetworks(),
		NewID: func() string { return "t1" }, Log: slog.New(slog.DiscardHandler),
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if conn, err := ln.Accept(); err == nil {
			_ = session.New(conn, cfg, false).Serve(t.Context())
		}
	})
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	var said []string
	for _, line := range append([]string{""}, lines...) {
		if line != "" {
			fmt.Fprint(conn, line+"\r\n")
		}
		reply := "   -"
		for err == nil && strings.HasPrefix(reply[3:], "-") {
			reply, err = r.ReadString('\n')
		}
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, strings.Join(strings.Fields(reply)[:2], " "))
	}
	return strings.Join(said[3:], ", ") // after greeting, EHLO and MAIL
}

// TestNoOpenRelay: loopback is a stranger until somebody names it.
func TestNoOpenRelay(t *testing.T) {
	dialogue := []string{"EHLO app.test", "MAIL FROM:<app@us.test>", "RCPT TO:<a@far.test>", "RCPT TO:<b%far.test@us.test>", "RCPT TO:<c@[127.0.0.1]>"}
	for _, tc := range []struct {
		trust []string
		want  string
	}{
		{nil, "550 5.7.1, 550 5.7.1, 550 5.7.1"},
		{[]string{"10.0.0.0/8", "::1"}, "550 5.7.1, 550 5.7.1, 550 5.7.1"},
		{[]string{"127.0.0.1"}, "250 2.1.5, 250 2.1.5, 250 2.1.5"},
		{[]string{"private_ranges"}, "250 2.1.5, 250 2.1.5, 250 2.1.5"},
	} {
		h := &Handler{Agent: "out", Trust: tc.trust}
		if err := h.Provision(caddy.Context{Context: t.Context()}); err != nil {
			t.Fatal(err)
		}
		if got := converse(t, h, dialogue...); got != tc.want {
			t.Errorf("trust %v: %s, want %s", tc.trust, got, tc.want)
		}
	}
}
