package tests

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A narrow host takes so many connections at once, and greets others with 421.
type narrow struct {
	addr           string
	room           int32
	inside         atomic.Int32
	refused, taken atomic.Int32
}

func newNarrow(t *testing.T, addr string, room int32) *narrow {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n := &narrow{addr: ln.Addr().String(), room: room}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { n.serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return n
}

func (n *narrow) serve(conn net.Conn) {
	defer conn.Close()
	defer n.inside.Add(-1)
	if n.inside.Add(1) > n.room {
		n.refused.Add(1)
		fmt.Fprintf(conn, "421 4.7.0 too many connections from you\r\n")
		return
	}
	fmt.Fprintf(conn, "220 narrow.test\r\n")
	conn.SetDeadline(time.Now().Add(time.Minute))
	content := false
	for r := newReader(conn); ; {
		l, err := r.ReadString('\n')
		if err != nil {
			return
		}
		reply := "250 2.0.0 ok"
		switch l = strings.TrimRight(l, "\r\n"); {
		case content && l != ".":
			continue
		case content:
			content = false
			n.taken.Add(1)
			time.Sleep(50 * time.Millisecond)
		case l == "DATA":
			content, reply = true, "354 go on"
		case l == "QUIT":
			reply = "221 2.0.0 bye"
		}
		fmt.Fprintf(conn, "%s\r\n", reply)
	}
}

// TestCrowdedHost: a host that has room for two connections and greets others with
// 421 gets as many from then on. What it has turned away is tried later.
func TestCrowdedHost(t *testing.T) {
	n := newNarrow(t, "127.0.0.1:0", 2)
	h := newHost(t)
	h.load(`server out ADDR(out) {
		tls off
		relay ` + n.addr + ` {
			tls off
			trust 127.0.0.1
		}
	}`)
	const messages = 80
	k := greet(t, h.addr("out"))
	for i := range messages {
		k.send("a@b.test", fmt.Sprintf("x%d@far.test", i), "x")
	}
	wait(t, "the mail", func() bool { return int(n.taken.Load()) >= messages*9/10 })
	if r := n.refused.Load(); r > 6 {
		t.Errorf("%d connections were refused, and there were %d messages", r, messages)
	}
	wait(t, "all but what was turned away to be sent", func() bool {
		left := h.queue("")
		return len(left) <= int(n.refused.Load()) && int(n.taken.Load())+len(left) == messages
	})
}
