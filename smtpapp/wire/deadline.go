package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

var longAgo = time.Unix(1, 0)

// leave is what other goroutines have said about the end of the session. It is
// guarded by Conn.mu.
type leave struct {
	draining bool
	exiting  bool
	cut      bool  // the time is up
	idle     bool  // the client is silent between two commands
	phase    Phase // of the session, when it last looked
}

// Drain has the client sent away with 421 as soon as it is between two
// transactions, now if it is silent. Unless the process exits, a client that
// had none yet may do one. It can be called at any time, from any goroutine.
func (c *Conn) Drain(exiting bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave.draining = true
	c.leave.exiting = c.leave.exiting || exiting
	if c.leave.idle && c.leave.due() {
		_ = c.nc.SetReadDeadline(longAgo)
	}
}

// due reports whether the client should be sent away.
func (l *leave) due() bool {
	return l.cut || l.draining && (l.phase == Served || l.exiting && l.phase != InTransaction)
}

// CutOff ends the session when ctx does, whatever it is at. The function that
// it returns must be called when the session is over.
func (c *Conn) CutOff(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.leave.cut = true
		_ = c.nc.SetReadDeadline(longAgo)
		_ = c.nc.SetWriteDeadline(time.Now().Add(cutGrace))
	})
}

// patience is called between two lines. It returns how long the client may
// take for the next, or the reply that sends it away.
func (c *Conn) patience() (time.Duration, *mail.Reply) {
	phase := c.cfg.Handler.Phase()
	wait := c.cfg.Timeouts.Command
	if phase == BeforeHello {
		wait = c.cfg.Timeouts.BeforeHello
	}
	if c.turn.responding { // an exchange is brought to its end
		phase = InTransaction
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave.phase = phase
	if c.leave.due() {
		return 0, errLeaving
	}
	return wait, nil
}

// arm sets the deadline of a read. The client is idle if it may be sent away
// before the read has brought anything.
func (c *Conn) arm(deadline time.Time, idle bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leave.cut || idle && c.leave.due() {
		return errLeaving
	}
	c.leave.idle = idle
	return c.nc.SetReadDeadline(deadline)
}

// fill reads more of the input, after the replies that the client may be
// waiting for are sent.
func (c *Conn) fill(deadline time.Time, idle bool) error {
	if err := c.flush(); err != nil {
		return err
	}
	if idle {
		c.in.release()
	}
	for range 100 {
		if err := c.arm(deadline, idle); err != nil {
			return err
		}
		n, err := c.nc.Read(c.in.room())
		c.in.w += n
		if idle {
			c.mu.Lock()
			c.leave.idle = false
			c.mu.Unlock()
		}
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// silent reports whether a read failed for nothing but the client's silence.
func (c *Conn) silent(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	if !ok || !ne.Timeout() || c.out.err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.leave.due()
}

// lost finds out what a failed read means: a reply that ends the session, or,
// if there is nobody to hear it, end in c.broken.
func (c *Conn) lost(err, end error) *mail.Reply {
	if r, ok := errors.AsType[*mail.Reply](err); ok {
		return r
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() && c.out.err == nil {
		if c.silent(err) {
			return errTimeout
		}
		return errLeaving
	}
	c.broken = end
	return nil
}
