// Package relay sends mail on by SMTP.
package relay

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/nexthop"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(Agent)) }

// Agent sends mail on by SMTP: to the hosts that a recipient's domain names
// (its MX records, or its own address), or to smarthosts.
type Agent struct {
	// Hosts are smarthosts, each as host or host:port, tried in this order. MX
	// records are not looked up for them. Default: none; mail goes to the
	// domain of each recipient.
	Hosts []string `json:"hosts,omitempty"`

	// Port is that of hosts without one. Default: 25; of smarthosts 465 if tls
	// is implicit, else 587 if there is auth.
	Port uint16 `json:"port,omitempty"`

	// TLS says when connections have TLS. "opportunistic": where it is offered
	// and works, whoever the certificate is of. "required": by STARTTLS, with a
	// certificate for the host's name. "implicit": from the beginning, with such
	// a certificate. "off": never. Default: opportunistic; for smarthosts on port
	// 465 implicit, for others with auth required.
	TLS string `json:"tls,omitempty"`

	// InsecureSkipVerify takes any certificate where TLS is required or
	// implicit: anybody on the way can then read and change mail and password.
	InsecureSkipVerify bool `json:"insecure_skip_verify,omitempty"`

	// Auth logs in at smarthosts, by PLAIN or LOGIN. TLS must then be required
	// or implicit.
	Auth *Credentials `json:"auth,omitempty"`

	// Hello is the name in EHLO. Default: the app's hostname.
	Hello string `json:"hello,omitempty"`

	// AllowLoopback lets domains lead to loopback addresses, as in tests: what
	// listens there may trust this host. Smarthosts always may.
	AllowLoopback bool `json:"allow_loopback,omitempty"`

	// ConnectTimeout is how long to wait for a connection. Default: 30s.
	ConnectTimeout caddy.Duration `json:"connect_timeout,omitempty"`

	// IdleTimeout is how long a connection is kept for the next message;
	// negative: not at all. Default: 5s.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	smarthosts []nexthop.Host
	finder     *nexthop.Finder
	sender     *nexthop.Sender
}

// Credentials are what to log in with.
type Credentials struct {
	// Username and Password may be placeholders such as {env.RELAY_PASSWORD}
	// or {file./run/secrets/relay}, which are replaced when the configuration
	// is loaded and don't show in it.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.relay", New: func() caddy.Module { return new(Agent) }}
}

// Provision sets the agent up. Nothing is dialled until the first delivery.
func (a *Agent) Provision(ctx caddy.Context) error {
	e := env.FromContext(ctx)
	if err := a.settle(e.Hostname); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	cred, err := a.credentials()
	if err != nil {
		return fmt.Errorf("relay: auth: %w", err)
	}
	log := ctx.Slogger()
	a.finder = &nexthop.Finder{Resolver: e.Resolver, Hostname: strings.ToLower(e.Hostname), Port: fmt.Sprint(a.Port), Loopback: a.AllowLoopback}
	a.sender = &nexthop.Sender{
		Client: client.Options{
			Hello: a.Hello, Logger: log,
			Timeouts: client.Timeouts{Connect: time.Duration(a.ConnectTimeout)},
		},
		Resolver: e.Resolver, Auth: cred,
		TLS:  nexthop.TLS{Mode: nexthop.TLSMode(a.TLS), Roots: e.Roots, Unverified: a.InsecureSkipVerify},
		Pool: nexthop.NewPool(nexthop.PoolOptions{Idle: time.Duration(a.IdleTimeout), Max: 20, Uses: 100}),
		Log:  log, Done: queue.Relayed, Own: len(a.smarthosts) > 0,
	}
	return nil
}

// Destination is the recipient's domain, or one for all where there are
// smarthosts.
func (a *Agent) Destination(_ *mail.Envelope, r *mail.Recipient) string {
	if len(a.smarthosts) > 0 {
		return "smarthost " + a.smarthosts[0].String()
	}
	return r.Address.Domain
}

// Deliver hands the message to the hosts of each destination.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	statuses := make([]queue.Status, len(d.Envelope.Recipients))
	groups := map[string][]int{}
	for i, r := range d.Envelope.Recipients {
		dest := a.Destination(d.Envelope, r)
		groups[dest] = append(groups[dest], i)
	}
	for dest, members := range groups {
		rcpts := make([]*mail.Recipient, len(members))
		for n, i := range members {
			rcpts[n] = d.Envelope.Recipients[i]
		}
		for n, s := range a.send(ctx, d, dest, rcpts) {
			statuses[members[n]] = s
		}
	}
	return statuses
}

// send serves one destination.
func (a *Agent) send(ctx context.Context, d *queue.Delivery, domain string, rcpts []*mail.Recipient) []queue.Status {
	hosts := a.smarthosts
	if len(hosts) == 0 {
		var err error
		if hosts, err = a.finder.Hosts(ctx, domain); err != nil {
			return nexthop.Refuse(mail.ReplyFor(err), len(rcpts))
		}
	}
	return a.sender.Send(ctx, d, rcpts, hosts)
}

// Cleanup closes what connections are kept.
func (a *Agent) Cleanup() error {
	if a.sender != nil {
		a.sender.Pool.Close()
	}
	return nil
}

// UnmarshalCaddyfile sets up the agent from Caddyfile tokens. Syntax:
//
//	relay [<host[:port]>...] {
//		port <number>
//		tls  opportunistic|required|implicit|off
//		insecure_skip_verify
//		auth <user> <password>
//		hello <name>
//		allow_loopback
//		connect_timeout <duration>
//		idle_timeout <duration>
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	a.Hosts = d.RemainingArgs()
	return caddyopt.Block(d, caddyopt.Table{
		"port":                 caddyopt.Int(&a.Port, 1),
		"tls":                  caddyopt.One(a.setTLS),
		"insecure_skip_verify": caddyopt.Flag(&a.InsecureSkipVerify),
		"auth":                 caddyopt.Once(a.readAuth),
		"hello":                caddyopt.String(&a.Hello),
		"allow_loopback":       caddyopt.Flag(&a.AllowLoopback),
		"connect_timeout":      caddyopt.Duration(&a.ConnectTimeout),
		"idle_timeout":         caddyopt.Duration(&a.IdleTimeout),
	})
}

var (
	_ queue.Agent           = (*Agent)(nil)
	_ queue.Router          = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.CleanerUpper    = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
