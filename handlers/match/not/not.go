// Package not matches what other matchers do not.
package not

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// Matcher matches if none of its sets of matchers does.
type Matcher struct {
	// SetsRaw are sets of matchers. A set matches if all in it do.
	SetsRaw []caddy.ModuleMap `json:"match,omitempty" caddy:"namespace=smtp.matchers"`

	sets [][]session.Matcher
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.not", New: func() caddy.Module { return new(Matcher) }}
}

// Provision loads the matchers.
func (m *Matcher) Provision(ctx caddy.Context) (err error) {
	for _, set := range m.SetsRaw {
		if len(set) == 0 {
			return errors.New("not: a set of no matchers")
		}
	}
	m.sets, err = caddyopt.LoadSets[session.Matcher](ctx, m, "SetsRaw")
	return err
}

// Stage is the latest of those of its matchers.
func (m *Matcher) Stage() session.Stage {
	st := session.StageConnect
	for _, g := range m.guests() {
		st = max(st, g.Stage())
	}
	return st
}

// PerRecipient says whether one of its matchers decides for each recipient.
func (m *Matcher) PerRecipient() bool {
	for _, g := range m.guests() {
		if r, ok := g.(session.RecipientMatcher); ok && r.PerRecipient() {
			return true
		}
	}
	return false
}

// guests are the matchers: once loaded, themselves; before that, as far as they
// can be read. What cannot fails to load.
func (m *Matcher) guests() []session.Matcher {
	var all []session.Matcher
	for _, set := range m.sets {
		all = append(all, set...)
	}
	for _, set := range m.SetsRaw {
		for name, raw := range set {
			info, err := caddy.GetModule("smtp.matchers." + name)
			if err != nil {
				continue
			}
			g, ok := info.New().(session.Matcher)
			if ok && (len(raw) == 0 || json.Unmarshal(raw, g) == nil) {
				all = append(all, g)
			}
		}
	}
	return all
}

// Match reports whether no set matches.
func (m *Matcher) Match(ctx context.Context, at *session.Point) (bool, error) {
	for _, set := range m.sets {
		if ok, err := matchAll(ctx, set, at); ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func matchAll(ctx context.Context, set []session.Matcher, at *session.Point) (bool, error) {
	for _, g := range set {
		if ok, err := g.Match(ctx, at); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Repeated, it
// excludes each. Syntax:
//
//	not <matcher>
//	not {
//		<matcher...>
//	}
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		set, err := caddyopt.MatcherSet(d, "smtp.matchers")
		if err != nil {
			return err
		}
		if len(set) == 0 {
			return d.ArgErr()
		}
		m.SetsRaw = append(m.SetsRaw, set)
	}
	return nil
}

var (
	_ session.Matcher          = (*Matcher)(nil)
	_ session.RecipientMatcher = (*Matcher)(nil)
	_ caddy.Provisioner        = (*Matcher)(nil)
	_ caddyfile.Unmarshaler    = (*Matcher)(nil)
)
