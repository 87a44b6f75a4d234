package expression

import (
	"fmt"
	"reflect"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// pointVar is the variable that functions are given unseen: header("X") is
// parsed as header(@point, "X").
const pointVar = "@point"

var pointType = cel.OpaqueType("smtp.point")

// environment is what expressions are compiled in.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{ext.Strings(), ext.Network(), cel.Variable(pointVar, pointType)}
	for name, v := range variables {
		opts = append(opts, cel.Variable(name, v.typ))
	}
	opts = append(opts, function("header", cel.StringType, func(p *session.Point, name string) ref.Val {
		return types.String(p.Message.Header.Get(name))
	})...)
	opts = append(opts, function("headers", cel.ListType(cel.StringType), func(p *session.Point, name string) ref.Val {
		return types.NewStringList(types.DefaultTypeAdapter, p.Message.Header.Values(name))
	})...)
	opts = append(opts, function("result", cel.StringType, func(p *session.Point, method string) ref.Val {
		if found := p.Transaction.Find(method); len(found) > 0 {
			return types.String(found[len(found)-1].Value)
		}
		return types.String("")
	})...)
	opts = append(opts, cel.Function("idn", cel.Overload("idn_string", []*cel.Type{cel.StringType}, cel.StringType,
		cel.UnaryBinding(func(arg ref.Val) ref.Val {
			s, ok := arg.(types.String)
			if !ok {
				return types.NewErr("idn wants a string")
			}
			return types.String(mail.Key(string(s)))
		}))))
	return cel.NewEnv(opts...)
})

// function declares a function of one string that looks at the point.
func function(name string, returns *cel.Type, f func(p *session.Point, arg string) ref.Val) []cel.EnvOption {
	return []cel.EnvOption{
		cel.Macros(cel.GlobalMacro(name, 1, func(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
			return eh.NewCall(name, eh.NewIdent(pointVar), args[0]), nil
		})),
		cel.Function(name, cel.Overload(name+"_point_string", []*cel.Type{pointType, cel.StringType}, returns,
			cel.BinaryBinding(func(p, arg ref.Val) ref.Val {
				at, ok := p.(point)
				s, isString := arg.(types.String)
				if !ok || !isString {
					return types.NewErr("%s wants a string", name)
				}
				return f(at.Point, string(s))
			}))),
	}
}

// activation gives an evaluation its variables.
type activation struct{ at *session.Point }

// ResolveName returns the value of a variable.
func (a activation) ResolveName(name string) (any, bool) {
	if name == pointVar {
		return point{a.at}, true
	}
	v, ok := variables[name]
	if !ok {
		return nil, false
	}
	return v.value(a.at), true
}

// Parent is none.
func (activation) Parent() interpreter.Activation { return nil }

// point is a session.Point as a value of CEL, which can do nothing with it.
type point struct{ *session.Point }

// ConvertToNative converts to nothing.
func (point) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("a point is not a %s", t)
}

// ConvertToType converts to nothing.
func (point) ConvertToType(t ref.Type) ref.Val { return types.NewErr("a point is not a %s", t) }

// Equal says whether other is the same point.
func (p point) Equal(other ref.Val) ref.Val {
	o, ok := other.(point)
	return types.Bool(ok && o.Point == p.Point)
}

// Type returns the type.
func (point) Type() ref.Type { return pointType }

// Value returns the point itself.
func (p point) Value() any { return p.Point }

var (
	_ interpreter.Activation = activation{}
	_ ref.Val                = point{}
)
