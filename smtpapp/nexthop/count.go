package nexthop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

var errBusy = errors.New("as many connections as there may be")

// counted returns a Sender like s that counts its connections, and makes no more
// than a rule for the destination allows.
func (s *Sender) counted(r *queue.Rule) *Sender {
	c, most := *s, 0
	if r != nil {
		most = r.PerAddress
	}
	c.Client.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		key := fmt.Sprint(s.source, addr)
		if !s.Pool.open.more(key, most) {
			return nil, &net.OpError{Op: "dial", Net: network, Err: errBusy}
		}
		nc, err := s.dial(ctx, network, addr)
		if err != nil {
			s.Pool.open.less(key)
			return nil, err
		}
		return &tallied{Conn: nc, gone: func() { s.Pool.open.less(key) }}, nil
	}
	return &c
}

// dial connects as the Sender's options have it.
func (s *Sender) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if s.Client.Dial != nil {
		return s.Client.Dial(ctx, network, addr)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// A tallied is a connection that counts until it is closed.
type tallied struct {
	net.Conn
	once sync.Once
	gone func()
}

// Close closes the connection.
func (c *tallied) Close() error {
	defer c.once.Do(c.gone)
	return c.Conn.Close()
}

// SyscallConn is for who looks whether the peer has spoken.
func (c *tallied) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// A tally is how many connections there are, by their addresses, ours and the
// peer's. The zero tally is ready for use.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

// more counts a connection that is being made, unless there are as many as may
// be; 0 is no limit.
func (t *tally) more(key string, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if most > 0 && t.n[key] >= most {
		return false
	}
	if t.n == nil {
		t.n = map[string]int{}
	}
	t.n[key]++
	return true
}

// less forgets one.
func (t *tally) less(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n[key]--; t.n[key] <= 0 {
		delete(t.n, key)
	}
}
