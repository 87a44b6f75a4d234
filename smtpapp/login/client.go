package login

import (
	"context"
	"net/netip"
)

// A Client is what may be told to a source of credentials about who logs in.
// What is not known is zero.
type Client struct {
	Remote, Local netip.AddrPort
	TLS           bool
	Mechanism     string // of SASL
}

type clientKey struct{}

// WithClient returns a context that carries c.
func WithClient(ctx context.Context, c Client) context.Context {
	return context.WithValue(ctx, clientKey{}, c)
}

// ClientOf returns the client on whose behalf a source of credentials is asked.
func ClientOf(ctx context.Context) Client {
	c, _ := ctx.Value(clientKey{}).(Client)
	return c
}
