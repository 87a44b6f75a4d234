package expression

import (
	"crypto/tls"
	"net"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"

	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// A variable is what an expression can name, and when that is known.
type variable struct {
	typ          *cel.Type
	stage        session.Stage
	perRecipient bool
	value        func(at *session.Point) any
}

// variables are asked at their stage or later, so that what they look at is
// there.
var variables = map[string]variable{
	"remote_ip": {typ: cel.StringType, stage: session.StageConnect, value: func(at *session.Point) any {
		if ip := at.Session.RemoteIP(); ip.IsValid() {
			return ip.WithZone("").String()
		}
		return ""
	}},
	"local_port": {typ: cel.IntType, stage: session.StageConnect, value: func(at *session.Point) any {
		if a, ok := at.Session.Local.(*net.TCPAddr); ok {
			return int64(a.Port)
		}
		return int64(0)
	}},
	"helo":            {typ: cel.StringType, stage: session.StageHello, value: func(at *session.Point) any { return at.Session.Hello }},
	"esmtp":           {typ: cel.BoolType, stage: session.StageHello, value: func(at *session.Point) any { return at.Session.ESMTP }},
	"tls":             {typ: cel.BoolType, stage: session.StageAuth, value: func(at *session.Point) any { return at.Session.TLS != nil }},
	"tls_version":     {typ: cel.StringType, stage: session.StageAuth, value: ofTLS("", func(st *tls.ConnectionState) any { return tls.VersionName(st.Version) })},
	"tls_server_name": {typ: cel.StringType, stage: session.StageAuth, value: ofTLS("", func(st *tls.ConnectionState) any { return st.ServerName })},
	"tls_client":      {typ: cel.BoolType, stage: session.StageAuth, value: ofTLS(false, func(st *tls.ConnectionState) any { return len(st.VerifiedChains) > 0 })},
	"user":            {typ: cel.StringType, stage: session.StageMail, value: func(at *session.Point) any { return at.Session.User }},

	"mail_from":        {typ: cel.StringType, stage: session.StageMail, value: func(at *session.Point) any { return at.Transaction.Envelope.From.String() }},
	"mail_from_local":  {typ: cel.StringType, stage: session.StageMail, value: func(at *session.Point) any { return at.Transaction.Envelope.From.Local }},
	"mail_from_domain": {typ: cel.StringType, stage: session.StageMail, value: func(at *session.Point) any { return at.Transaction.Envelope.From.Domain }},

	"rcpt":        {typ: cel.StringType, stage: session.StageRcpt, perRecipient: true, value: func(at *session.Point) any { return at.Recipient.Address.String() }},
	"rcpt_local":  {typ: cel.StringType, stage: session.StageRcpt, perRecipient: true, value: func(at *session.Point) any { return at.Recipient.Address.Local }},
	"rcpt_domain": {typ: cel.StringType, stage: session.StageRcpt, perRecipient: true, value: func(at *session.Point) any { return at.Recipient.Address.Domain }},

	"size": {typ: cel.IntType, stage: session.StageMessage, value: func(at *session.Point) any { return at.Message.Size() }},
}

func ofTLS(without any, value func(*tls.ConnectionState) any) func(*session.Point) any {
	return func(at *session.Point) any {
		if at.Session.TLS == nil {
			return without
		}
		return value(at.Session.TLS)
	}
}

// early are the checks that are done with by RCPT, since they are of the client.
var early = map[string]bool{"auth": true, "dnsbl": true, "iprev": true, "spf": true}

// uses are the variables, and functions as such, that an expression names. One
// that cannot be parsed names none; it fails to compile.
func uses(expr string) []variable {
	env, err := environment()
	if err != nil {
		return nil
	}
	parsed, issues := env.Parse(expr)
	if issues.Err() != nil {
		return nil
	}
	var used []variable
	ast.PostOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind:
			if v, ok := variables[e.AsIdent()]; ok {
				used = append(used, v)
			}
		case ast.CallKind:
			if v, ok := usedBy(e.AsCall()); ok {
				used = append(used, v)
			}
		}
	}))
	return used
}

func usedBy(c ast.CallExpr) (variable, bool) {
	switch c.FunctionName() {
	case "header", "headers":
		return variable{stage: session.StageMessage}, true
	case "result":
		args := c.Args()
		if last := args[len(args)-1]; last.Kind() == ast.LiteralKind {
			if m, ok := last.AsLiteral().Value().(string); ok && early[m] {
				return variable{stage: session.StageRcpt}, true
			}
		}
		return variable{stage: session.StageMessage}, true
	}
	return variable{}, false
}
