package tests

import (
	"strings"
	"testing"
	"time"
)

// circle is two servers of which each gives what is not for example.test to the
// other.
const circle = local + `
	server a ADDR(a) {
		tls off
		relay ADDR(b) {
			tls off
			trust 127.0.0.1
		}
	}
	server b ADDR(b) {
		tls off
		relay ADDR(a) {
			tls off
			trust 127.0.0.1
		}
	}`

// TestLoop: mail that two hosts send to one another ends after so many hops as a
// server has them, and its sender hears of it once, with the code for that; nobody
// does where there is no sender, or where he is in the same loop.
func TestLoop(t *testing.T) {
	h := newHost(t)
	h.load(circle)
	k := greet(t, h.addr("a"))
	k.send("alice@example.test", "x@loop.test", "round and round")
	k.send("", "y@loop.test", "without a sender")
	k.send("z@loop.test", "x@loop.test", "whose DSN goes round too")
	n := readNotice(t, h.inbox("alice", 1)[0])
	contains(t, n.text+n.last, "x@loop.test", "554 5.4.6", "round and round")
	if hops := strings.Count(n.last, "Received: "); hops != 51 {
		t.Errorf("it was given up with %d Received fields", hops)
	}
	wait(t, "the queue to become empty", func() bool { return len(h.queue("")) == 0 })
	time.Sleep(100 * time.Millisecond)
	h.inbox("alice", 1)
}
