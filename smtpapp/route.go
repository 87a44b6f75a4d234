package smtpapp

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Subroute)) }

// Route is handlers, and what must match for them to run. Its handlers act at
// several stages of a session; at each one the route is asked for the subject
// in hand: the client, the sender, one recipient, the message.
type Route struct {
	// Group: of the routes of a list that share a group, only the first that
	// matches runs.
	Group string `json:"group,omitempty"`

	// MatchersRaw are sets of matchers. The route matches if all matchers of
	// any set do, or if there is no set.
	MatchersRaw []caddy.ModuleMap `json:"match,omitempty" caddy:"namespace=smtp.matchers"`

	// HandlersRaw are the handlers, in order.
	HandlersRaw []json.RawMessage `json:"handle,omitempty" caddy:"namespace=smtp.handlers inline_key=handler"`

	// Terminal: if the route matches, no later route of the list runs.
	Terminal bool `json:"terminal,omitempty"`
}

// provisionRoutes loads the modules of a list of routes.
func provisionRoutes(ctx caddy.Context, routes []*Route, where string) ([]session.Route, error) {
	out := make([]session.Route, 0, len(routes))
	for i, r := range routes {
		at := fmt.Sprintf("%sroutes[%d]", where, i)
		sr := session.Route{Group: r.Group, Terminal: r.Terminal, Where: at}
		var err error
		if sr.Matchers, err = r.matchers(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		if sr.Handlers, err = r.handlers(ctx, at); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		out = append(out, sr)
	}
	return out, nil
}

// matchers loads the sets. What is known early is asked first, as it is cheap.
func (r *Route) matchers(ctx caddy.Context) ([][]session.Matcher, error) {
	sets, err := caddyopt.LoadSets[session.Matcher](ctx, r, "MatchersRaw")
	for _, set := range sets {
		slices.SortStableFunc(set, func(a, b session.Matcher) int { return int(a.Stage()) - int(b.Stage()) })
	}
	return sets, err
}

func (r *Route) handlers(ctx caddy.Context, where string) ([]session.Handler, error) {
	names := moduleNames(r.HandlersRaw)
	mods, err := caddyopt.LoadModules[caddy.Module](ctx, r, "HandlersRaw")
	if err != nil {
		return nil, err
	}
	var hs []session.Handler
	for i, m := range mods {
		h := session.Handler{Name: names[i], Module: m, Where: fmt.Sprintf("%s.handle[%d]", where, i)}
		if sub, ok := m.(*Subroute); ok {
			h.Module, h.Routes = nil, sub.placed(h.Where+".")
		}
		hs = append(hs, h)
	}
	return hs, nil
}

// moduleNames reads the inline keys before loading drops the raw modules.
func moduleNames(raw []json.RawMessage) []string {
	names := make([]string, len(raw))
	for i, r := range raw {
		var m struct {
			Handler string `json:"handler"`
		}
		_ = json.Unmarshal(r, &m) // what is no object fails when it is loaded
		names[i] = m.Handler
	}
	return names
}

// Subroute is a list of routes in the place of a handler.
type Subroute struct {
	// Routes are the handlers and when they run, in order.
	Routes []*Route `json:"routes,omitempty"`

	routes []session.Route
}

// CaddyModule returns the Caddy module information.
func (*Subroute) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.subroute", New: func() caddy.Module { return new(Subroute) }}
}

// Provision loads the modules of the routes.
func (s *Subroute) Provision(ctx caddy.Context) (err error) {
	s.routes, err = provisionRoutes(ctx, s.Routes, "")
	return err
}

// placed returns the routes with their place in the configuration.
func (s *Subroute) placed(where string) []session.Route {
	return place(s.routes, where)
}

func place(routes []session.Route, where string) []session.Route {
	for i := range routes {
		r := &routes[i]
		r.Where = where + r.Where
		for j := range r.Handlers {
			h := &r.Handlers[j]
			h.Where = where + h.Where
			h.Routes = place(h.Routes, where)
		}
	}
	return routes
}

var _ caddy.Provisioner = (*Subroute)(nil)
