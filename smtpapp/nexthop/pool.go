package nexthop

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// PoolOptions bound what a Pool keeps. The zero PoolOptions keep nothing.
type PoolOptions struct {
	Idle time.Duration // how long a connection is kept
	Max  int           // how many for one address
	Uses int           // transactions on one connection, zero for no bound
}

// A Pool keeps connections for the next message to the same address under the
// same policy.
type Pool struct {
	opts PoolOptions
	ctx  context.Context // of those who say goodbye
	end  context.CancelFunc

	mu     sync.Mutex
	idle   map[string][]*kept
	closed bool
	wg     sync.WaitGroup // timers and goroutines

	open tally
}

// NewPool returns an empty pool.
func NewPool(opts PoolOptions) *Pool {
	ctx, end := context.WithCancel(context.Background())
	return &Pool{opts: opts, ctx: ctx, end: end, idle: map[string][]*kept{}}
}

// kept is a connection between two messages.
type kept struct {
	conn  *client.Conn
	raw   net.Conn // beneath it
	uses  int
	to    map[string]bool // domains, where the peer counts them
	timer *time.Timer
}

// take returns the connection that was used last, or nil.
func (p *Pool) take(key string) *kept {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[key]
	if len(list) == 0 {
		return nil
	}
	k := list[len(list)-1]
	p.drop(key, k)
	return k
}

// drop forgets k, and reports whether it was there. The lock is held.
func (p *Pool) drop(key string, k *kept) bool {
	list := p.idle[key]
	for i, o := range list {
		if o != k {
			continue
		}
		if list = append(list[:i], list[i+1:]...); len(list) == 0 {
			delete(p.idle, key)
		} else {
			p.idle[key] = list
		}
		if k.timer.Stop() {
			p.wg.Done()
		}
		return true
	}
	return false
}

// give returns a connection after use, by the rule for it, if there is one. If it
// cannot be kept it is closed.
func (p *Pool) give(key string, k *kept, r *queue.Rule) {
	k.uses++
	most := p.opts.Uses
	if r != nil && r.PerConnection > 0 {
		most = r.PerConnection
	}
	if !k.conn.Usable() || most > 0 && k.uses >= most || !p.keep(key, k) {
		p.quit(k.conn)
	}
}

func (p *Pool) keep(key string, k *kept) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.opts.Idle <= 0 || len(p.idle[key]) >= p.opts.Max {
		return false
	}
	p.idle[key] = append(p.idle[key], k)
	p.wg.Add(1)
	k.timer = time.AfterFunc(p.opts.Idle, func() {
		defer p.wg.Done()
		p.mu.Lock()
		mine := p.drop(key, k)
		p.mu.Unlock()
		if mine { // and was not taken in this moment
			_ = k.conn.Quit(p.ctx)
		}
	})
	return true
}

// quit says goodbye without making anybody wait: mail that was taken is taken,
// whatever the peer answers.
func (p *Pool) quit(c *client.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !c.Usable() {
		_ = c.Close()
		return
	}
	p.wg.Go(func() { _ = c.Quit(p.ctx) })
}

// Close closes what is kept and cuts short whoever still says goodbye.
func (p *Pool) Close() {
	p.end()
	p.mu.Lock()
	p.closed = true
	for key, list := range p.idle {
		for _, k := range append([]*kept(nil), list...) {
			p.drop(key, k)
			_ = k.conn.Close()
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}
