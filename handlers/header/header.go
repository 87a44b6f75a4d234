// Package header changes the header of messages.
package header

import (
	"context"
	"fmt"
	"mime"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler adds, sets, removes or changes fields of the header.
type Handler struct {
	// Edits are made in order.
	Edits []*Edit `json:"edits,omitempty"`
}

// Edit is one change of the header.
type Edit struct {
	// Op is what to do: "add" puts a field on top, "set" puts it in the place of
	// all of that name, "remove" removes them, and "replace" replaces what Find
	// matches in their values.
	Op string `json:"op,omitempty"`

	// Name is the name of the field.
	Name string `json:"name,omitempty"`

	// Value is the value of the field, or what replace puts in. It may have
	// placeholders, and $1 or ${name} for what groups of Find matched.
	Value string `json:"value,omitempty"`

	// Find is a regular expression (RE2 syntax), for replace.
	Find string `json:"find,omitempty"`

	find *regexp.Regexp
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.header", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks the edits.
func (h *Handler) Provision(caddy.Context) (err error) {
	if len(h.Edits) == 0 {
		return fmt.Errorf("header: nothing to do")
	}
	for _, e := range h.Edits {
		if !isName(e.Name) {
			return fmt.Errorf("header: '%s' is not the name of a field", e.Name)
		}
		switch e.Op {
		case "add", "set", "remove":
		case "replace":
			if e.find, err = regexp.Compile(e.Find); err != nil {
				return fmt.Errorf("header: %w", err)
			}
		default:
			return fmt.Errorf("header: '%s' is not add, set, remove or replace", e.Op)
		}
	}
	return nil
}

// isName reports whether s is an ftext (RFC 5322, section 2.2).
func isName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ':' {
			return false
		}
	}
	return s != "" && len(s) <= 76
}

// OnlyAnnotates says that it refuses nothing.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleMessage edits the header.
func (h *Handler) HandleMessage(_ context.Context, tx *session.Transaction, m *message.Message) error {
	repl := placeholder.New(tx.Session, tx, nil)
	for _, e := range h.Edits {
		switch e.Op {
		case "add":
			m.Header.Prepend(e.Name, encode(repl.ReplaceAll(e.Value, ""), tx))
		case "set":
			m.Header.Set(e.Name, encode(repl.ReplaceAll(e.Value, ""), tx))
		case "remove":
			m.Header.Remove(e.Name)
		case "replace":
			if err := e.replace(repl, m.Header); err != nil {
				return err
			}
		}
	}
	return nil
}

// encode keeps to ASCII what is not sent with SMTPUTF8 (RFC 2047).
func encode(v string, tx *session.Transaction) string {
	if tx.Envelope.UTF8 {
		return v
	}
	return mime.QEncoding.Encode("utf-8", v)
}

// replace changes values where that makes a difference: fields that it need
// not touch stay as they were signed.
func (e *Edit) replace(repl *caddy.Replacer, h *message.Header) error {
	with, err := repl.ReplaceFunc(e.Value, func(_ string, v any) (any, error) {
		return strings.ReplaceAll(caddy.ToString(v), "$", "$$"), nil // it refers to no group
	})
	if err != nil {
		return err
	}
	values, changed := h.Values(e.Name), false
	for i, v := range values {
		values[i] = e.find.ReplaceAllString(v, with)
		changed = changed || values[i] != v
	}
	if !changed {
		return nil
	}
	h.Remove(e.Name)
	for _, v := range values {
		h.Append(e.Name, v)
	}
	return nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens: "+" adds a field,
// "-" removes, and neither sets or, with two values, replaces. Syntax:
//
//	header [+|-]<field> [<value>|<find> <replace>]
//	header {
//		[+|-]<field> [<value>|<find> <replace>]
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		if err := h.edit(d); err != nil {
			return err
		}
		return caddyopt.End(d)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := h.edit(d); err != nil {
			return err
		}
	}
	if len(h.Edits) == 0 {
		return d.ArgErr()
	}
	return nil
}

func (h *Handler) edit(d *caddyfile.Dispenser) error {
	e := &Edit{Op: "set", Name: d.Val()}
	if name, ok := strings.CutPrefix(e.Name, "+"); ok {
		e.Op, e.Name = "add", name
	} else if name, ok := strings.CutPrefix(e.Name, "-"); ok {
		e.Op, e.Name = "remove", name
	}
	args := d.RemainingArgs()
	switch {
	case e.Op == "remove" && len(args) == 0:
	case e.Op != "remove" && len(args) == 1:
		e.Value = args[0]
	case e.Op == "set" && len(args) == 2:
		e.Op, e.Find, e.Value = "replace", args[0], args[1]
	default:
		return d.ArgErr()
	}
	if !isName(e.Name) {
		return d.Errf("'%s' is not the name of a field", e.Name)
	}
	h.Edits = append(h.Edits, e)
	return nil
}

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
