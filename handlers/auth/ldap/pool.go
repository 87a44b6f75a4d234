package ldap

import (
	"context"
	"errors"
	"sync"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
)

// idleFor is how long a connection waits to be used again.
const idleFor = time.Minute

// A pool keeps connections for the next who needs one.
type pool struct {
	dial  func(ctx context.Context) (*conn, error)
	slots chan struct{}

	mu     sync.Mutex
	idle   []*idler // the one used last is the last
	closed bool
}

type idler struct {
	c     *conn
	timer *time.Timer
}

func newPool(size int, dial func(context.Context) (*conn, error)) *pool {
	return &pool{dial: dial, slots: make(chan struct{}, max(size, 1))}
}

var errClosed = errors.New("the configuration has ended")

// do runs fn with a connection, and once more with another if the directory has
// closed the one that was kept.
func (p *pool) do(ctx context.Context, fn func(*conn) error) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return errors.Join(errors.New("too many logins at a time"), ctx.Err())
	}
	for {
		c, kept, err := p.get(ctx)
		if err != nil {
			return err
		}
		c.budget.left.Store(maxAnswer)
		err = guard(ctx, c, func() error { return fn(c) })
		broken := isBroken(err) || ctx.Err() != nil
		if broken || !p.put(c) {
			c.Close()
		}
		if !broken || !kept || ctx.Err() != nil {
			return err
		}
	}
}

// isBroken reports whether an error is of the connection, rather than a result
// that the directory gave.
func isBroken(err error) bool {
	e, ok := errors.AsType[*goldap.Error](err)
	return err != nil && (!ok || e.ResultCode >= goldap.ErrorNetwork || e.ResultCode == goldap.LDAPResultUnavailable || e.ResultCode == goldap.LDAPResultBusy)
}

func (p *pool) get(ctx context.Context) (c *conn, kept bool, err error) {
	for {
		i, err := p.pop()
		if err != nil {
			return nil, false, err
		}
		if i == nil {
			break
		}
		if i.timer.Stop() && !i.c.IsClosing() {
			return i.c, true, nil
		}
		i.c.Close()
	}
	c, err = p.dial(ctx)
	return c, false, err
}

func (p *pool) pop() (*idler, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	n := len(p.idle)
	if n == 0 {
		return nil, nil
	}
	i := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return i, nil
}

// put keeps a connection, unless it is of no more use.
func (p *pool) put(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || c.IsClosing() {
		return false
	}
	i := &idler{c: c}
	i.timer = time.AfterFunc(idleFor, func() { p.expire(i) })
	p.idle = append(p.idle, i)
	return true
}

// expire closes a connection that nobody has needed for long.
func (p *pool) expire(i *idler) {
	p.mu.Lock()
	for n, o := range p.idle {
		if o == i {
			p.idle = append(p.idle[:n], p.idle[n+1:]...)
			break
		}
	}
	p.mu.Unlock()
	i.c.Close()
}

// close closes all connections, those in use when they are given back.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, i := range idle {
		i.timer.Stop()
		i.c.Close()
	}
}
