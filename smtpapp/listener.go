package smtpapp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// sockets are the listening sockets of the process, each shared by the
// configurations that use its address. Caddy's own way, a socket for each
// configuration under SO_REUSEPORT, resets connections that wait in the old
// one's backlog, and lets two apps share a port without a word.
var (
	sockets   = caddy.NewUsagePool()
	socketsMu sync.Mutex // one socket an address: the pool forgets a key before it closes the value
)

// A socket is one listening socket and the configurations it serves.
type socket struct {
	ln  net.Listener
	log *zap.Logger

	mu   sync.Mutex
	subs []*subscription // the newest, last, gets the connections
	wake chan struct{}   // closed and replaced when subs changes
}

// A subscription is a configuration's share of a socket: a net.Listener that
// gets connections while it is the newest.
type subscription struct {
	sock  *socket
	key   string
	lease func() (release func(), ok bool)
	conns chan net.Conn
	done  chan struct{}
	close func() error
}

// listen subscribes to the socket of an address, and opens it if need be. The
// subscription gets nothing before activate is called.
func listen(ctx caddy.Context, na caddy.NetworkAddress, offset uint, lease func() (func(), bool)) (*subscription, error) {
	socketsMu.Lock()
	defer socketsMu.Unlock()
	key := na.Network + "/" + na.JoinHostPort(offset)
	v, loaded, err := sockets.LoadOrNew(key, func() (caddy.Destructor, error) {
		ln, err := openSocket(ctx, na, offset)
		if err != nil {
			return nil, err
		}
		return &socket{ln: ln, log: ctx.Logger(), wake: make(chan struct{})}, nil
	})
	if err != nil {
		return nil, err
	}
	s := v.(*socket)
	sub := &subscription{sock: s, key: key, lease: lease, conns: make(chan net.Conn), done: make(chan struct{})}
	sub.close = sync.OnceValue(sub.leave)
	if !loaded {
		go s.accept()
	}
	return sub, nil
}

// openSocket binds without SO_REUSEPORT, so that a port that another app of
// this process has is an error, whichever of the two comes first.
func openSocket(ctx caddy.Context, na caddy.NetworkAddress, offset uint) (net.Listener, error) {
	switch na.Network {
	case "tcp", "tcp4", "tcp6":
		var lc net.ListenConfig
		return lc.Listen(context.Background(), na.Network, na.JoinHostPort(offset))
	}
	// Unix sockets, inherited descriptors and plugins' networks are Caddy's.
	// Plugins want the caddy.Context itself.
	ln, err := na.Listen(ctx, offset, net.ListenConfig{})
	if err != nil {
		return nil, err
	}
	stream, ok := ln.(net.Listener)
	if !ok {
		return nil, fmt.Errorf("%s is not a stream network", na.Network)
	}
	return stream, nil
}

// Destruct closes the socket when no configuration uses it any more.
func (s *socket) Destruct() error { return s.ln.Close() }

// accept hands connections to the newest subscription for as long as the
// socket is open.
func (s *socket) accept() {
	for delay := time.Duration(0); ; {
		conn, err := s.ln.Accept()
		switch {
		case err == nil:
			delay = 0
			s.handOver(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, or a fault of the network: neither may end the server
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Warn("accepting a connection", zap.Error(err), zap.Duration("next_try", delay))
			time.Sleep(delay)
		}
	}
}

// handOver gives conn to a configuration together with a lease on it, taken
// first: it may be replaced at this very moment.
func (s *socket) handOver(conn net.Conn) {
	for {
		sub, wake := s.newest()
		if sub == nil {
			select {
			case <-wake:
				continue
			case <-time.After(time.Second): // no configuration is in force any more
				conn.Close()
				return
			}
		}
		release, ok := sub.lease()
		if !ok {
			runtime.Gosched()
			continue
		}
		select {
		case sub.conns <- &leasedConn{Conn: conn, release: release}:
			return
		case <-sub.done:
			release()
		}
	}
}

func (s *socket) newest() (*subscription, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.subs); n > 0 {
		return s.subs[n-1], s.wake
	}
	return nil, s.wake
}

func (s *socket) change(f func([]*subscription) []*subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = f(s.subs)
	close(s.wake)
	s.wake = make(chan struct{})
}

// activate makes sub the newest.
func (sub *subscription) activate() {
	sub.sock.change(func(subs []*subscription) []*subscription { return append(subs, sub) })
}

// Accept waits for a connection.
func (sub *subscription) Accept() (net.Conn, error) {
	select {
	case c := <-sub.conns:
		return c, nil
	case <-sub.done:
		return nil, net.ErrClosed
	}
}

// Addr is the socket's address.
func (sub *subscription) Addr() net.Addr { return sub.sock.ln.Addr() }

// Close gives the subscription up. The one before it, if its configuration
// still runs (as after a failed reload), gets the connections again.
func (sub *subscription) Close() error { return sub.close() }

func (sub *subscription) leave() error {
	sub.sock.change(func(subs []*subscription) []*subscription {
		return slices.DeleteFunc(subs, func(o *subscription) bool { return o == sub })
	})
	close(sub.done)
	socketsMu.Lock()
	defer socketsMu.Unlock()
	_, err := sockets.Delete(sub.key)
	return err
}

// leasedConn gives its lease back when it is closed.
type leasedConn struct {
	net.Conn
	release func()
}

func (c *leasedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
