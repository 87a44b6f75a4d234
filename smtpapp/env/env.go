// Package env is what all modules of one configuration share: the name of the
// host, its resolver, whom it trusts, and where modules can be heard. Modules
// find it in the context that they are provisioned with.
package env

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// An Env is the surroundings of a module. Its fields are not changed.
type Env struct {
	// Hostname is what the server calls itself to others.
	Hostname string
	// Resolver answers every DNS query of the configuration.
	Resolver dns.Resolver
	// Roots are the certificate authorities that outbound TLS and HTTPS trust;
	// nil for the system's.
	Roots *x509.CertPool
	// Metrics is the registry of the configuration, a new one with each; that of
	// a module's own context nobody collects. See Register.
	Metrics prometheus.Registerer
	// Events, if not nil, emits an event of Caddy's events app. Its subscribers
	// run before it returns.
	Events func(name string, data map[string]any)

	// Listens reports whether this process takes mail at an address, so that who
	// connects there talks to himself. It may be nil.
	Listens func(netip.AddrPort) bool

	// Submit sends a message of this host's own, such as a report, from an
	// address of ours: by the routes of the servers and through the queue, signed
	// like the mail of our own users. A *mail.Reply is a refusal, for good or for
	// now. It is there when the configuration has started.
	Submit func(ctx context.Context, from, to mail.Address, m *message.Message) error

	mu      sync.Mutex
	offered []any
}

// Register adds collectors to the registry. They are of the process, so that
// counters survive a reload: made once and registered with each configuration.
func (e *Env) Register(cs ...prometheus.Collector) error {
	if e.Metrics == nil {
		return nil
	}
	for _, c := range cs {
		err := e.Metrics.Register(c)
		if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !again {
			return err
		}
	}
	return nil
}

// Emit emits an event, if there is anywhere to.
func (e *Env) Emit(name string, data map[string]any) {
	if e.Events != nil {
		e.Events(name, data)
	}
}

// Offer makes v known to whoever asks for what it can do, such as the admin
// API: by All. Modules offer themselves when they are provisioned.
func (e *Env) Offer(v any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.offered = append(e.offered, v)
}

// A Starter is a module with work of its own, such as keys to look after, that
// it must not do while a configuration is only checked. The app calls Start of
// those that were offered when the configuration starts, before the first
// session; Start does not wait for the work. The module's Cleanup ends it.
type Starter interface{ Start() error }

// All returns what was offered and is a T.
func All[T any](e *Env) []T {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ts []T
	for _, v := range e.offered {
		if t, ok := v.(T); ok {
			ts = append(ts, t)
		}
	}
	return ts
}

type key struct{}

// NewContext returns a context that carries e.
func NewContext(ctx context.Context, e *Env) context.Context {
	return context.WithValue(ctx, key{}, e)
}

// FromContext returns the Env of a configuration, and outside of one (in a
// module's own tests) the system's resolver and roots under "localhost".
func FromContext(ctx context.Context) *Env {
	if e, ok := ctx.Value(key{}).(*Env); ok {
		return e
	}
	return &Env{Hostname: "localhost", Resolver: net.DefaultResolver}
}
