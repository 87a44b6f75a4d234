package caddyopt

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// AgentDeclarer is a handler that may declare a delivery agent inline. Whoever
// adapts the Caddyfile takes the declaration out of it, puts it among the app's
// agents, and tells the handler the name that it got.
type AgentDeclarer interface {
	// DeclaredAgent returns the module name (in smtp.agents) and the
	// configuration of the agent; "" if none is declared.
	DeclaredAgent() (module string, raw json.RawMessage)
	NameAgent(name string)
}

// MatcherToken reads the matcher of a handler's line, if the next argument is
// one: "@name", or "*" for none.
func MatcherToken(d *caddyfile.Dispenser) (name string, ok bool) {
	if !d.NextArg() {
		return "", false
	}
	if v := d.Val(); v == "*" || len(v) > 1 && v[0] == '@' {
		return v, true
	}
	d.Prev()
	return "", false
}

// Module reads a guest: its module's name in the namespace, then whatever the
// guest takes. The name is written into the JSON under key.
func Module(namespace, key string, p *json.RawMessage) Option {
	return Once(func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return d.ArgErr()
		}
		raw, err := Guest(d, namespace, key)
		*p = raw
		return err
	})
}

// Modules reads a guest as Module does, and adds it to those before it.
func Modules(namespace, key string, p *[]json.RawMessage) Option {
	return func(d *caddyfile.Dispenser) error {
		if !d.NextArg() {
			return d.ArgErr()
		}
		raw, err := Guest(d, namespace, key)
		if err != nil {
			return err
		}
		*p = append(*p, raw)
		return nil
	}
}

// GuestBlock reads a block of guests, a line or block each.
func GuestBlock(d *caddyfile.Dispenser, namespace, key string, p *[]json.RawMessage) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		raw, err := Guest(d, namespace, key)
		if err != nil {
			return err
		}
		*p = append(*p, raw)
	}
	return nil
}

// Guest reads the module whose name d stands on, to the end of its line or
// block.
func Guest(d *caddyfile.Dispenser, namespace, key string) (json.RawMessage, error) {
	name := d.Val()
	m, err := unmarshal(d, namespace, name)
	if err != nil {
		return nil, err
	}
	raw, err := Object(m, key, name)
	if err != nil {
		return nil, d.WrapErr(err)
	}
	return raw, nil
}

func unmarshal(d *caddyfile.Dispenser, namespace, name string) (caddyfile.Unmarshaler, error) {
	if _, err := caddy.GetModule(namespace + "." + name); err != nil {
		return nil, d.Errf("no module '%s' in %s%s", name, namespace, suggest(namespace))
	}
	return caddyfile.UnmarshalModule(d, namespace+"."+name)
}

// suggest lists the modules of a namespace.
func suggest(namespace string) string {
	var names []string
	for _, m := range caddy.GetModules(namespace) {
		names = append(names, m.ID.Name())
	}
	if len(names) == 0 {
		return ""
	}
	return "; there are " + strings.Join(names, ", ")
}

// Object returns the JSON of a module with its name under key.
func Object(m any, key, name string) (json.RawMessage, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, fmt.Errorf("%T is not a JSON object: %w", m, err)
	}
	if fields[key], err = json.Marshal(name); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// MatcherSet reads matchers: one on the rest of the line, or a block of them. A
// quoted argument is an expression. Matchers that are repeated get all their
// lines in one dispenser.
func MatcherSet(d *caddyfile.Dispenser, namespace string) (caddy.ModuleMap, error) {
	lines := map[string][]caddyfile.Token{}
	for nesting := d.Nesting(); d.NextArg() || d.NextBlock(nesting); {
		name, tokens := d.Val(), []caddyfile.Token(nil)
		if d.Token().Quoted() {
			t := d.Token().Clone()
			name, t.Text = "expression", "expression"
			tokens = []caddyfile.Token{t}
		}
		lines[name] = append(append(lines[name], tokens...), d.NextSegment()...)
	}
	set := caddy.ModuleMap{}
	for name, tokens := range lines {
		seg := caddyfile.NewDispenser(tokens)
		seg.Next()
		if _, err := caddy.GetModule(namespace + "." + name); err != nil {
			return nil, seg.Errf("no module '%s' in %s%s", name, namespace, suggest(namespace))
		}
		raw, err := readMatcher(tokens, namespace+"."+name)
		if err != nil {
			return nil, err
		}
		set[name] = raw
	}
	return set, nil
}

func readMatcher(tokens []caddyfile.Token, id string) (json.RawMessage, error) {
	info, err := caddy.GetModule(id)
	if err != nil {
		return nil, err
	}
	m, ok := info.New().(caddyfile.Unmarshaler)
	if !ok {
		return nil, fmt.Errorf("module %s cannot be used in a Caddyfile", id)
	}
	if err := m.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}
