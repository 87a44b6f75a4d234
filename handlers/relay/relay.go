// Package relay lets those send mail to the world who may.
package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
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

	// AgentByRaw is a table from users to the names of agents that send their
	// mail in the place of Agent. An agent that is not there is an error when the
	// configuration is loaded if the table is part of it; later it refuses the
	// recipient for the time being (451).
	AgentByRaw json.RawMessage `json:"agent_by,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// AgentAttribute is the attribute by which a credential source names the
	// agent of a user whom the table does not have. Default: none.
	AgentAttribute string `json:"agent_attribute,omitempty"`

	// Trust are addresses and networks in CIDR notation whose clients need not
	// log in; "private_ranges" stands for the networks of RFC 1918, unique local
	// addresses and loopback. Whoever can connect from there can send anything
	// to anybody. Default: none.
	Trust []string `json:"trust,omitempty"`

	trusted  pattern.Networks
	declared json.RawMessage
	agentBy  table
	env      *env.Env
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// agents is who knows which agents there are.
type agents interface{ HasAgent(name string) bool }

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.relay", New: func() caddy.Module { return new(Handler) }}
}

// Provision reads the networks, and loads the table.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if h.Agent == "" {
		return errors.New("relay: no agent")
	}
	if h.trusted, err = pattern.ParseNetworks(h.Trust); err != nil {
		return fmt.Errorf("relay: trust: %w", err)
	}
	h.env = env.FromContext(ctx)
	h.agentBy, err = caddyopt.LoadModule[table](ctx, h, "AgentByRaw")
	return err
}

// HandleRcpt claims the recipient if its sender may send to the world.
func (h *Handler) HandleRcpt(ctx context.Context, tx *session.Transaction, r *mail.Recipient) error {
	if r.Claimed() || !r.Expanded && !h.trusts(tx.Session) {
		return nil
	}
	agent, err := h.agentOf(ctx, tx.Session)
	if err != nil {
		return err
	}
	r.Claim(agent)
	return nil
}

// agentOf returns the name of the agent for a client's mail.
func (h *Handler) agentOf(ctx context.Context, s *session.Session) (string, error) {
	name := ""
	if h.agentBy != nil && s.User != "" {
		values, _, err := h.agentBy.Lookup(ctx, s.User)
		if err != nil {
			return "", fmt.Errorf("agent of %s: %w", s.User, err)
		}
		if len(values) > 0 {
			name = values[0]
		}
	}
	if name == "" && h.AgentAttribute != "" && s.Identity != nil {
		name = s.Identity.Attributes[h.AgentAttribute]
	}
	switch {
	case name == "":
		return h.Agent, nil
	case !slices.ContainsFunc(env.All[agents](h.env), func(a agents) bool { return a.HasAgent(name) }):
		return "", fmt.Errorf("agent of %s: there is no agent %s", s.User, name)
	}
	return name, nil
}

func (h *Handler) trusts(s *session.Session) bool {
	return s.User != "" || h.trusted.Contain(s.RemoteIP())
}

// Agents names the agent, and those of users as far as they are known.
func (h *Handler) Agents() []string {
	names := []string{h.Agent}
	if known, ok := h.agentBy.(interface{ All() [][]string }); ok {
		for _, values := range known.All() {
			names = append(names, values[:min(len(values), 1)]...)
		}
	}
	return names
}

// ClaimsAll says that the recipients of strangers are left to later handlers.
func (*Handler) ClaimsAll() bool { return false }

// TrustedNetworks are the networks whose clients are our own users.
func (h *Handler) TrustedNetworks() []netip.Prefix { return h.trusted }
