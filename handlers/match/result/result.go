// Package result matches by what a check has found.
package result

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() {
	caddy.RegisterModule(new(Matcher))
	for m := range methods {
		caddy.RegisterModule(&Named{method: m})
	}
}

// methods are those with a matcher of their name: when their result is known,
// and what it can be.
var methods = map[string]struct {
	stage  session.Stage
	values []string
}{
	"iprev": {session.StageMail, []string{"pass", "fail", "temperror", "permerror"}},
	"spf":   {session.StageMail, []string{"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"}},
	"dkim":  {session.StageMessage, []string{"none", "pass", "fail", "policy", "neutral", "temperror", "permerror"}},
	"arc":   {session.StageMessage, []string{"none", "pass", "fail"}},
	"dmarc": {session.StageMessage, []string{"none", "pass", "fail", "temperror", "permerror"}},
}

// Matcher matches if the result of a check is one of some values. If there are
// several results, the last one counts; of the signatures of DKIM, one that
// passes does. A check that was not made has no result, and nothing matches:
// so the check comes before the matcher's handler. It decides at MAIL for iprev
// and spf, at RCPT for auth and dnsbl, and else when the content is there.
type Matcher struct {
	// Method is the name of the check, such as "spf" or "x-something".
	Method string `json:"method,omitempty"`

	// Values are results, any of which matches.
	Values []string `json:"values,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.result", New: func() caddy.Module { return new(Matcher) }}
}

// Provision checks the values.
func (m *Matcher) Provision(caddy.Context) error { return m.valid() }

func (m *Matcher) valid() error {
	if m.Method == "" || len(m.Values) == 0 {
		return fmt.Errorf("result: a method and its values are needed")
	}
	known, ok := methods[m.Method]
	for _, v := range m.Values {
		if ok && !slices.Contains(known.values, v) {
			return fmt.Errorf("'%s' is not a result of %s; there are %s", v, m.Method, strings.Join(known.values, ", "))
		}
	}
	return nil
}

// Stage is when the result is known.
func (m *Matcher) Stage() session.Stage {
	if known, ok := methods[m.Method]; ok {
		return known.stage
	}
	if m.Method == "auth" || m.Method == "dnsbl" {
		return session.StageRcpt
	}
	return session.StageMessage
}

// Match reports whether the result is one of the values.
func (m *Matcher) Match(_ context.Context, at *session.Point) (bool, error) {
	rs := at.Transaction.Find(m.Method)
	if len(rs) == 0 {
		return false, nil
	}
	value := rs[len(rs)-1].Value
	if m.Method == "dkim" && slices.ContainsFunc(rs, func(r session.Result) bool { return r.Value == "pass" }) {
		value = "pass"
	}
	return slices.Contains(m.Values, value), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	result <method> <values...>
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if m.Method != "" || !d.NextArg() {
		return d.ArgErr()
	}
	m.Method = d.Val()
	return m.readValues(d)
}

func (m *Matcher) readValues(d *caddyfile.Dispenser) error {
	m.Values = append(m.Values, d.RemainingArgs()...)
	if err := m.valid(); err != nil {
		return d.WrapErr(err)
	}
	return caddyopt.End(d)
}

// Named matches if the result of the check of its name is one of some values,
// as `result` does.
type Named struct {
	// Values are results, any of which matches: "pass", "fail" …
	Values []string `json:"values,omitempty"`

	method string
}

// CaddyModule returns the Caddy module information.
func (n *Named) CaddyModule() caddy.ModuleInfo {
	method := n.method
	return caddy.ModuleInfo{ID: caddy.ModuleID("smtp.matchers." + method), New: func() caddy.Module { return &Named{method: method} }}
}

func (n *Named) matcher() *Matcher { return &Matcher{n.method, n.Values} }

// Provision checks the values.
func (n *Named) Provision(caddy.Context) error { return n.matcher().valid() }

// Stage is when the result is known.
func (n *Named) Stage() session.Stage { return n.matcher().Stage() }

// Match reports whether the result is one of the values.
func (n *Named) Match(ctx context.Context, at *session.Point) (bool, error) {
	return n.matcher().Match(ctx, at)
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	spf|iprev|dkim|arc|dmarc <results...>
func (n *Named) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		m := n.matcher()
		if err := m.readValues(d); err != nil {
			return err
		}
		n.Values = m.Values
	}
	return nil
}

var (
	_ session.Matcher       = (*Matcher)(nil)
	_ session.Matcher       = (*Named)(nil)
	_ caddy.Provisioner     = (*Matcher)(nil)
	_ caddy.Provisioner     = (*Named)(nil)
	_ caddyfile.Unmarshaler = (*Matcher)(nil)
	_ caddyfile.Unmarshaler = (*Named)(nil)
)
