// Package forward sends mail on to addresses elsewhere.
package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/srs"
)

func init() { caddy.RegisterModule(new(Agent)) }

// Agent sends mail on through another agent, such as relay, under a reverse-path
// that this host may use: mail that was sent to an address here and goes
// elsewhere, as the target of an alias does, from a sender whose domain is none of
// ours, has an address of the Sender Rewriting Scheme in his place, so that SPF
// does not fail. All other mail is sent on as it is: that of our own users, that
// from our domains, and that with the null reverse-path. The handler srs leads
// back what comes to such an address.
//
// A forwarded message gets a Delivered-To field with the address that it was sent
// to. One that has it already comes back in a loop, and fails (5.4.6).
type Agent struct {
	// Domain is that of the addresses, for which this host must have a server with
	// the handler srs, and which SPF must allow it to send for. Default: the app's
	// hostname.
	Domain string `json:"domain,omitempty"`

	// Ours are our domains, which this host may send for; *.example.org stands for
	// all below that one. Default: Domain alone.
	Ours []string `json:"ours,omitempty"`

	// ViaRaw is the agent that sends. Default: relay, to the recipient's MX.
	ViaRaw json.RawMessage `json:"via,omitempty" caddy:"namespace=smtp.agents inline_key=agent"`

	// Rotate is after what time the secret of the addresses is replaced. What was
	// made with the one before is good as long as the handler srs says. Default: 30d.
	Rotate caddy.Duration `json:"rotate,omitempty"`

	via     queue.Agent
	keys    *srs.Keys
	storage srs.Storage
}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.forward", New: func() caddy.Module { return new(Agent) }}
}

// Provision loads the agent that sends. Secrets are read when they are first wanted.
func (a *Agent) Provision(ctx caddy.Context) (err error) {
	if a.Domain == "" {
		a.Domain = env.FromContext(ctx).Hostname
	}
	if a.Domain, err = mail.ParseDomain(a.Domain); err != nil {
		return fmt.Errorf("forward: domain: %w", err)
	}
	for i, d := range a.Ours {
		below, isBelow := strings.CutPrefix(d, "*.")
		if below, err = mail.ParseDomain(below); err != nil {
			return fmt.Errorf("forward: ours: %w", err)
		}
		if a.Ours[i] = below; isBelow {
			a.Ours[i] = "*." + below
		}
	}
	if a.ViaRaw == nil {
		a.ViaRaw = json.RawMessage(`{"agent":"relay"}`)
	}
	if a.via, err = caddyopt.LoadModule[queue.Agent](ctx, a, "ViaRaw"); err != nil {
		return fmt.Errorf("forward: via: %w", err)
	}
	if a.Rotate == 0 {
		a.Rotate = caddy.Duration(srs.DefaultRotate)
	}
	if a.storage == nil {
		a.storage = ctx.Storage()
	}
	// Who asks for the validity is the handler: keys are kept for the longest.
	a.keys = &srs.Keys{Storage: a.storage, Rotate: time.Duration(a.Rotate), Validity: srs.MaxValidity, Log: plainlog.New(ctx.Slogger())}
	return nil
}

// Validate checks the options.
func (a *Agent) Validate() error {
	if time.Duration(a.Rotate) < 24*time.Hour {
		return errors.New("forward: rotate is less than a day")
	}
	return nil
}

// Destination is that of the agent that sends.
func (a *Agent) Destination(e *mail.Envelope, r *mail.Recipient) string {
	if router, ok := a.via.(queue.Router); ok {
		return router.Destination(e, r)
	}
	return ""
}

// Locate is that of the agent that sends.
func (a *Agent) Locate(ctx context.Context, destination string) []string {
	if l, ok := a.via.(queue.Locator); ok {
		return l.Locate(ctx, destination)
	}
	return nil
}

// ChooseSource is that of the agent that sends.
func (a *Agent) ChooseSource(id string, e *mail.Envelope) string {
	if s, ok := a.via.(queue.Sourcer); ok {
		return s.ChooseSource(id, e)
	}
	return ""
}

// Sources are those of the agent that sends.
func (a *Agent) Sources() []string {
	if s, ok := a.via.(interface{ Sources() []string }); ok {
		return s.Sources()
	}
	return nil
}

// isOurs reports whether this host may send for a domain.
func (a *Agent) isOurs(domain string) bool {
	return domain == a.Domain || slices.ContainsFunc(a.Ours, func(d string) bool {
		below, ok := strings.CutPrefix(d, "*")
		return d == domain || ok && strings.HasSuffix(domain, below)
	})
}

var errLoop = mail.Refuse(554, "5.4.6", "the message has been forwarded from here before")

// Deliver sends on what was forwarded, and the rest.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	statuses := make([]queue.Status, len(d.Envelope.Recipients))
	groups := map[mail.Address][]int{} // by the address that it was sent to
	for i, r := range d.Envelope.Recipients {
		var given mail.Address
		if r.Expanded {
			given = r.Given
		}
		groups[given] = append(groups[given], i)
	}
	for given, members := range groups {
		part, refused := a.part(ctx, d, given)
		for n, i := range members {
			if part == nil {
				statuses[i] = refused
				continue
			}
			if n == 0 {
				part.Envelope.Recipients = nil
			}
			part.Envelope.Recipients = append(part.Envelope.Recipients, d.Envelope.Recipients[i])
		}
		if part == nil {
			continue
		}
		for n, s := range a.via.Deliver(ctx, part) {
			statuses[members[n]] = s
		}
	}
	return statuses
}

// part is the delivery of what was sent to an address of ours, or of the rest for
// the zero Address. If there is none, it returns what that comes to.
func (a *Agent) part(ctx context.Context, d *queue.Delivery, given mail.Address) (*queue.Delivery, queue.Status) {
	part, e := *d, *d.Envelope
	part.Envelope = &e
	if given.IsNull() {
		return &part, queue.Status{}
	}
	part.Content = d.Content.Fork()
	for _, v := range part.Content.Header.Values("Delivered-To") {
		if strings.EqualFold(strings.TrimSpace(v), given.String()) {
			return nil, queue.Status{Action: queue.Failed, Reply: errLoop}
		}
	}
	part.Content.Header.Prepend("Delivered-To", given.String())
	if e.From.IsNull() || a.isOurs(e.From.Domain) {
		return &part, queue.Status{}
	}
	secret, err := a.keys.Secret(ctx)
	if err != nil {
		d.Log.Error("rewriting the sender", "error", err)
		return nil, queue.Status{Reply: mail.ReplyFor(err)}
	}
	from, err := srs.Forward(e.From, a.Domain, secret, time.Now())
	if err != nil { // too long: with its own sender it may get there yet
		d.Log.Warn("the sender cannot be rewritten", "from", e.From.String(), "error", err)
		return &part, queue.Status{}
	}
	e.From = from
	return &part, queue.Status{}
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	forward {
//		domain <domain>
//		ours   <domains...>
//		via    <agent...>
//		rotate <duration>
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"domain": caddyopt.String(&a.Domain),
		"ours":   caddyopt.Strings(&a.Ours),
		"via":    caddyopt.Module("smtp.agents", "agent", &a.ViaRaw),
		"rotate": caddyopt.Duration(&a.Rotate),
	})
}

var (
	_ queue.Agent           = (*Agent)(nil)
	_ queue.Locator         = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.Validator       = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
