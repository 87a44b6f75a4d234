package relay

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/nexthop"
	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

// proxies is what Caddy's network proxy modules can do. They are made for HTTP,
// and asked for the way of a request.
type proxies interface {
	ProxyFunc() func(*http.Request) (*url.URL, error)
}

// settleProxy has connections go through the proxy of the configuration.
func (a *Agent) settleProxy(ctx caddy.Context) error {
	m, err := caddyopt.LoadModule[proxies](ctx, a, "NetworkProxyRaw")
	if m == nil || err != nil {
		return err
	}
	if len(a.Source)+len(a.Pools) > 0 || a.SourceByRaw != nil {
		return errors.New("what goes through a proxy has no source of this host")
	}
	find := m.ProxyFunc()
	p := &nexthop.Proxy{Dial: upstream.Dialer{Env: env.FromContext(ctx)}.Dial, Roots: env.FromContext(ctx).Roots}
	p.Find = func(ctx context.Context, addr string) (*url.URL, error) {
		ctx = context.WithValue(ctx, caddy.ReplacerCtxKey, caddy.NewReplacer()) // they want one
		req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "smtp", Host: addr}, Host: addr, Header: http.Header{}}
		return find(req.WithContext(ctx))
	}
	a.sender.Client.Dial = p.DialContext
	return nil
}
