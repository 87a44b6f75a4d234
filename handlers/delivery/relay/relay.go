// Package relay sends mail on by SMTP.
package relay

import (
	"context"
	"encoding/json"
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
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
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

	// Source is where connections come from: an IPv4 address of this host, an
	// IPv6 address, or one of each, and a name for EHLO if it is another than
	// Hello. Hosts without an address of such a family are not tried. Default:
	// what the system chooses.
	Source []string `json:"source,omitempty"`

	// SourceByRaw is a table from users to sources of their own, each as Source:
	// "192.0.2.7", "2001:db8::7", "bulk.example.org". The user is who logged in
	// when the message was submitted. While the table fails, or has what is no
	// source, that user's mail waits.
	SourceByRaw json.RawMessage `json:"source_by,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// Pools are sources by a name, of which each message is given one. The first
	// pool that is for a message is its; what is for none comes from Source.
	// Default: none.
	Pools []Pool `json:"pools,omitempty"`

	// NoConvert returns messages that a host cannot take as they are. By default
	// they are converted, part by part, for hosts without 8BITMIME, BINARYMIME or
	// SMTPUTF8 (RFC 6152, section 3), and where lines have more than 998 octets.
	// A DKIM signature over what is converted is not good any more; encode_7bit
	// converts before it is made.
	NoConvert bool `json:"no_convert,omitempty"`

	// NetworkProxyRaw is a network proxy module of Caddy: connections go through
	// the proxy that it names, by SOCKS5 (socks5://) or HTTP (http://, https://),
	// which is given addresses, not names. Then there is no source to choose.
	// Default: none.
	NetworkProxyRaw json.RawMessage `json:"network_proxy,omitempty" caddy:"namespace=caddy.network_proxy inline_key=from"`

	// AllowLoopback lets domains lead to loopback addresses, as in tests: what
	// listens there may trust this host. Smarthosts always may.
	AllowLoopback bool `json:"allow_loopback,omitempty"`

	// TunnelPriority has messages carry their priority (RFC 6710) in the field
	// MT-Priority to hosts that do not know MT-PRIORITY, and removes such fields
	// of others (RFC 6758). A signature over that field is then worth nothing.
	// Default: false.
	TunnelPriority bool `json:"tunnel_priority,omitempty"`

	// ConnectTimeout is how long to wait for a connection. Default: 30s.
	ConnectTimeout caddy.Duration `json:"connect_timeout,omitempty"`

	// IdleTimeout is how long a connection is kept for the next message;
	// negative: not at all. Default: 5s.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// AddressesPerAttempt is how many addresses of mail hosts an attempt dials at
	// most, and SessionsPerAttempt how many of those that come beyond EHLO it makes
	// use of. Default: 5 and 2.
	AddressesPerAttempt int `json:"addresses_per_attempt,omitempty"`
	SessionsPerAttempt  int `json:"sessions_per_attempt,omitempty"`

	// Timeouts are how long to wait for a peer, in each further step.
	Timeouts Timeouts `json:"timeouts,omitzero"`

	smarthosts []nexthop.Host
	finder     *nexthop.Finder
	sender     *nexthop.Sender
	sourceBy   table
	senders    map[string]*nexthop.Sender // by source of a pool
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
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
	timeouts, err := a.Timeouts.client(a.ConnectTimeout)
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	log := plainlog.New(ctx.Slogger())
	a.finder = &nexthop.Finder{
		Resolver: e.Resolver, Hostname: strings.ToLower(e.Hostname), Port: fmt.Sprint(a.Port), Loopback: a.AllowLoopback, Listens: e.Listens,
	}
	a.sender = &nexthop.Sender{
		Client: client.Options{
			Hello: a.Hello, Logger: log, Timeouts: timeouts,
		},
		Resolver: e.Resolver, Auth: cred,
		TLS:  nexthop.TLS{Mode: nexthop.TLSMode(a.TLS), Roots: e.Roots, Unverified: a.InsecureSkipVerify},
		Pool: nexthop.NewPool(nexthop.PoolOptions{Idle: time.Duration(a.IdleTimeout), Max: 20, Uses: 100}),
		Log:  log, Done: queue.Relayed, Own: len(a.smarthosts) > 0,
		NoConvert: a.NoConvert, TunnelPriority: a.TunnelPriority,
		Addresses: a.AddressesPerAttempt, Sessions: a.SessionsPerAttempt,
	}
	if err := a.settleProxy(ctx); err != nil {
		return fmt.Errorf("relay: network_proxy: %w", err)
	}
	return a.settleSources(ctx)
}

// Destination is the recipient's domain, or one for all where there are
// smarthosts.
func (a *Agent) Destination(_ *mail.Envelope, r *mail.Recipient) string {
	if len(a.smarthosts) > 0 {
		return "smarthost " + a.smarthosts[0].String()
	}
	return r.Address.Domain
}

// Locate returns the names of the hosts that take mail for a destination.
func (a *Agent) Locate(ctx context.Context, destination string) (names []string) {
	hosts := a.smarthosts
	if len(hosts) == 0 {
		hosts, _ = a.finder.Hosts(ctx, destination)
	}
	for _, h := range hosts {
		names = append(names, strings.ToLower(h.Name))
	}
	return names
}

// Forwards says that what was asked for goes on with the message.
func (*Agent) Forwards() {}

// Deliver hands the message to the hosts of each destination.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	sender, err := a.senderFor(ctx, d)
	if err != nil {
		d.Log.Error("finding the address to send from", "user", d.Envelope.AuthUser, "error", err)
		return nexthop.Refuse(mail.ReplyFor(err), len(d.Envelope.Recipients))
	}
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
		for n, s := range a.send(ctx, sender, d, dest, rcpts) {
			statuses[members[n]] = s
		}
	}
	return statuses
}

// send serves one destination.
func (a *Agent) send(ctx context.Context, sender *nexthop.Sender, d *queue.Delivery, domain string, rcpts []*mail.Recipient) []queue.Status {
	hosts := a.smarthosts
	if len(hosts) == 0 {
		var err error
		if hosts, err = a.finder.Hosts(ctx, domain); err != nil {
			return nexthop.Refuse(mail.ReplyFor(err), len(rcpts))
		}
	}
	return sender.Send(ctx, d, rcpts, hosts)
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
//		source <address...> [<name>]
//		source_by <table...>
//		pool <name> {
//			source <address...> [<name>] [weight <number>]
//			user <patterns...>
//			from <patterns...>
//		}
//		network_proxy <module...>
//		convert on|off
//		allow_loopback
//		tunnel_priority
//		connect_timeout <duration>
//		idle_timeout <duration>
//		addresses_per_attempt <number>
//		sessions_per_attempt <number>
//		timeouts {
//			handshake|greeting|command|data|block|dot|reset|quit <duration>
//		}
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	a.Hosts = d.RemainingArgs()
	convert := true
	err := caddyopt.Block(d, caddyopt.Table{
		"port":                  caddyopt.Int(&a.Port, 1),
		"tls":                   caddyopt.One(a.setTLS),
		"insecure_skip_verify":  caddyopt.Flag(&a.InsecureSkipVerify),
		"auth":                  caddyopt.Once(a.readAuth),
		"hello":                 caddyopt.String(&a.Hello),
		"source":                caddyopt.Once(a.readSource),
		"pool":                  a.readPool,
		"source_by":             caddyopt.Module("smtp.tables", "table", &a.SourceByRaw),
		"convert":               caddyopt.OnOff(&convert),
		"network_proxy":         caddyopt.Module("caddy.network_proxy", "from", &a.NetworkProxyRaw),
		"allow_loopback":        caddyopt.Flag(&a.AllowLoopback),
		"tunnel_priority":       caddyopt.Flag(&a.TunnelPriority),
		"connect_timeout":       caddyopt.Duration(&a.ConnectTimeout),
		"idle_timeout":          caddyopt.Duration(&a.IdleTimeout),
		"addresses_per_attempt": caddyopt.Int(&a.AddressesPerAttempt, 1),
		"sessions_per_attempt":  caddyopt.Int(&a.SessionsPerAttempt, 1),
		"timeouts":              caddyopt.Once(a.Timeouts.read),
	})
	a.NoConvert = !convert
	return err
}

var (
	_ queue.Forwarder       = (*Agent)(nil)
	_ queue.Sourcer         = (*Agent)(nil)
	_ queue.Locator         = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.CleanerUpper    = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
