package relay

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/nexthop"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// settleSources has connections come from the source, and loads the table of
// those of users. What a table of the configuration itself has is checked.
func (a *Agent) settleSources(ctx caddy.Context) (err error) {
	if len(a.Source) > 0 {
		src, err := nexthop.ParseSource(a.Source)
		if err != nil {
			return fmt.Errorf("relay: source: %w", err)
		}
		a.sender = a.sender.From(src)
	}
	if err := a.settlePools(); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	if a.sourceBy, err = caddyopt.LoadModule[table](ctx, a, "SourceByRaw"); err != nil {
		return err
	}
	if known, ok := a.sourceBy.(interface{ All() [][]string }); ok {
		for _, words := range known.All() {
			if _, err := nexthop.ParseSource(words); err != nil {
				return fmt.Errorf("relay: source_by: %w", err)
			}
		}
	}
	return nil
}

// senderFor returns the sender of a message: that of a pool, of its user, or the
// one for all.
func (a *Agent) senderFor(ctx context.Context, d *queue.Delivery) (*nexthop.Sender, error) {
	if s := a.senders[d.Source]; s != nil {
		return s, nil
	}
	user := d.Envelope.AuthUser
	if a.sourceBy == nil || user == "" {
		return a.sender, nil
	}
	words, ok, err := a.sourceBy.Lookup(ctx, user)
	if err != nil || !ok {
		return a.sender, err
	}
	src, err := nexthop.ParseSource(words)
	if err != nil {
		return nil, err
	}
	return a.sender.From(src), nil
}

func (a *Agent) readSource(d *caddyfile.Dispenser) error {
	if a.Source = d.RemainingArgs(); len(a.Source) == 0 {
		return d.ArgErr()
	}
	if _, err := nexthop.ParseSource(a.Source); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
