// Package inline is a table within the configuration.
package inline

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func init() { caddy.RegisterModule(new(Table)) }

// Table is a table of entries that are written in the configuration.
type Table struct {
	// Entries are the values of each key. A key may have none.
	Entries map[string][]string `json:"entries,omitempty"`

	// CaseSensitive tells keys apart that differ in case only. Default: false.
	CaseSensitive bool `json:"case_sensitive,omitempty"`

	entries map[string][]string
}

// CaddyModule returns the Caddy module information.
func (*Table) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.inline", New: func() caddy.Module { return new(Table) }}
}

// Provision puts the keys into the form in which they are compared.
func (t *Table) Provision(caddy.Context) error {
	t.entries = make(map[string][]string, len(t.Entries))
	for k, v := range t.Entries {
		k = t.key(k)
		if _, ok := t.entries[k]; ok {
			return fmt.Errorf("key '%s' is there twice", k)
		}
		t.entries[k] = v
	}
	return nil
}

func (t *Table) key(k string) string {
	k = mail.Key(k)
	if t.CaseSensitive {
		return k
	}
	return strings.ToLower(k)
}

// Lookup returns the values of a key.
func (t *Table) Lookup(_ context.Context, key string) ([]string, bool, error) {
	v, ok := t.entries[t.key(key)]
	return v, ok, nil
}

// All returns the values of all keys, for those who check them beforehand.
func (t *Table) All() [][]string { return slices.Collect(maps.Values(t.entries)) }

// UnmarshalCaddyfile sets up the table from Caddyfile tokens. Syntax:
//
//	inline [case_sensitive] {
//		<key> [<value>...]
//	}
func (t *Table) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for d.NextArg() {
		if d.Val() != "case_sensitive" {
			return d.ArgErr()
		}
		t.CaseSensitive = true
	}
	t.Entries = map[string][]string{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		key := d.Val()
		if _, ok := t.Entries[key]; ok {
			return d.Errf("key '%s' is given twice", key)
		}
		t.Entries[key] = append([]string{}, d.RemainingArgs()...) // never null
	}
	if len(t.Entries) == 0 {
		return d.Err("the table has no entries")
	}
	return nil
}

var (
	_ caddy.Provisioner     = (*Table)(nil)
	_ caddyfile.Unmarshaler = (*Table)(nil)
)
