package caddyfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// A block is a list of handlers and the named matchers that they use. Matchers
// may be defined behind their use, so lines are kept first and read then.
type block struct {
	p        *parser
	server   string
	outer    *block
	lines    []caddyfile.Segment
	matchers map[string]matcher
	routes   []*smtpapp.Route

	// plan is the routes as the session sees them, with the places of their
	// lines, to find out at once what can never work.
	plan []session.Route
}

// A matcher is a named set, as JSON and as what it says of itself.
type matcher struct {
	raw  caddy.ModuleMap
	set  []session.Matcher
	line caddyfile.Segment
	used bool
}

func newBlock(p *parser, server string, outer *block) *block {
	return &block{p: p, server: server, outer: outer, matchers: map[string]matcher{}}
}

// line keeps a line and its block for read.
func (b *block) line(d *caddyfile.Dispenser) error {
	if !strings.HasPrefix(d.Val(), "@") {
		b.lines = append(b.lines, d.NextSegment())
		return nil
	}
	name := d.Val()
	if _, ok := b.matchers[name]; ok {
		return d.Errf("matcher %s is defined twice", name)
	}
	seg := d.NextSegment()
	m, err := readMatcher(seg)
	if err != nil {
		return err
	}
	b.matchers[name] = m
	return nil
}

func readMatcher(seg caddyfile.Segment) (m matcher, err error) {
	d := caddyfile.NewDispenser(seg)
	d.Next()
	if m.raw, err = caddyopt.MatcherSet(d, "smtp.matchers"); err != nil {
		return m, err
	}
	if len(m.raw) == 0 {
		return m, d.Errf("matcher %s has no matcher", seg[0].Text)
	}
	for name, raw := range m.raw {
		info, err := caddy.GetModule("smtp.matchers." + name)
		if err != nil {
			return m, d.WrapErr(err)
		}
		mod := info.New()
		if err := json.Unmarshal(raw, mod); err != nil {
			return m, d.WrapErr(err)
		}
		sm, ok := mod.(session.Matcher)
		if !ok {
			return m, d.Errf("%s is not a matcher of sessions", name)
		}
		m.set = append(m.set, sm)
	}
	m.line = seg
	return m, nil
}

// find looks a matcher up here and further out.
func (b *block) find(name string) (matcher, bool) {
	for o := b; o != nil; o = o.outer {
		if m, ok := o.matchers[name]; ok {
			m.used = true
			o.matchers[name] = m
			return m, true
		}
	}
	return matcher{}, false
}

// read reads the lines that were kept.
func (b *block) read() error {
	for _, seg := range b.lines {
		if err := b.handler(seg); err != nil {
			return err
		}
	}
	for name, m := range b.matchers {
		if !m.used {
			d := caddyfile.NewDispenser(m.line)
			d.Next()
			return d.Errf("matcher %s is never used", name)
		}
	}
	return nil
}

// handler reads one line: the handler's name, its matcher, its arguments.
func (b *block) handler(seg caddyfile.Segment) error {
	d := caddyfile.NewDispenser(seg)
	d.Next()
	name := d.Val()
	r := &smtpapp.Route{}
	sr := session.Route{Where: place(seg[0])}
	if token, ok := caddyopt.MatcherToken(d); ok {
		seg = append(append(caddyfile.Segment{}, seg[0]), seg[2:]...)
		if token != "*" {
			m, ok := b.find(token)
			if !ok {
				return d.Errf("matcher %s is not defined", token)
			}
			r.MatchersRaw = []caddy.ModuleMap{m.raw}
			sr.Matchers = [][]session.Matcher{m.set}
		}
	}
	d = caddyfile.NewDispenser(seg)
	d.Next()
	var h session.Handler
	var raw json.RawMessage
	var err error
	switch name {
	case "handle", "route":
		h, raw, err = b.nested(d)
	default:
		h, raw, err = b.module(d)
	}
	if err != nil {
		return err
	}
	if name == "handle" {
		r.Group, sr.Group = "handle", "handle"
	}
	r.HandlersRaw, sr.Handlers = []json.RawMessage{raw}, []session.Handler{h}
	b.add(r, sr)
	return nil
}

// add appends a route. Handlers without a matcher share one with those before.
func (b *block) add(r *smtpapp.Route, sr session.Route) {
	plain := func(r *smtpapp.Route) bool { return r.Group == "" && len(r.MatchersRaw) == 0 }
	if n := len(b.routes); n > 0 && plain(r) && plain(b.routes[n-1]) {
		b.routes[n-1].HandlersRaw = append(b.routes[n-1].HandlersRaw, r.HandlersRaw...)
		b.plan[n-1].Handlers = append(b.plan[n-1].Handlers, sr.Handlers...)
		return
	}
	b.routes, b.plan = append(b.routes, r), append(b.plan, sr)
}

// nested reads a block of handlers in the place of one.
func (b *block) nested(d *caddyfile.Dispenser) (session.Handler, json.RawMessage, error) {
	h := session.Handler{Name: d.Val(), Where: place(d.Token())}
	if d.NextArg() {
		return h, nil, d.ArgErr()
	}
	in := newBlock(b.p, b.server, b)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := in.line(d); err != nil {
			return h, nil, err
		}
	}
	if len(in.lines) == 0 {
		return h, nil, d.Errf("%s without a handler", h.Name)
	}
	if err := in.read(); err != nil {
		return h, nil, err
	}
	h.Routes = in.plan
	return h, caddyconfig.JSONModuleObject(&smtpapp.Subroute{Routes: in.routes}, "handler", "subroute", nil), nil
}

// module reads a handler module.
func (b *block) module(d *caddyfile.Dispenser) (session.Handler, json.RawMessage, error) {
	name := d.Val()
	h := session.Handler{Name: name, Where: place(d.Token())}
	if _, err := caddy.GetModule("smtp.handlers." + name); err != nil {
		return h, nil, d.Errf("unrecognized option or handler '%s'", name)
	}
	mod, err := caddyfile.UnmarshalModule(d, "smtp.handlers."+name)
	if err != nil {
		return h, nil, err
	}
	if decl, ok := mod.(caddyopt.AgentDeclarer); ok {
		if err := b.p.inline(d, b.server, decl); err != nil {
			return h, nil, err
		}
	}
	raw, err := caddyopt.Object(mod, "handler", name)
	if err != nil {
		return h, nil, d.WrapErr(err)
	}
	h.Module = mod
	return h, raw, nil
}

// check compiles the plan of a server only for its errors, which here can
// name file and line.
func (b *block) check() error {
	_, err := session.Compile(b.plan)
	if err == nil {
		return nil
	}
	var texts []string
	for _, e := range unjoin(err) {
		if ce, ok := errors.AsType[*session.ConfigError](e); ok {
			texts = append(texts, fmt.Sprintf("%s, at %s", ce.Text, ce.Where))
			continue
		}
		texts = append(texts, e.Error())
	}
	return errors.New(strings.Join(texts, "; "))
}

func unjoin(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return j.Unwrap()
	}
	return []error{err}
}

func place(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", t.File, t.Line) }
