package session

import (
	"errors"
	"fmt"
	"slices"
)

// A Route is one entry of a list of routes: if it matches, its handlers run.
type Route struct {
	// Matchers are sets: the route matches if all of any set do. No set
	// matches everything.
	Matchers [][]Matcher
	Handlers []Handler
	// Group, if not "": of the routes of a list with the same group only the
	// first that matches runs.
	Group string
	// Terminal: if it matches, no later route of the list runs.
	Terminal bool
	// Where is the route's place in the configuration, for errors.
	Where string
}

// A Handler is a handler module, or a list of routes in its place.
type Handler struct {
	Name   string // as the configuration calls it
	Module any    // implements stage interfaces; nil if Routes is set
	Routes []Route
	Where  string
}

// A Plan says for each stage which handlers take part, in the order of the
// configuration but for those that seal the content, and on which routes that
// depends.
type Plan struct {
	steps  [stages][]step
	routes int // ids given out
}

// A step is one handler at one stage.
type step struct {
	name    string
	handler any
	route   *route
	refuses bool // a message handler that may refuse
}

// A route is a Route in its place: it is active if its parent is, none of the
// routes that exclude it is, and its matchers match.
type route struct {
	id       int
	parent   *route // nil for a route of the server's own list
	excludes []*route
	sets     [][]Matcher
	where    string

	stage        Stage // from which on all of this can be decided
	conditional  bool
	perRecipient bool
}

// A ConfigError is a fault of the configuration at a place of it. A Warning is
// something that works, if hardly as meant.
type ConfigError struct {
	Where string
	Text  string
}

// Error names the place, if there is one.
func (e *ConfigError) Error() string {
	if e.Where == "" {
		return e.Text
	}
	return e.Where + ": " + e.Text
}

// Compile makes the plan of a server's routes. Its errors are ConfigErrors,
// joined: a handler without a stage, a handler that acts only before its
// route's matchers can decide, and a route or handler that is never reached.
func Compile(routes []Route) (*Plan, error) {
	c := &compiler{plan: new(Plan)}
	root := &route{id: -1}
	c.list(routes, root)
	slices.SortStableFunc(c.plan.steps[StageMessage], func(a, b step) int { return int(sealOf(a.handler)) - int(sealOf(b.handler)) })
	return c.plan, errors.Join(c.errs...)
}

type compiler struct {
	plan *Plan
	errs []error
	// claimed is the handler that claims every recipient that is left.
	claimed string
}

func (c *compiler) errorf(where, format string, args ...any) {
	c.errs = append(c.errs, &ConfigError{where, fmt.Sprintf(format, args...)})
}

// list compiles a list of routes.
func (c *compiler) list(routes []Route, parent *route) {
	groups := map[string][]*route{}
	closed := map[string]string{} // group -> where its catch-all stands
	var terminal []*route
	for _, r := range routes {
		rt := c.route(r, parent, slices.Concat(terminal, groups[r.Group]))
		for _, g := range []string{"", r.Group} { // "" is closed by a terminal catch-all
			if where, ok := closed[g]; ok {
				c.errorf(r.Where, "unreachable: the route at %s matches everything", where)
				break
			}
		}
		if r.Group != "" {
			groups[r.Group] = append(groups[r.Group], rt)
		}
		if r.Terminal {
			terminal = append(terminal, rt)
		}
		if catchAll := len(r.Matchers) == 0; catchAll && r.Terminal {
			closed[""] = r.Where
		} else if catchAll && r.Group != "" {
			closed[r.Group] = r.Where
		}
		for _, h := range r.Handlers {
			c.handler(h, rt)
		}
	}
}

func (c *compiler) route(r Route, parent *route, excludes []*route) *route {
	rt := &route{
		id: c.plan.routes, parent: parent, excludes: excludes, sets: r.Matchers, where: r.Where,
		stage: parent.stage, conditional: parent.conditional || len(r.Matchers) > 0, perRecipient: parent.perRecipient,
	}
	c.plan.routes++
	for _, set := range r.Matchers {
		for _, m := range set {
			rt.stage = max(rt.stage, m.Stage())
			rt.perRecipient = rt.perRecipient || isPerRecipient(m)
		}
	}
	for _, e := range excludes {
		rt.stage = max(rt.stage, e.stage)
		rt.conditional = true
		rt.perRecipient = rt.perRecipient || e.perRecipient
	}
	return rt
}

func isPerRecipient(m Matcher) bool {
	p, ok := m.(RecipientMatcher)
	return ok && p.PerRecipient()
}

// handler files h under the stages it takes part in.
func (c *compiler) handler(h Handler, rt *route) {
	if h.Module == nil {
		c.list(h.Routes, rt)
		return
	}
	c.claims(h, rt)
	has := implemented(h.Module)
	first, last := slices.Index(has[:], true), lastTrue(has)
	if first < 0 {
		c.errorf(h.Where, "%s handles no stage of a session", h.Name)
		return
	}
	if Stage(last) < rt.stage {
		c.errorf(h.Where, "%s acts at %s, before its matcher can decide at %s", h.Name, Stage(last), rt.stage)
		return
	}
	if has[StageAuth] && rt.stage > StageAuth {
		c.errorf(h.Where, "%s offers logins at %s, before its matcher can decide at %s", h.Name, StageAuth, rt.stage)
		return
	}
	only := stages
	if s, ok := h.Module.(Starter); ok {
		if only = s.StartsAt(rt.stage, rt.conditional); only < rt.stage || !has[only] {
			c.errorf(h.Where, "%s acts at %s, before its matcher can decide at %s", h.Name, only, rt.stage)
			return
		}
	}
	for st := rt.stage; st < stages; st++ {
		if has[st] && (only == stages || st == only) {
			c.plan.steps[st] = append(c.plan.steps[st], step{h.Name, h.Module, rt, st == StageMessage && !onlyAnnotates(h.Module)})
		}
	}
}

// claims reports a handler that claims recipients when none is left.
func (c *compiler) claims(h Handler, rt *route) {
	cl, ok := h.Module.(Claimer)
	if !ok {
		return
	}
	if c.claimed != "" {
		c.errorf(h.Where, "unreachable: %s before it takes every recipient", c.claimed)
		return
	}
	if cl.ClaimsAll() && !rt.conditional {
		c.claimed = h.Name
	}
}

func onlyAnnotates(h any) bool {
	a, ok := h.(Annotator)
	return ok && a.OnlyAnnotates()
}

func sealOf(h any) Seal {
	if s, ok := h.(Sealer); ok {
		return s.Seals()
	}
	return Unsealed
}

// implemented tells which stage interfaces h has.
func implemented(h any) (has [stages]bool) {
	_, has[StageConnect] = h.(ConnectHandler)
	_, has[StageHello] = h.(HelloHandler)
	_, has[StageAuth] = h.(AuthHandler)
	_, has[StageMail] = h.(MailHandler)
	_, has[StageRcpt] = h.(RcptHandler)
	_, has[StageMessage] = h.(MessageHandler)
	return has
}

func lastTrue(b [stages]bool) int {
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] {
			return i
		}
	}
	return -1
}
