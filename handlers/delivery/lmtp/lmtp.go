// Package lmtp delivers to a mail store by LMTP (RFC 2033).
package lmtp

import (
	"cmp"
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
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(Agent)) }

// Agent delivers to a mail store such as Dovecot by LMTP: to a socket, within a
// network that can be trusted, or by TLS. The store answers for each recipient.
//
// Where the deliver handler has no users, the store is asked who exists before
// a recipient is accepted, by MAIL and RCPT without a message. A yes holds for
// five minutes, a no for five seconds. While the store cannot tell, whoever is
// not known is asked to try again.
type Agent struct {
	// Address is the store's, in Caddy's notation: unix//run/dovecot/lmtp, or
	// a host and a port.
	Address string `json:"address,omitempty"`

	// TLS says when connections have TLS. "off": never, which is for sockets and
	// networks that can be trusted. "opportunistic": where the store offers
	// STARTTLS and it works, whoever the certificate is of. "required": by
	// STARTTLS, with a certificate for the store's name. "implicit": from the
	// beginning, with such a certificate. Default: off.
	TLS string `json:"tls,omitempty"`

	// InsecureSkipVerify takes any certificate where TLS is required or implicit:
	// anybody on the way can then read and change mail.
	InsecureSkipVerify bool `json:"insecure_skip_verify,omitempty"`

	// Hello is the name that the store is greeted with. Default: the app's
	// hostname.
	Hello string `json:"hello,omitempty"`

	// IdleTimeout is how long a connection is kept for the next message;
	// negative: not at all. Default: 5s.
	IdleTimeout caddy.Duration `json:"idle_timeout,omitempty"`

	// NoVerify accepts recipients without asking the store. Those that it
	// refuses later are returned to senders, who may be forged.
	NoVerify bool `json:"no_verify,omitempty"`

	// NoConvert returns messages that the store cannot take as they are. By
	// default they are converted, part by part, for a store without 8BITMIME,
	// BINARYMIME or SMTPUTF8 (RFC 6152, section 3).
	NoConvert bool `json:"no_convert,omitempty"`

	host    nexthop.Host
	sender  *nexthop.Sender
	answers nexthop.Answers
}

// CaddyModule returns the Caddy module information.
func (*Agent) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.agents.lmtp", New: func() caddy.Module { return new(Agent) }}
}

// Provision sets the agent up. Nothing is dialled until the first recipient.
func (a *Agent) Provision(ctx caddy.Context) error {
	e := env.FromContext(ctx)
	addr, err := caddy.NewReplacer().ReplaceOrErr(a.Address, true, true)
	if err != nil {
		return fmt.Errorf("lmtp: address: %w", err)
	}
	if a.host, err = parse(addr); err != nil {
		return err
	}
	policy, err := a.policy(e)
	if err != nil {
		return fmt.Errorf("lmtp: %w", err)
	}
	if a.Hello == "" {
		a.Hello = e.Hostname
	}
	if a.IdleTimeout == 0 {
		a.IdleTimeout = caddy.Duration(5 * time.Second)
	}
	log := plainlog.New(ctx.Slogger())
	a.sender = &nexthop.Sender{
		Client:   client.Options{LMTP: true, Hello: a.Hello, Logger: log},
		Resolver: e.Resolver, TLS: policy,
		Pool: nexthop.NewPool(nexthop.PoolOptions{Idle: time.Duration(a.IdleTimeout), Max: 20, Uses: 100}),
		Log:  log, Done: queue.Delivered, Own: true,
		NoConvert: a.NoConvert,
	}
	return nil
}

// policy is what the configuration says of TLS.
func (a *Agent) policy(e *env.Env) (p nexthop.TLS, err error) {
	if p.Mode, err = nexthop.ParseTLSMode(cmp.Or(a.TLS, string(nexthop.TLSOff))); err != nil {
		return p, err
	}
	if a.InsecureSkipVerify && !p.Mode.Verified() {
		return p, fmt.Errorf("tls %s verifies nothing that insecure_skip_verify could skip", p.Mode)
	}
	p.Roots, p.Unverified = e.Roots, a.InsecureSkipVerify
	return p, nil
}

