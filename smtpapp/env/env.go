// Package env is what all modules of one configuration share: the name of the
// host, its resolver, and whom it trusts. Modules find it in the context that
// they are provisioned with.
package env

import (
	"context"
	"crypto/x509"
	"net"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
)

// An Env is the surroundings of a module. It is not changed.
type Env struct {
	// Hostname is what the server calls itself to others.
	Hostname string
	// Resolver answers every DNS query of the configuration.
	Resolver dns.Resolver
	// Roots are the certificate authorities that outbound TLS and HTTPS trust;
	// nil for the system's.
	Roots *x509.CertPool
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
