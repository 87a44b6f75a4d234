package smtpapp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func (a *App) provisionAgents() (err error) {
	a.agents, err = caddyopt.LoadMap[queue.Agent](a.drain, a, "AgentsRaw")
	if err != nil {
		return fmt.Errorf("agents: %w", err)
	}
	if d := a.Queue.DSNAgent; d != "" && a.agents[d] == nil {
		return fmt.Errorf("queue: there is no agent %s for DSNs", d)
	}
	a.env.Offer((*agentNames)(a))
	return nil
}

// agentNames says which agents there are, to handlers that learn of one from a
// table.
type agentNames App

// HasAgent reports whether there is an agent of that name.
func (a *agentNames) HasAgent(name string) bool { return a.agents[name] != nil }

// checkAgents sees to it that handlers claim only for agents that exist.
func (a *App) checkAgents(routes []session.Route) error {
	for _, r := range routes {
		for _, h := range r.Handlers {
			if err := a.checkAgents(h.Routes); err != nil {
				return err
			}
			c, ok := h.Module.(session.Claimer)
			if !ok {
				continue
			}
			for _, name := range c.Agents() {
				if a.agents[name] == nil {
					return fmt.Errorf("%s: %s: there is no agent %s", h.Where, h.Name, name)
				}
			}
		}
	}
	return nil
}

// acceptor is the queue as sessions see it.
type acceptor App

// Accept makes messages durable.
func (a *acceptor) Accept(ctx context.Context, objects []*message.Object) (string, error) {
	return a.queue.Accept(ctx, objects)
}

// Create makes a file for content that is arriving.
func (a *acceptor) Create() (*os.File, error) { return a.queue.Create() }

// verifier asks an agent who exists.
type verifier App

// Verify returns a Reply that refuses, if the agent can tell and says no.
func (a *verifier) Verify(ctx context.Context, agent string, addr mail.Address) error {
	v, ok := a.agents[agent].(queue.Verifier)
	if !ok {
		return nil
	}
	return v.Verify(ctx, addr)
}

// routeDSN finds the way for a DSN about a message: as a stranger's mail would go
// on the server that took the message, and on others, which is to mailboxes here,
// then as that of one of our users, which is out to the world. On other servers that
// would take it for anybody, whoever he is, it goes only if there is no other way:
// they do not know him either.
func (a *App) routeDSN(ctx context.Context, about *mail.Envelope, to mail.Address) []*mail.Recipient {
	if d := a.Queue.DSNAgent; d != "" {
		r := mail.NewRecipient(to)
		r.Claim(d)
		return []*mail.Recipient{r}
	}
	names, anybody := a.serverNames(), map[string]bool{}
	if i := slices.Index(names, about.Server); i > 0 {
		names = append([]string{about.Server}, slices.Delete(names, i, i+1)...)
	}
	var last []*mail.Recipient
	for _, own := range []bool{false, true} {
		for _, name := range names {
			if anybody[name] {
				continue
			}
			rs := a.routeOn(ctx, name, own, to)
			if len(rs) == 0 {
				continue
			}
			if own || name == about.Server || len(a.routeOn(ctx, name, false, nobody)) == 0 {
				return rs
			}
			if anybody[name] = true; last == nil {
				last = rs
			}
		}
	}
	return last
}

// nobody is whom only a server can take mail for that takes it for anybody.
var nobody = mail.Address{Local: "nobody", Domain: "no-such-domain.invalid"}

// routeOn finds it on one server.
func (a *App) routeOn(ctx context.Context, name string, own bool, to mail.Address) []*mail.Recipient {
	rs, err := session.RouteTo(ctx, a.Servers[name].cfg, own, to)
	if err != nil && !errors.As(err, new(*mail.Reply)) {
		a.log.Sugar().Warnw("routing a DSN", "server", name, "error", err)
	}
	return rs
}

// errNoRoute says that no server has a way to a recipient.
var errNoRoute = mail.Refuse(550, "5.7.1", "no route of our own mail leads there")

// submit sends a message of our own by the first server that takes it.
func (a *App) submit(ctx context.Context, from, to mail.Address, m *message.Message) error {
	release, ok := a.lifetime.lease()
	if !ok || a.queue == nil {
		return mail.Refuse(451, "4.3.2", "the configuration is not in force")
	}
	defer release()
	var refused error = errNoRoute
	for _, name := range a.serverNames() {
		cfg := a.Servers[name].cfg
		if cfg.LMTP {
			continue
		}
		err := session.Submit(ctx, cfg, from, to, m.Fork())
		if err == nil {
			return nil
		}
		if r := mail.ReplyFor(err); r.Temporary() {
			refused = r
		}
	}
	return refused
}

// newPolicy is what this configuration says about delivery.
func (a *App) newPolicy(rules []queue.Rule) *queue.Policy {
	return &queue.Policy{
		Agents: a.agents, Hostname: a.Hostname, Postmaster: a.postmaster(), Schedule: a.Queue.schedule(), Rules: rules,
		Lease: a.lifetime.lease, Context: a.lifetime.ctx, Route: a.routeDSN, Sign: a.signOwn, Notices: a.Queue.notices(), Observe: deliveries{a.metrics, a.env}, FreeSpace: a.Queue.FreeSpace,
		Log: plainlog.New(a.ctx.Slogger()),
	}
}
