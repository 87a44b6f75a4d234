// Package chain is a table made of others.
package chain

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
)

func init() { caddy.RegisterModule(new(Table)) }

// Table asks several tables in turn: the first that has a key gives its values.
// If one of them fails, so does the lookup; those behind it are not asked.
type Table struct {
	// TablesRaw are the tables, in order.
	TablesRaw []json.RawMessage `json:"tables,omitempty" caddy:"namespace=smtp.tables inline_key=table"`

	tables []lookuper
}

type lookuper interface {
	Lookup(ctx context.Context, key string) (values []string, ok bool, err error)
}

// CaddyModule returns the Caddy module information.
func (*Table) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.chain", New: func() caddy.Module { return new(Table) }}
}

// Provision loads the tables.
func (t *Table) Provision(ctx caddy.Context) (err error) {
	if t.tables, err = caddyopt.LoadModules[lookuper](ctx, t, "TablesRaw"); err == nil && len(t.tables) == 0 {
		err = errors.New("a chain of no tables")
	}
	return err
}

// Lookup returns what the first table says that has the key.
func (t *Table) Lookup(ctx context.Context, key string) ([]string, bool, error) {
	for _, tb := range t.tables {
		if v, ok, err := tb.Lookup(ctx, key); ok || err != nil {
			return v, ok, err
		}
	}
	return nil, false, nil
}

// UnmarshalCaddyfile sets up the table from Caddyfile tokens. Syntax:
//
//	chain {
//		<table...>
//	}
func (t *Table) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	if err := caddyopt.GuestBlock(d, "smtp.tables", "table", &t.TablesRaw); err != nil {
		return err
	}
	if len(t.TablesRaw) == 0 {
		return d.Err("a chain of no tables")
	}
	return nil
}

var (
	_ caddy.Provisioner     = (*Table)(nil)
	_ caddyfile.Unmarshaler = (*Table)(nil)
)
