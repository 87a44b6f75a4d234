package session

import (
	"context"
	"slices"
	"strings"
)

// decisions remember by route id what was decided, so that every handler of a
// route sees the same decision even if an earlier one changed what was matched.
type decisions []decision

type decision int8

const (
	undecided decision = iota
	no
	yes
)

func (p *Plan) decisions() decisions { return make(decisions, p.routes) }

// active reports whether rt's handlers run at the point.
func (d decisions) active(ctx context.Context, rt *route, at *Point) (bool, error) {
	if rt == nil || rt.id < 0 {
		return true, nil
	}
	if d[rt.id] == undecided {
		ok, err := d.decide(ctx, rt, at)
		if err != nil {
			return false, err
		}
		d[rt.id] = no
		if ok {
			d[rt.id] = yes
		}
	}
	return d[rt.id] == yes, nil
}

func (d decisions) decide(ctx context.Context, rt *route, at *Point) (bool, error) {
	if ok, err := d.active(ctx, rt.parent, at); !ok {
		return false, err
	}
	for _, e := range rt.excludes {
		if ok, err := d.active(ctx, e, at); ok || err != nil {
			return false, err
		}
	}
	return matchAny(ctx, rt.sets, at, nil)
}

// matchAny reports whether all matchers of any set match. Those that skip
// names are left out.
func matchAny(ctx context.Context, sets [][]Matcher, at *Point, skip func(Matcher) bool) (bool, error) {
	if len(sets) == 0 {
		return true, nil
	}
	for _, set := range sets {
		if ok, err := matchAll(ctx, set, at, skip); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func matchAll(ctx context.Context, set []Matcher, at *Point, skip func(Matcher) bool) (bool, error) {
	for _, m := range set {
		if skip != nil && skip(m) {
			continue
		}
		if ok, err := m.Match(ctx, at); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// merge takes over what o has decided and d has not.
func (d decisions) merge(o decisions) {
	for i, v := range o {
		if d[i] == undecided {
			d[i] = v
		}
	}
}

// fate tells how the message handlers that may refuse can come to differ for
// one recipient from another: recipients with equal fates can share a reply.
func (p *Plan) fate(ctx context.Context, d decisions, at *Point) (string, error) {
	var b strings.Builder
	for _, st := range p.steps[StageMessage] {
		if !st.refuses || !st.route.perRecipient {
			continue
		}
		if st.route.stage <= StageRcpt {
			ok, err := d.active(ctx, st.route, at)
			if err != nil {
				return "", err
			}
			b.WriteByte("ny"[btoi(ok)])
			continue
		}
		if err := partialFate(ctx, &b, st.route, at); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// partialFate writes what can be known at RCPT of a route that waits for the
// content. Where a matcher looks at both, only the recipient itself will do.
func partialFate(ctx context.Context, b *strings.Builder, rt *route, at *Point) error {
	for r := rt; r != nil && r.id >= 0; r = r.parent {
		for _, q := range append([]*route{r}, r.excludes...) {
			for _, set := range q.sets {
				if slices.ContainsFunc(set, func(m Matcher) bool { return m.Stage() > StageRcpt && isPerRecipient(m) }) {
					b.WriteString(at.Recipient.Address.String())
					continue
				}
				ok, err := matchAll(ctx, set, at, func(m Matcher) bool { return m.Stage() > StageRcpt })
				if err != nil {
					return err
				}
				b.WriteByte("ny"[btoi(ok)])
			}
		}
	}
	return nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
