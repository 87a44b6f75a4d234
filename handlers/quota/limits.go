package quota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/quota"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// unlimited stands for no limit.
const unlimited = "unlimited"

// kinds are what is limited, in the order of the replies.
var kinds = []quota.What{quota.Messages, quota.Recipients, quota.NewRecipients}

// configured returns the limits of the configuration.
func (h *Handler) configured() ([]quota.Limit, error) {
	var all []quota.Limit
	for i, texts := range [][]string{h.Messages, h.Recipients, h.NewRecipients} {
		limits, err := parseLimits(kinds[i], texts)
		if err != nil {
			return nil, fmt.Errorf("quota: %w", err)
		}
		all = append(all, limits...)
	}
	return all, nil
}

func parseLimits(what quota.What, texts []string) ([]quota.Limit, error) {
	var limits []quota.Limit
	for _, t := range texts {
		l, err := parseLimit(what, t)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(limits, func(o quota.Limit) bool { return o.Per == l.Per }) {
			return nil, fmt.Errorf("%s: two limits of the same time", what)
		}
		limits = append(limits, l)
	}
	return limits, nil
}

// parseLimit parses "200/1h".
func parseLimit(what quota.What, s string) (quota.Limit, error) {
	n, per, err := caddyopt.ParseRate(s)
	if err != nil {
		return quota.Limit{}, fmt.Errorf("%s: %w", what, err)
	}
	return quota.Limit{What: what, Count: n, Per: per}, nil
}

// limitsOf returns the limits of a key.
func (h *Handler) limitsOf(ctx context.Context, s *session.Session, key string) ([]quota.Limit, error) {
	own, ok, err := h.fromTable(ctx, key)
	if err == nil && !ok && s.Identity != nil {
		own, err = fromAttributes(s.Identity.Attributes)
	}
	if err == nil {
		return h.merge(own), nil
	}
	if _, ours := errors.AsType[*lookupError](err); ours {
		return nil, err
	}
	h.log.Warn("no limit", "key", key, "error", err)
	return h.limits, nil
}

// lookupError is a table that cannot be asked.
type lookupError struct{ error }

// own are limits that take the place of those of the configuration, by what
// they limit. None means unlimited.
type own map[quota.What][]quota.Limit

func (h *Handler) fromTable(ctx context.Context, key string) (own, bool, error) {
	if h.table == nil {
		return nil, false, nil
	}
	values, ok, err := h.table.Lookup(ctx, key)
	if err != nil {
		return nil, false, &lookupError{fmt.Errorf("limits of %s: %w", key, err)}
	}
	if !ok {
		return nil, false, nil
	}
	texts := map[quota.What]string{}
	for _, v := range values {
		what, text, given := strings.Cut(v, "=")
		switch {
		case v == unlimited:
			for _, k := range kinds {
				texts[k] = unlimited
			}
		case !given || !slices.Contains(kinds, quota.What(what)):
			return nil, true, fmt.Errorf("'%s' is not such as messages=200/1h", v)
		default:
			texts[quota.What(what)] += " " + text
		}
	}
	o, err := parseOwn(texts)
	return o, true, err
}

func fromAttributes(attrs map[string]string) (own, error) {
	texts := map[quota.What]string{}
	for _, k := range kinds {
		if t := attrs["quota_"+string(k)]; t != "" {
			texts[k] = t
		}
	}
	return parseOwn(texts)
}

func parseOwn(texts map[quota.What]string) (own, error) {
	o := own{}
	for k, t := range texts {
		if strings.TrimSpace(t) == unlimited {
			o[k] = nil
			continue
		}
		limits, err := parseLimits(k, strings.FieldsFunc(t, func(r rune) bool { return r == ' ' || r == ',' }))
		if err != nil {
			return nil, err
		}
		o[k] = limits
	}
	return o, nil
}

// merge returns the limits of the configuration with own ones in their place.
func (h *Handler) merge(o own) []quota.Limit {
	if len(o) == 0 {
		return h.limits
	}
	var all []quota.Limit
	for _, l := range h.limits {
		if _, ok := o[l.What]; !ok {
			all = append(all, l)
		}
	}
	for _, k := range kinds {
		all = append(all, o[k]...)
	}
	return all
}
