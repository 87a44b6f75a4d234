package nexthop

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
)

// raceDelay is how long an address has for itself, before the next one is dialled
// beside it (RFC 8305, section 5).
const raceDelay = 250 * time.Millisecond

// defaultConnect is how long a connection may take where nothing else is said.
const defaultConnect = 30 * time.Second

// interleave puts the addresses of the two families in turn, beginning with the
// family of the first (RFC 8305, section 4): where one of them is broken, the other
// is not far.
func interleave(addrs []string) []string {
	var first, second []string
	for _, a := range addrs {
		if len(first) == 0 || isIPv4(a) == isIPv4(first[0]) {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	out := make([]string, 0, len(addrs))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	return out
}

func isIPv4(addr string) bool {
	ap, err := netip.ParseAddrPort(addr)
	return err == nil && ap.Addr().Is4()
}

// A dialled is what a dial came to.
type dialled struct {
	at   int
	conn net.Conn
	err  error
}

// race dials addresses until one of them answers. It returns which, -1 for none,
// how many were dialled, and the errors of those that have failed by then. No
// goroutine of it is left.
func (s *Sender) race(ctx context.Context, network string, addrs []string) (won int, conn net.Conn, n int, failed map[int]error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialled)
	running := 0
	defer func() {
		cancel()
		for range running {
			if r := <-results; r.conn != nil { // too late
				_ = r.conn.Close()
			}
		}
	}()
	failed = map[int]error{}
	turn := time.NewTimer(0)
	defer turn.Stop()
	for {
		select {
		case <-turn.C:
			if n == len(addrs) {
				continue
			}
			at := n
			go func() { results <- s.dialOne(ctx, network, addrs[at], at) }()
			running++
			if n++; n < len(addrs) {
				turn.Reset(raceDelay)
			}
		case r := <-results:
			running--
			if r.err == nil {
				return r.at, r.conn, n, failed
			}
			failed[r.at] = &client.Error{Phase: client.PhaseConnect, Err: r.err}
			switch {
			case n < len(addrs):
				turn.Reset(0)
			case running == 0:
				return -1, nil, n, failed
			}
		}
	}
}

func (s *Sender) dialOne(ctx context.Context, network, addr string, at int) dialled {
	timeout := s.Client.Timeouts.Connect
	if timeout <= 0 {
		timeout = defaultConnect
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := s.dial(ctx, network, addr)
	return dialled{at, conn, err}
}

// with returns a Sender whose next connection is made already.
func (s *Sender) with(conn net.Conn) *Sender {
	c := *s
	c.Client.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if made := conn; made != nil {
			conn = nil
			return made, nil
		}
		return s.dial(ctx, network, addr)
	}
	return &c
}
