// Package plainlog makes a logger safe for words of strangers: what they say
// can neither end a line of the log, nor command the terminal that shows it, nor
// turn around what follows. Encoders of JSON escape the ASCII controls and
// leave the others as they are.
package plainlog

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"
)

// New returns a logger that writes to the handler of log.
func New(log *slog.Logger) *slog.Logger { return slog.New(handler{log.Handler()}) }

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	n := slog.NewRecord(r.Time, r.Level, text(r.Message, anyControl), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		n.AddAttrs(attr(a))
		return true
	})
	return h.Handler.Handle(ctx, n)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(all(attrs))}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }

func all(attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = attr(a)
	}
	return out
}

func attr(a slog.Attr) slog.Attr {
	a.Key = text(a.Key, anyControl)
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(text(v.String(), harmful))
	case slog.KindGroup:
		a.Value = slog.GroupValue(all(v.Group())...)
	case slog.KindAny:
		a.Value = value(v)
	}
	return a
}

// value is v, or its text if there is harm in it.
func value(v slog.Value) slog.Value {
	switch x := v.Any().(type) {
	case []string:
		out := make([]string, len(x))
		for i, s := range x {
			out[i] = text(s, harmful)
		}
		return slog.AnyValue(out)
	case nil:
		return v
	}
	s := fmt.Sprintf("%+v", v.Any())
	if plain := text(s, harmful); plain != s {
		return slog.StringValue(plain)
	}
	return v
}

// harmful reports whether r is a control that encoders of JSON leave alone.
func harmful(r rune) bool {
	return r >= 0x7f && (unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control))
}

// anyControl is for what not every encoder escapes.
func anyControl(r rune) bool { return unicode.IsControl(r) || harmful(r) }

// text is s with escapes in the place of what is harmful or not UTF-8.
func text(s string, harmful func(rune) bool) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, harmful) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch _, n := utf8.DecodeRuneInString(s[i:]); {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case harmful(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
