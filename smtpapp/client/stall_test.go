package client_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
)

// big doesn't fit into the buffers of two sockets.
var big = content(strings.Repeat("0123456789abcd\r\n", 1_000_000))

// stall is a peer that takes the envelope and then what f does.
func stall(t *testing.T, ext string, f func(nc net.Conn)) *client.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		r := bufio.NewReaderSize(nc, 16)
		io.WriteString(nc, "220 x\r\n")
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil:
				return
			case strings.HasPrefix(line, "EHLO"):
				io.WriteString(nc, "250-x\r\n250 "+ext+"\r\n")
			case strings.HasPrefix(line, "DATA"):
				io.WriteString(nc, "354 x\r\n")
				f(nc)
				return
			case strings.HasPrefix(line, "BDAT"):
				f(nc)
				return
			default:
				io.WriteString(nc, "250 x\r\n")
			}
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	c, err := client.Dial(t.Context(), "tcp", ln.Addr().String(), client.Options{Timeouts: client.Timeouts{Block: 200 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestPeerStopsReading(t *testing.T) {
	for _, ext := range []string{"8BITMIME", "CHUNKING"} {
		end := make(chan struct{})
		c := stall(t, ext, func(net.Conn) { <-end })
		tx := transaction("a@b.test")
		tx.Content = big
		start := time.Now()
		_, err := c.Send(t.Context(), tx)
		e := wantError(t, err, client.PhaseData)
		if e.InDoubt || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 5*time.Second {
			t.Errorf("%s: got %v after %v", ext, err, time.Since(start))
		}
		close(end)
	}
}

func TestCancelWhileWriting(t *testing.T) {
	end := make(chan struct{})
	c := stall(t, "8BITMIME", func(net.Conn) { <-end })
	defer close(end)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	tx := transaction("a@b.test")
	tx.Content = big
	_, err := c.Send(ctx, tx)
	if e := wantError(t, err, client.PhaseData); e.InDoubt || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestLastWords has a peer that refuses in the midst of the content and reads
// no more of it: what it said is the result, not that it stopped.
func TestLastWords(t *testing.T) {
	for _, ext := range []string{"8BITMIME", "CHUNKING"} {
		end := make(chan struct{})
		c := stall(t, ext, func(nc net.Conn) {
			io.WriteString(nc, "421 4.3.1 disk full\r\n")
			<-end
		})
		tx := transaction("a@b.test", "b@b.test")
		tx.Content = big
		res, err := c.Send(t.Context(), tx)
		if got := summary(res); err != nil || got != "421 data, 421 data" || c.Usable() {
			t.Errorf("%s: got %s, %v", ext, got, err)
		}
		close(end)
	}
}

func TestResetRefused(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: "RSET", Reply: "500 what?"})
	c := dial(t, s, client.Options{})
	wantRefused(t, c.Reset(t.Context()), client.PhaseReset, 500)
	if c.Usable() {
		t.Error("usable in an unknown state")
	}
}

// TestResetBeforeNext has a transaction that was left half-way.
func TestResetBeforeNext(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{Extensions: []string{}}, clienttest.Rule{At: "RCPT", Reply: "550 no", Times: 1})
	c := dial(t, s, client.Options{})
	if res, err := c.Send(t.Context(), transaction("a@b.test")); err != nil || summary(res) != "550 rcpt" {
		t.Fatalf("got %s, %v", summary(res), err)
	}
	send(t, c, "a@b.test")
	if got := strings.Join(s.Commands(), "|"); !strings.Contains(got, "RSET|MAIL") || strings.Count(got, "RSET") != 1 {
		t.Errorf("said %s", got)
	}
}

// TestLineEndInHello has a name that would be two commands.
func TestLineEndInHello(t *testing.T) {
	s := clienttest.Start(t, clienttest.Options{})
	_, err := client.Dial(t.Context(), "tcp", s.Addr, client.Options{Hello: "a\r\nRSET"})
	if wantError(t, err, client.PhaseHello); !errors.Is(err, client.ErrLine) || len(s.Commands()) > 0 {
		t.Errorf("got %v, said %q", err, s.Commands())
	}
}

// TestTLSChunks sends what takes many records and replies.
func TestTLSChunks(t *testing.T) {
	server, config := clienttest.Certificate(t, "mx.test")
	s := clienttest.Start(t, clienttest.Options{TLS: server, Implicit: true, Extensions: []string{"CHUNKING", "PIPELINING"}})
	c := dial(t, s, client.Options{TLS: config})
	tx := transaction("a@b.test")
	tx.Content = big[:3_000_000]
	for range 2 {
		if res, err := c.Send(t.Context(), tx); err != nil || !res[0].Accepted() {
			t.Fatal(summary(res), err)
		}
	}
	if m := s.Messages(); len(m) != 2 || content(m[1].Content) != tx.Content.(content) || m[1].Chunks < 10 {
		t.Errorf("%d messages", len(m))
	}
}
