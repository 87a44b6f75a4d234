// Package header matches fields of a message's header.
package header

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches fields of the header. Of conditions on the same field one has
// to hold; those on different fields have to hold all. Its JSON is a list of
// conditions.
type Matcher []*Condition

// Condition is something that a field may fulfil.
type Condition struct {
	// Name is the name of the field, in any case.
	Name string `json:"name,omitempty"`

	// Value is a pattern that its whole value, unfolded, has to fit without
	// regard to case; "*" stands for any run of characters. Default: the field
	// has to be there.
	Value string `json:"value,omitempty"`

	// Regexp is a regular expression (RE2 syntax) that has to match somewhere
	// in the value. It takes the place of Value.
	Regexp string `json:"regexp,omitempty"`

	re *regexp.Regexp
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.header", New: func() caddy.Module { return new(Matcher) }}
}

// Provision compiles regular expressions.
func (m *Matcher) Provision(caddy.Context) (err error) {
	for _, c := range *m {
		switch {
		case c.Name == "":
			return errors.New("header: a condition without the name of a field")
		case c.Regexp != "" && c.Value != "":
			return errors.New("header: value and regexp exclude each other")
		case c.Regexp != "":
			if c.re, err = regexp.Compile(c.Regexp); err != nil {
				return err
			}
		}
	}
	return nil
}

// Stage is when the content is complete.
func (*Matcher) Stage() session.Stage { return session.StageMessage }

// Match reports whether every field that is named fulfils one of its conditions.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	held := map[string]bool{}
	for _, c := range *m {
		name := strings.ToLower(c.Name)
		held[name] = held[name] || c.holds(at.Message.Header.Values(name))
	}
	for _, ok := range held {
		if !ok {
			return false, nil
		}
	}
	return len(held) > 0, nil
}

func (c *Condition) holds(values []string) bool {
	for _, v := range values {
		switch {
		case c.re != nil && c.re.MatchString(v), c.re == nil && c.Value == "",
			c.re == nil && pattern.Glob(c.Value, strings.TrimSpace(v)):
			return true
		}
	}
	return false
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	header <field> [<pattern>]
//	header <field> regexp <expression>
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		args := d.RemainingArgs()
		c := new(Condition)
		switch {
		case len(args) == 3 && args[1] == "regexp":
			c.Name, c.Regexp = args[0], args[2]
		case len(args) == 2:
			c.Name, c.Value = args[0], args[1]
		case len(args) == 1:
			c.Name = args[0]
		default:
			return d.ArgErr()
		}
		if d.NextBlock(0) {
			return d.ArgErr()
		}
		*m = append(*m, c)
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ caddy.Provisioner     = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
)
