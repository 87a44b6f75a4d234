package senderlogin

import (
	"fmt"
	netmail "net/mail"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
)

// A finding is what a header says of its originators, and what is wrong with
// that.
type finding struct {
	*originator.Originator
	fault       string // "" if there is none
	curable     bool   // by another From or Sender
	clear       bool   // all readers see the same originators
	needsSender bool   // it is due, and missing
}

// fields are those that the handler looks after; "" stands for what is wrong
// with others that may hide one.
var fields = []string{"", "From", "Sender", "Resent-From", "Resent-Sender"}

// check holds a header to a user's rights.
func (h *Handler) check(hd *message.Header, r *rights) *finding {
	c := &finding{Originator: originator.Read(hd), clear: true}
	for _, p := range c.Problems {
		if !p.Kind.Ambiguous() || !slices.Contains(fields, p.Field) {
			continue
		}
		c.clear = false
		if curable := p.Field == "From" || p.Field == "Sender"; c.fault == "" || !curable {
			c.fault, c.curable = p.String(), curable
		}
	}
	if c.fault != "" && !c.curable {
		return c
	}
	if h.Resent && c.clear && len(c.Resent) > 0 && len(c.Resent[0].From) > 0 {
		c.resent(c.Resent[:1], r)
		return c
	}
	if c.resent(c.Resent, r); c.fault == "" {
		c.authors(r)
	}
	return c
}

// resent checks blocks of Resent fields.
func (c *finding) resent(blocks []originator.Resent, r *rights) {
	for _, b := range blocks {
		from := b.From
		if b.Sender != nil {
			from = append(slices.Clone(from), *b.Sender)
		}
		for _, m := range from {
			if !r.owns(m.Address) {
				c.fault, c.curable = notOwn("Resent-From", m.Address), false
				return
			}
		}
	}
}

// authors checks From and Sender (RFC 5322, section 3.6.2).
func (c *finding) authors(r *rights) {
	others := len(c.From) > 1
	for _, m := range c.From {
		switch {
		case r.owns(m.Address):
		case r.mayUse(m.Address):
			others = true
		default:
			c.fault, c.curable = notOwn("From", m.Address), true
			return
		}
	}
	switch {
	case c.Sender != nil && !r.owns(c.Sender.Address):
		c.fault, c.curable = notOwn("Sender", c.Sender.Address), true
	case c.Sender == nil && others && r.primary.IsNull():
		c.fault = "From: a Sender field is missing"
	case c.Sender == nil && others:
		c.needsSender = true
	}
}

func notOwn(field string, a mail.Address) string {
	return fmt.Sprintf("%s: %s is not your address", field, a.Path())
}

// cure changes what is not the user's, and reports whether the header is well
// now. Nothing is changed otherwise.
func (h *Handler) cure(hd *message.Header, r *rights, c *finding) bool {
	to := hd.Clone()
	if h.Otherwise == addSender {
		if !c.clear || len(c.From) == 0 {
			return false
		}
		keep(to, "Sender")
		to.Set("Sender", r.primary.String())
		*hd = *to
		return true
	}
	if author, ok := c.Author(); ok && !r.owns(author) && to.Count("Reply-To") == 0 {
		to.Append("Reply-To", written(c.From[0]))
	}
	if c.Sender != nil || c.Has(originator.SeveralSender) || to.Count("Sender") > 0 {
		keep(to, "Sender")
		to.Remove("Sender")
	}
	if author, ok := c.Author(); !ok || !r.owns(author) {
		keep(to, "From")
		name := ""
		if len(c.From) == 1 {
			name = c.From[0].Name
		}
		to.Set("From", written(originator.Mailbox{Name: name, Address: r.primary}))
	}
	if h.check(to, r).fault != "" {
		return false
	}
	*hd = *to
	return true
}

// keep keeps the first value of a field under another name.
func keep(hd *message.Header, name string) {
	const most = 1000
	if v := hd.Get(name); v != "" {
		hd.Append("X-Original-"+name, strings.ToValidUTF8(v[:min(len(v), most)], "?"))
	}
}

// written writes a mailbox, its name quoted or encoded.
func written(m originator.Mailbox) string {
	if m.Name == "" {
		return m.Address.String()
	}
	return (&netmail.Address{Name: m.Name, Address: m.Address.Local + "@" + m.Address.Domain}).String()
}
