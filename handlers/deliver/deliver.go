// Package deliver gives mail to a delivery agent.
package deliver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler gives each recipient to a delivery agent: it takes all that its
// matcher lets through, so name your domains there. Recipients that do not
// exist are refused.
type Handler struct {
	// Agent is the name of the agent, one of apps.smtp.agents.
	Agent string `json:"agent,omitempty"`

	// UsersRaw is a table of who exists. Looked up are the address, the address
	// without its tag, its local part, and "@" with its domain, which stands for
	// all that the domain has. Values are of no concern. Others are refused
	// (550 5.1.1). Default: none; the agent is asked, if it can tell.
	UsersRaw json.RawMessage `json:"users,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// Subaddress is what parts a user's name from a tag: with "+", mail for
	// alice+lists@example.org is alice's. Default: none, tags are not known.
	Subaddress string `json:"subaddress,omitempty"`

	users    table
	declared declared
}

// table is how a table is asked.
type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

var errNoUser = mail.Refuse(550, "5.1.1", "no such user")

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.deliver", New: func() caddy.Module { return new(Handler) }}
}

// Provision loads the table.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if h.Agent == "" {
		return errors.New("deliver: no agent")
	}
	if h.users, err = caddyopt.LoadModule[table](ctx, h, "UsersRaw"); err != nil {
		return fmt.Errorf("deliver: users: %w", err)
	}
	return nil
}

// HandleRcpt claims the recipient for the agent, or refuses it.
func (h *Handler) HandleRcpt(ctx context.Context, _ *session.Transaction, r *mail.Recipient) error {
	if r.Claimed() {
		return nil
	}
	to, err := h.user(ctx, r)
	if err != nil {
		return err
	}
	r.Address = to // Given is what DSNs speak of
	r.Claim(h.Agent)
	return nil
}

// user returns the address under which the agent knows the recipient.
func (h *Handler) user(ctx context.Context, r *mail.Recipient) (mail.Address, error) {
	base := r.Address
	var tag string
	base.Local, tag = base.Tag(h.Subaddress)
	if h.users == nil {
		r.Tag = tag
		return base, nil
	}
	for _, k := range []struct {
		key string
		is  mail.Address
	}{
		{r.Address.String(), r.Address}, // a user may have a tag for a name
		{base.String(), base},
		{base.Local, base},
		{"@" + base.Domain, base},
	} {
		_, ok, err := h.users.Lookup(ctx, k.key)
		if err != nil {
			return base, err
		}
		if ok {
			if r.Verified = true; k.is == base {
				r.Tag = tag
			}
			return k.is, nil
		}
	}
	return base, errNoUser
}

// Agents names the agent.
func (h *Handler) Agents() []string { return []string{h.Agent} }

// ClaimsAll says that no recipient is left to later handlers.
func (*Handler) ClaimsAll() bool { return true }

var (
	_ session.RcptHandler    = (*Handler)(nil)
	_ session.Claimer        = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
	_ caddyopt.AgentDeclarer = (*Handler)(nil)
)
