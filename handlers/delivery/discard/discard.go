// Package discard delivers to nowhere.
package discard

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(Agent)) }

// Agent delivers to nowhere and says so in the log. Other than the discard
// handler it comes after the queue, which is of use in tests.
type Agent struct{}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.discard", New: func() caddy.Module { return new(Agent) }}
}

// Deliver forgets the message.
func (*Agent) Deliver(_ context.Context, d *queue.Delivery) []queue.Status {
	statuses := make([]queue.Status, 0, len(d.Envelope.Recipients))
	for _, r := range d.Envelope.Recipients {
		d.Log.Info("message discarded", "from", d.Envelope.From.String(), "to", r.Address.String())
		reply := &mail.Reply{Code: 250, Enh: "2.0.0", Text: "discarded"}
		statuses = append(statuses, queue.Status{Action: queue.Delivered, Reply: reply})
	}
	return statuses
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	discard
func (*Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return caddyopt.End(d)
}

var (
	_ queue.Agent           = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
