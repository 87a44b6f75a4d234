package session_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// forgetful accepts everything and keeps nothing.
type forgetful struct{}

func (forgetful) Accept(_ context.Context, o []*message.Object) (string, error) { return "x", nil }

func benchClient(b *testing.B, tls bool) *client {
	s := newServer(b)
	s.cfg.Limits.Messages, s.cfg.Limits.MessageSize = 0, 35<<20
	s.cfg.Accept = forgetful{}
	c, err := net.Dial("tcp", s.listen(tls))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	cl := &client{b, c, bufio.NewReader(c)}
	if tls {
		cl = cl.startTLS()
	}
	cl.begin()
	return cl
}

// BenchmarkMessage sends messages through a whole session, one after another.
func BenchmarkMessage(b *testing.B) {
	for _, tls := range []bool{false, true} {
		for _, size := range []int{4 << 10, 1 << 20} {
			body := "a: b\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", size/78)
			b.Run(fmt.Sprintf("DATA/tls=%v/%d", tls, size), func(b *testing.B) {
				c := benchClient(b, tls)
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					c.send("MAIL FROM:<a@b.c>", "RCPT TO:<user@local.example>", "DATA")
					c.expect("250", "250", "354")
					c.raw(body + ".\r\n")
					c.expect("250")
				}
			})
			b.Run(fmt.Sprintf("BDAT/tls=%v/%d", tls, size), func(b *testing.B) {
				c := benchClient(b, tls)
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				msg := fmt.Sprintf("MAIL FROM:<a@b.c>\r\nRCPT TO:<user@local.example>\r\nBDAT %d LAST\r\n%s", len(body), body)
				for b.Loop() {
					c.raw(msg)
					c.expect("250", "250", "250")
				}
			})
		}
	}
}

// BenchmarkIdle tells what a client costs that has said EHLO and nothing else.
func BenchmarkIdle(b *testing.B) {
	for _, tls := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", tls), func(b *testing.B) {
			s := newServer(b)
			addr := s.listen(tls)
			// The clients' own cost of the handshake stays out of it.
			const n = 200
			for b.Loop() {
				var conns []net.Conn
				before := inUse()
				for range n {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						b.Fatal(err)
					}
					conns = append(conns, c)
					cl := &client{b, c, bufio.NewReaderSize(c, 16)}
					if tls {
						cl = cl.startTLS()
					}
					cl.begin()
					conns[len(conns)-1] = cl.Conn
				}
				time.Sleep(2200 * time.Millisecond) // until they are idle
				b.ReportMetric(float64(inUse()-before)/n, "B/client")
				for _, c := range conns {
					c.Close()
				}
				for range n {
					<-s.closed
				}
			}
		})
	}
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
