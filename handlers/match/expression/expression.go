// Package expression matches by an expression in CEL.
package expression

import (
	"context"
	"errors"
	"fmt"

	"cel.dev/cel-go/cel"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Matcher)) }

// costLimit bounds one evaluation, in CEL's units: about a comparison each.
const costLimit = 1_000_000

// Matcher matches if an expression in the Common Expression Language
// (https://cel.dev) is true. It knows these variables:
//
//	remote_ip         string  the client's address, "" on a unix socket
//	local_port        int     the port that it connected to
//	helo              string  its name in EHLO or HELO
//	esmtp             bool    it said EHLO
//	tls               bool    the connection has TLS
//	tls_version       string  "TLS 1.2", "TLS 1.3" or ""
//	tls_server_name   string  the name that the client asked for (SNI)
//	tls_client        bool    the client has a verified certificate
//	user              string  who has logged in, or ""
//	mail_from         string  the reverse-path, "" for the null one
//	mail_from_local   string  its local part
//	mail_from_domain  string  its domain
//	rcpt              string  the recipient
//	rcpt_local        string  its local part
//	rcpt_domain       string  its domain
//	size              int     octets of the message as received
//
// and these functions, beside CEL's own and those of its strings and network
// extensions, such as cidr("10.0.0.0/8").containsIP(remote_ip):
//
//	header(name)   string  the topmost field of that name, unfolded, or ""
//	headers(name)  list    all of them
//	idn(domain)    string  a domain or an address as the variables have it, which is
//	                       with A-labels: rcpt_domain == idn("bücher.example")
//	result(method) string  the last result of a check such as "spf", or ""
//
// Results are known when the content is, those of "auth", "dnsbl", "iprev" and "spf"
// at RCPT. The matcher decides at the first stage that knows all it names.
type Matcher struct {
	// Expr is the expression. Its type has to be bool.
	Expr string `json:"expr,omitempty"`

	program cel.Program
}

// CaddyModule returns the Caddy module information.
func (*Matcher) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.matchers.expression", New: func() caddy.Module { return new(Matcher) }}
}

// Provision compiles the expression.
func (m *Matcher) Provision(caddy.Context) error {
	env, err := environment()
	if err != nil {
		return err
	}
	ast, issues := env.Compile(m.Expr)
	if err := issues.Err(); err != nil {
		return fmt.Errorf("expression: %w", err)
	}
	if ast.OutputType() != cel.BoolType {
		return fmt.Errorf("expression: its type is %s, not bool", ast.OutputType())
	}
	m.program, err = env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(costLimit), cel.InterruptCheckFrequency(100))
	return err
}

// Stage is the first that knows all that the expression names.
func (m *Matcher) Stage() session.Stage {
	st := session.StageConnect
	for _, u := range uses(m.Expr) {
		st = max(st, u.stage)
	}
	return st
}

// PerRecipient says whether the expression names the recipient.
func (m *Matcher) PerRecipient() bool {
	for _, u := range uses(m.Expr) {
		if u.perRecipient {
			return true
		}
	}
	return false
}

// Match evaluates the expression.
func (m *Matcher) Match(ctx context.Context, at *session.Point) (bool, error) {
	out, _, err := m.program.ContextEval(ctx, activation{at})
	if err != nil {
		return false, fmt.Errorf("expression: %w", err)
	}
	ok, isBool := out.Value().(bool)
	if !isBool {
		return false, errors.New("expression: not a bool")
	}
	return ok, nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. An expression in
// backticks needs no name. Syntax:
//
//	expression <expression>
func (m *Matcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if m.Expr != "" {
			return d.Err("expression is given twice; join them by && or ||")
		}
		if !d.AllArgs(&m.Expr) {
			return d.Errf("expression wants one argument; put it in backticks")
		}
		if d.NextBlock(0) {
			return d.ArgErr()
		}
	}
	return nil
}

var (
	_ session.Matcher          = (*Matcher)(nil)
	_ session.RecipientMatcher = (*Matcher)(nil)
	_ caddy.Provisioner        = (*Matcher)(nil)
	_ caddyfile.Unmarshaler    = (*Matcher)(nil)
)
