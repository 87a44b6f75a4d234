package caddyopt

import (
	"crypto/x509"
	"fmt"

	"github.com/caddyserver/caddy/v2"
)

// LoadPool loads one of Caddy's CA pool modules, tls.ca_pool.source.*, from a
// field of s. It returns nil if there is none.
func LoadPool(ctx caddy.Context, s any, field string) (*x509.CertPool, error) {
	m, err := LoadModule[interface{ CertPool() *x509.CertPool }](ctx, s, field)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if m == nil {
		return nil, nil
	}
	return m.CertPool(), nil
}