func (a *Agent) setTLS(s string) error {
	_, err := nexthop.ParseTLSMode(s)
	a.TLS = s
	return err
}

// parse reads an address of one socket or port.
func parse(s string) (nexthop.Host, error) {
	na, err := caddy.ParseNetworkAddress(s)
	switch {
	case err != nil:
		return nexthop.Host{}, fmt.Errorf("lmtp: address: %w", err)
	case na.Network == "unix":
		path, _, _ := strings.Cut(na.Host, "|") // permissions, as listeners have them
		return nexthop.FixedHost(na.Network, path)
	case na.Network != "tcp" || na.Host == "" || na.StartPort == 0 || na.PortRangeSize() != 1:
		return nexthop.Host{}, fmt.Errorf("lmtp: '%s' is neither unix/ and a path nor a host and a port", s)
	}
	return nexthop.FixedHost("tcp", na.JoinHostPort(0))
}

// Deliver hands the message to the store.
func (a *Agent) Deliver(ctx context.Context, d *queue.Delivery) []queue.Status {
	return a.sender.Send(ctx, d, d.Envelope.Recipients, []nexthop.Host{a.host})
}

// Verify asks the store whether it has a mailbox for an address.
func (a *Agent) Verify(ctx context.Context, to mail.Address) error {
	if a.NoVerify {
		return nil
	}
	if known, err := a.answers.Load(to); known {
		return err
	}
	err := refusal(a.sender.Probe(ctx, to, []nexthop.Host{a.host}))
	a.answers.Store(to, err)
	return err
}

// refusal is what clients are told of the store's answer: not its words, which
// are for operators.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	r := mail.ReplyFor(err)
	switch {
	case r.Permanent() && strings.HasPrefix(r.Enh, "5.2."):
		return mail.Refuse(550, r.Enh, "mailbox takes no mail")
	case r.Permanent() && strings.HasPrefix(r.Enh, "5.1."):
		return mail.Refuse(550, r.Enh, "no such mailbox")
	case r.Permanent():
		return mail.Refuse(550, "5.1.1", "no such mailbox")
	case strings.HasPrefix(r.Enh, "4.4."):
		return mail.Refuse(451, r.Enh, "mailbox cannot be verified now")
	}
	return mail.Refuse(451, "4.4.0", "mailbox cannot be verified now")
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
//	lmtp <address> {
//		tls off|opportunistic|required|implicit
//		insecure_skip_verify
//		hello <name>
//		idle_timeout <duration>
//		verify on|off
//		convert on|off
//	}
func (a *Agent) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&a.Address) {
		return d.ArgErr()
	}
	if _, err := parse(a.Address); err != nil && !strings.Contains(a.Address, "{") {
		return d.WrapErr(err)
	}
	verify, convert := true, true
	err := caddyopt.Block(d, caddyopt.Table{
		"tls":                  caddyopt.One(a.setTLS),
		"insecure_skip_verify": caddyopt.Flag(&a.InsecureSkipVerify),
		"hello":                caddyopt.String(&a.Hello),
		"idle_timeout":         caddyopt.Duration(&a.IdleTimeout),
		"verify":               caddyopt.OnOff(&verify),
		"convert":              caddyopt.OnOff(&convert),
	})
	a.NoVerify, a.NoConvert = !verify, !convert
	return err
}

var (
	_ queue.Agent           = (*Agent)(nil)
	_ queue.Verifier        = (*Agent)(nil)
	_ caddy.Provisioner     = (*Agent)(nil)
	_ caddy.CleanerUpper    = (*Agent)(nil)
	_ caddyfile.Unmarshaler = (*Agent)(nil)
)
