package smtpapp

import (
	"context"
	"sync"
	"time"
)

// A lifetime counts the sessions and attempts that use one configuration. Its
// modules are cleaned up when the configuration was stopped and the last of
// them has ended. (A sync.WaitGroup would not do: leases are taken while it
// waits, and from zero.)
type lifetime struct {
	ctx    context.Context // of sessions and attempts; cancelled when they are cut off
	cancel context.CancelCauseFunc
	idle   chan struct{} // closed when stopped and unused

	mu      sync.Mutex
	leases  int
	begun   bool
	stopped bool
	ends    []func()
}

func newLifetime() *lifetime {
	l := &lifetime{idle: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	return l
}

// onEnd has f run at the end.
func (l *lifetime) onEnd(f func()) { l.ends = append(l.ends, f) }

func (l *lifetime) started() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = true
}

func (l *lifetime) hasStarted() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.begun
}

// lease keeps the configuration in use until release is called. It fails when
// the configuration is stopped and no longer used.
func (l *lifetime) lease() (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped && l.leases == 0 {
		return nil, false
	}
	l.leases++
	return sync.OnceFunc(l.release), true
}

func (l *lifetime) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases--
	l.checkIdle()
}

func (l *lifetime) checkIdle() {
	if l.stopped && l.leases == 0 {
		close(l.idle)
	}
}

// stop reports whether it was the first call.
func (l *lifetime) stop() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.stopped = true
	l.checkIdle()
	return true
}

// end runs what onEnd left, once.
func (l *lifetime) end() {
	l.mu.Lock()
	ends := l.ends
	l.ends = nil
	l.mu.Unlock()
	for _, f := range ends {
		f()
	}
	l.cancel(context.Canceled)
}

// drains are the configurations that were stopped and still are in use. It is
// of the process, as its exit is.
var drains = drainSet{apps: map[*App]chan struct{}{}}

type drainSet struct {
	mu   sync.Mutex
	apps map[*App]chan struct{}
}

func (d *drainSet) add(a *App) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apps[a] = make(chan struct{})
}

func (d *drainSet) remove(a *App) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if done, ok := d.apps[a]; ok {
		close(done)
		delete(d.apps, a)
	}
}

func (d *drainSet) all() map[*App]chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := make(map[*App]chan struct{}, len(d.apps))
	for a, done := range d.apps {
		m[a] = done
	}
	return m
}

// waitForDrains waits for all that is open to end, and cuts it off when the
// grace period is over.
func waitForDrains(grace time.Duration) {
	all := drains.all()
	for a := range all {
		for _, s := range a.Servers {
			s.drain(true)
		}
	}
	timer := time.AfterFunc(grace, func() {
		for a := range all {
			a.cut()
		}
	})
	defer timer.Stop()
	// What does not even end when it is cut off must not keep the process:
	// Caddy hears no further signal until this returns.
	last := time.After(grace + cutGrace)
	for _, done := range all {
		select {
		case <-done:
		case <-last:
			return
		}
	}
}

// cutGrace is for sessions and attempts that were cut off to come to their end.
const cutGrace = 3 * time.Second
