package tests

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// TestETRN: a host that was away says that it is there, and gets its mail
// without waiting for the schedule.
func TestETRN(t *testing.T) {
	h := newHost(t)
	away := freePort(t)
	h.load(fmt.Sprintf(`
	server mx ADDR(mx) {
		tls internal
		etrn example.test *.below.test
		relay 127.0.0.1:%d {
			trust 127.0.0.1
			tls off
		}
	}`, away))
	k := greet(t, h.addr("mx"))
	k.send("s@elsewhere.test", "alice@example.test", "while it was away")
	attempts := func() (n int) {
		var list []struct {
			Recipients []struct{ Attempts int }
		}
		h.get("/smtp/queue", &list)
		for _, e := range list {
			n += e.Recipients[0].Attempts
		}
		return n
	}
	wait(t, "an attempt", func() bool { return attempts() > 0 })
	s := sinkAt(t, net.JoinHostPort("127.0.0.1", fmt.Sprint(away)))
	k.say("459 4.7.1", "ETRN elsewhere.test")
	k.say("250 2.0.0", "ETRN example.test")
	if m := <-s.mail; !strings.Contains(m, "while it was away") {
		t.Errorf("got %s", m)
	}
	k.say("250 2.0.0", "ETRN x.below.test")
	k.say("459 4.7.1", "ETRN below.test")
}
