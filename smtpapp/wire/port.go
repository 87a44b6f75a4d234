package wire

import (
	"net"
	"sync"
	"time"
)

// A port is the net.Conn that the dispatcher sees. It reads what the Conn
// gives it and writes into the void.
type port struct {
	c      *Conn
	once   sync.Once
	closed chan struct{}
}

func (p *port) Read(b []byte) (int, error) {
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	default:
		return p.c.read(b)
	}
}

func (p *port) Write(b []byte) (int, error) { return len(b), nil }

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *port) LocalAddr() net.Addr              { return p.c.nc.LocalAddr() }
func (p *port) RemoteAddr() net.Addr             { return p.c.nc.RemoteAddr() }
func (p *port) SetDeadline(time.Time) error      { return nil }
func (p *port) SetReadDeadline(time.Time) error  { return nil }
func (p *port) SetWriteDeadline(time.Time) error { return nil }

// A listener accepts its port, and then waits for its end.
type listener struct {
	port     *port
	accepted bool
}

func (l *listener) Accept() (net.Conn, error) {
	if !l.accepted {
		l.accepted = true
		return l.port, nil
	}
	<-l.port.closed
	return nil, net.ErrClosed
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.port.LocalAddr() }
