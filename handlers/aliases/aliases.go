// Package aliases puts other addresses in the place of a recipient.
package aliases

import (
	"cmp"
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

// Handler looks up recipients in a table and goes on with the addresses that it
// finds there. Of these keys the first that the table has counts:
//
//	bob+tag@example.org
//	bob@example.org
//	bob+tag
//	bob
//	@example.org, *@example.org
//
// The values are looked up in turn, as often as Depth says. One without a domain is in
// the recipient's own. One that is the recipient's address keeps it, and so does
// a key without values. Aliases that lead back to themselves, deeper, or to more
// addresses than they may, refuse the recipient with 550 5.4.6.
//
// A local part alone is a key at every domain: put a matcher on the handler
// where it must not be for all of them.
type Handler struct {
	// TableRaw is the table. Its values are addresses or local parts.
	TableRaw json.RawMessage `json:"table,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	// TagSeparator is what parts the tag from the local part. Default: "+".
	TagSeparator string `json:"tag_separator,omitempty"`

	// Depth is how many aliases may lead to one another. Default: 20; at most
	// 100.
	Depth int `json:"depth,omitempty"`

	// Addresses are how many a recipient may lead to, aliases on the way
	// counted. Default: 1000, which is also the most.
	Addresses int `json:"addresses,omitempty"`

	table table
}

type table interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.aliases", New: func() caddy.Module { return new(Handler) }}
}

// Provision loads the table.
func (h *Handler) Provision(ctx caddy.Context) (err error) {
	if h.TagSeparator == "" {
		h.TagSeparator = "+"
	}
	if h.Depth, h.Addresses = cmp.Or(h.Depth, maxDepth), cmp.Or(h.Addresses, maxExpansions); h.Depth < 1 || h.Depth > 100 {
		return fmt.Errorf("aliases: depth: %d is not 1 to 100", h.Depth)
	}
	if h.Addresses < 1 || h.Addresses > maxExpansions {
		return fmt.Errorf("aliases: addresses: %d is not 1 to %d, which is what a recipient may become", h.Addresses, maxExpansions)
	}
	if h.table, err = caddyopt.LoadModule[table](ctx, h, "TableRaw"); err == nil && h.table == nil {
		err = errors.New("aliases: no table")
	}
	return err
}

// HandleRcpt expands the recipient if it is an alias.
func (h *Handler) HandleRcpt(ctx context.Context, tx *session.Transaction, r *mail.Recipient) error {
	x := &expansion{h: h, ctx: ctx}
	if err := x.expand(r.Address, nil); err != nil {
		return err
	}
	if len(x.out) != 1 || x.out[0] != r.Address {
		tx.Expand(r, x.out...)
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	aliases <table...>
//	aliases {
//		table         <table...>
//		tag_separator <string>
//		depth         <number>
//		addresses     <number>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	d.Next()
	if d.NextArg() {
		h.TableRaw, err = caddyopt.Guest(d, "smtp.tables", "table")
		return err
	}
	err = caddyopt.Block(d, caddyopt.Table{
		"table":         caddyopt.Module("smtp.tables", "table", &h.TableRaw),
		"tag_separator": caddyopt.String(&h.TagSeparator),
		"depth":         caddyopt.Int(&h.Depth, 1),
		"addresses":     caddyopt.Int(&h.Addresses, 1),
	})
	if err == nil && h.TableRaw == nil {
		err = d.Err("aliases needs a table")
	}
	return err
}

var (
	_ session.RcptHandler   = (*Handler)(nil)
	_ caddy.Provisioner     = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
