//go:build linux

package interop

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A load is messages sent over connections that each stay open, one after the
// other, commands pipelined as most clients do it.
type load struct {
	addr, to    string
	connections int
	messages    int
	size        int // octets of each
}

// send sends all of it, and returns how long it took from the first command,
// with all connections up, to the last reply.
func (l *load) send(t testing.TB) time.Duration {
	t.Helper()
	body := l.body()
	var left atomic.Int64
	left.Store(int64(l.messages))
	conns := make([]*sender, l.connections)
	for i := range conns {
		conns[i] = dialSender(t, l.addr)
	}
	var wg sync.WaitGroup
	began := time.Now()
	for _, c := range conns {
		wg.Go(func() {
			for left.Add(-1) >= 0 && c.err == nil {
				c.send(l.to, body)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	for _, c := range conns {
		if c.err != nil {
			t.Fatalf("%s: %v", l.addr, c.err)
		}
		c.conn.Close()
	}
	return took
}

// body is lines of text that make up a message with the header that send
// writes.
func (l *load) body() []byte {
	const line = "The quick brown fox jumps over the lazy dog, and then it does so once again.\r\n"
	n := max(l.size-len(senderHeader)-20, len(line))
	return []byte(strings.Repeat(line, n/len(line)))
}

const senderHeader = "From: Sender <sender@source.test>\r\nTo: <user@example.test>\r\nSubject: one of many\r\n" +
	"Date: Thu, 26 Nov 2026 12:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\nMessage-ID: <%d.%d@source.test>\r\n\r\n"

var sent atomic.Int64

// A sender is a client's connection. Its first error is its last.
type sender struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	err  error
}

func dialSender(t testing.TB, addr string) *sender {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Minute))
	c := &sender{conn: conn, r: bufio.NewReader(conn), w: bufio.NewWriterSize(conn, 64<<10)}
	c.want("220")
	fmt.Fprint(c.w, "EHLO source.test\r\n")
	c.want("250")
	if c.err != nil {
		t.Fatal(c.err)
	}
	return c
}

func (c *sender) send(to string, body []byte) {
	fmt.Fprintf(c.w, "MAIL FROM:<sender@source.test>\r\nRCPT TO:<%s>\r\nDATA\r\n", to)
	for _, code := range []string{"250", "250", "354"} {
		c.want(code)
	}
	fmt.Fprintf(c.w, senderHeader, time.Now().UnixNano(), sent.Add(1))
	c.w.Write(body)
	io.WriteString(c.w, ".\r\n")
	c.want("250")
}

// want flushes what was written and reads a reply.
func (c *sender) want(code string) {
	if c.err == nil {
		c.err = c.w.Flush()
	}
	for c.err == nil {
		var line string
		if line, c.err = c.r.ReadString('\n'); c.err != nil {
			return
		}
		if !strings.HasPrefix(line, code) {
			c.err = fmt.Errorf("%s, want %s", strings.TrimSpace(line), code)
		}
		if len(line) < 4 || line[3] != '-' {
			return
		}
	}
}

// A counter is a next hop that takes everything and keeps nothing.
type counter struct{ taken atomic.Int64 }

func (n *counter) serve(t testing.TB, addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go n.session(conn)
		}
	}()
}

func (n *counter) session(conn net.Conn) {
	defer conn.Close()
	r, w := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriter(conn)
	io.WriteString(w, "220 counter.test ESMTP\r\n")
	for data := false; ; {
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		switch {
		case data && string(line) == ".\r\n":
			data = false
			n.taken.Add(1)
			io.WriteString(w, "250 taken\r\n")
		case data:
		case strings.HasPrefix(string(line), "EHLO"):
			io.WriteString(w, "250-counter.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 0\r\n")
		case strings.HasPrefix(string(line), "DATA"):
			data = true
			io.WriteString(w, "354 go on\r\n")
		default:
			io.WriteString(w, "250 ok\r\n")
		}
	}
}
