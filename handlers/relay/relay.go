// Package relay lets those send mail to the world who may.
package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler gives recipients to an agent that sends their mail on, for clients
// that logged in and for networks that it is told to trust. It also sends on
// what this host's own configuration has put in a recipient's place, such as
// the target of an alias. It leaves all other recipients to later handlers;
// those that none takes are refused.
type Handler struct {
	// Agent is the name of the agent, one of apps.smtp.agents.
	Agent string `json:"agent,omitempty"`

	// Trust are addresses and networks in CIDR notation whose clients need not
	// log in; "private_ranges" stands for the networks of RFC 1918, unique local
	// addresses and loopback. Whoever can connect from there can send anything
	// to anybody. Default: none.
	Trust []string `json:"trust,omitempty"`

	trusted  []netip.Prefix
	declared json.RawMessage
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.relay", New: func() caddy.Module { return new(Handler) }}
}

// Provision reads the networks.
func (h *Handler) Provision(caddy.Context) (err error) {
	if h.Agent == "" {
		return errors.New("relay: no agent")
	}
	if h.trusted, err = networks(h.Trust); err != nil {
		return fmt.Errorf("relay: trust: %w", err)
	}
	return nil
}

var privateRanges = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "fd00::/8", "::1/128"}

func networks(words []string) ([]netip.Prefix, error) {
	var nets []netip.Prefix
	for _, w := range words {
		list := []string{w}
		if w == "private_ranges" {
			list = privateRanges
		}
		for _, s := range list {
			p, err := network(s)
			if err != nil {
				return nil, err
			}
			nets = append(nets, p)
		}
	}
	return nets, nil
}

func network(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("'%s' is neither an address nor a network", s)
		}
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return p, fmt.Errorf("'%s' is neither an address nor a network", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("'%s': write networks of IPv4 as such", s)
	}
	return p.Masked(), nil
}

// HandleRcpt claims the recipient if its sender may send to the world.
func (h *Handler) HandleRcpt(_ context.Context, tx *session.Transaction, r *mail.Recipient) error {
	if r.Expanded || h.trusts(tx.Session) {
		r.Claim(h.Agent)
	}
	return nil
}

func (h *Handler) trusts(s *session.Session) bool {
	ip := s.RemoteIP().WithZone("")
	return s.User != "" || slices.ContainsFunc(h.trusted, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// Agents names the agent.
func (h *Handler) Agents() []string { return []string{h.Agent} }

// ClaimsAll says that the recipients of strangers are left to later handlers.
func (*Handler) ClaimsAll() bool { return false }

// TrustedNetworks are the networks whose clients are our own users.
func (h *Handler) TrustedNetworks() []netip.Prefix { return h.trusted }
