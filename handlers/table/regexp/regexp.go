// Package regexp is a table of regular expressions.
package regexp

import (
	"context"
	"fmt"
	"regexp"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func init() { caddy.RegisterModule(new(Table)) }

// Table is a table whose keys are regular expressions (RE2 syntax). The first
// that matches the whole key gives the values.
type Table struct {
	// Entries are tried in order.
	Entries []*Entry `json:"entries,omitempty"`

	// CaseSensitive makes expressions heed case. Default: false.
	CaseSensitive bool `json:"case_sensitive,omitempty"`
}

// Entry is one regular expression and its values.
type Entry struct {
	// Pattern has to match the whole key, not just a part of it.
	Pattern string `json:"pattern,omitempty"`

	// Values may refer to what the pattern's groups matched, as $1 or ${name}.
	// "$$" stands for a dollar sign.
	Values []string `json:"values,omitempty"`

	re *regexp.Regexp
}

// CaddyModule returns the Caddy module information.
func (*Table) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.regexp", New: func() caddy.Module { return new(Table) }}
}

// Provision compiles the expressions.
func (t *Table) Provision(caddy.Context) (err error) {
	flags := "(?i)"
	if t.CaseSensitive {
		flags = ""
	}
	for _, e := range t.Entries {
		if _, err := regexp.Compile(e.Pattern); err != nil { // as it was written
			return err
		}
		if e.re, err = regexp.Compile(flags + `\A(?:` + e.Pattern + `)\z`); err != nil {
			return fmt.Errorf("'%s': %w", e.Pattern, err)
		}
	}
	return nil
}

// Lookup returns the values of the first expression that matches key, or what it
// is with U-labels in its domain.
func (t *Table) Lookup(_ context.Context, key string) ([]string, bool, error) {
	written := mail.UnicodeKey(key)
	for _, e := range t.Entries {
		key := key
		m := e.re.FindStringSubmatchIndex(key)
		if m == nil && written != key {
			key = written
			m = e.re.FindStringSubmatchIndex(key)
		}
		if m == nil {
			continue
		}
		values := make([]string, len(e.Values))
		for i, v := range e.Values {
			values[i] = string(e.re.ExpandString(nil, v, key, m))
		}
		return values, true, nil
	}
	return nil, false, nil
}

// UnmarshalCaddyfile sets up the table from Caddyfile tokens. Patterns that
// hold spaces or braces need quotes. Syntax:
//
//	regexp <pattern> [<value>...]
//	regexp {
//		<pattern> [<value>...]
//		case_sensitive
//	}
func (t *Table) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		t.entry(d)
		return caddyopt.End(d)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() == "case_sensitive" && d.CountRemainingArgs() == 0 {
			t.CaseSensitive = true
			continue
		}
		t.entry(d)
	}
	if len(t.Entries) == 0 {
		return d.ArgErr()
	}
	return nil
}

func (t *Table) entry(d *caddyfile.Dispenser) {
	t.Entries = append(t.Entries, &Entry{Pattern: d.Val(), Values: d.RemainingArgs()})
}

var (
	_ caddy.Provisioner     = (*Table)(nil)
	_ caddyfile.Unmarshaler = (*Table)(nil)
)
