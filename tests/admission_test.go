package tests

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// from dials from an address of the loopback network.
func from(t *testing.T, source, addr string) *talker {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 5 * time.Second}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		t.Skipf("no loopback network here: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &talker{t, conn, bufio.NewReader(conn)}
}

func limited(limits string) string {
	return strings.Replace(local, "tls internal", "tls internal\n\t\tlimits {\n\t\t\texempt none\n\t\t\t"+limits+"\n\t\t}", 1)
}

// TestConnectionLimits: so many of an address, of a network and in all, also
// over a reload; who leaves makes room.
func TestConnectionLimits(t *testing.T) {
	h := newHost(t)
	h.load(limited("connections_per_address 2\n\t\t\tconnections_per_network 5\n\t\t\tconnections 7"))
	first := from(t, "127.0.0.1", h.addr("mx"))
	first.want("220")
	from(t, "127.0.0.1", h.addr("mx")).want("220")
	third := from(t, "127.0.0.1", h.addr("mx"))
	third.want("421 4.7.0")
	if _, err := third.reply(); err == nil {
		t.Error("the connection goes on")
	}
	for i := 2; i < 5; i++ {
		from(t, fmt.Sprintf("127.0.0.%d", i), h.addr("mx")).want("220")
	}
	from(t, "127.0.0.9", h.addr("mx")).want("421 4.7.0")
	from(t, "127.0.1.1", h.addr("mx")).want("220")
	from(t, "127.0.2.1", h.addr("mx")).want("220")
	from(t, "127.0.3.1", h.addr("mx")).want("421 4.3.2")

	h.load(limited("connections_per_address 2"))
	from(t, "127.0.0.1", h.addr("mx")).want("421 4.7.0") // those of before count on
	first.conn.Close()
	wait(t, "room", func() bool {
		r, err := from(t, "127.0.0.1", h.addr("mx")).reply()
		return err == nil && strings.HasPrefix(r, "220")
	})
	var metrics string
	h.get("/metrics", &metrics)
	if !strings.Contains(metrics, `caddy_smtp_refused_connections_total{server="mx"}`) {
		t.Error("no metric of refused connections")
	}
}

// TestRates: so many connections and messages of an address by the minute.
func TestRates(t *testing.T) {
	h := newHost(t)
	h.load(strings.ReplaceAll(limited("connection_rate 5\n\t\t\tmessage_rate 3"), " mx ", " rated "))
	addr := h.addr("mx")
	k := from(t, "127.0.0.1", addr)
	k.want("220")
	k.say("250", "EHLO client.test")
	for range 3 {
		k.send("s@elsewhere.test", "alice@example.test", "x")
	}
	k.say("450 4.7.0", "MAIL FROM:<s@elsewhere.test>")
	k.say("221", "QUIT")
	for range 4 {
		from(t, "127.0.0.1", addr).want("220")
	}
	from(t, "127.0.0.1", addr).want("421 4.7.0")
	other := from(t, "127.0.0.2", addr)
	other.want("220")
	other.say("250", "EHLO client.test")
	other.say("250", "MAIL FROM:<s@elsewhere.test>")
}

// TestExempt: the loopback network is exempt unless it is said otherwise, and so
// is whom relay trusts.
func TestExempt(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(limited("connections_per_address 1"), "exempt none", "", 1))
	for range 5 {
		from(t, "127.0.0.1", h.addr("mx")).want("220")
	}
	h.load(limited("connections_per_address 1") + `
	server out ADDR(out) {
		tls internal
		limits {
			exempt none
			connections_per_address 1
		}
		relay 127.0.0.1:9 {
			trust 127.0.0.7
		}
	}`)
	for range 5 {
		from(t, "127.0.0.7", h.addr("out")).want("220")
	}
	from(t, "127.0.0.8", h.addr("out")).want("220")
	from(t, "127.0.0.8", h.addr("out")).want("421 4.7.0")
}

// TestCrowded: when there is little room, who is silent is sent away, and few
// errors are forgiven.
func TestCrowded(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for 20 seconds")
	}
	h := newHost(t)
	h.load("connections 10\n" + local)
	var all []*talker
	for range 9 {
		k := dial(t, h.addr("mx"))
		k.want("220")
		k.say("250", "EHLO client.test")
		all = append(all, k)
	}
	all[0].say("500", "WHAT")
	all[0].say("421 4.7.0", "WHAT")
	dial(t, h.addr("mx")).want("220")
	began := time.Now()
	first := make(chan string, len(all))
	for _, k := range all[1:] {
		go func() {
			r, _ := k.reply()
			first <- r
		}()
	}
	if r := <-first; !strings.HasPrefix(r, "421 4.4.2") { // the others may stay: now there is room
		t.Errorf("got %q", r)
	}
	if took := time.Since(began); took > 25*time.Second {
		t.Errorf("it took %v", took)
	}
}
