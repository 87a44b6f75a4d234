// Package encode7bit makes content 7-bit before it is signed.
package encode7bit

import (
	"context"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/convert"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler makes messages of our own users 7-bit, so that every next hop takes
// them and a signature that `sign` makes is good wherever they go. Without it
// they are converted when a next hop is met that lacks 8BITMIME, BINARYMIME or
// SMTPUTF8, and their signature is lost. Parts of text become Quoted-Printable,
// others Base64; 8-bit header fields become encoded-words (RFC 2047) and extended
// parameters (RFC 2231), if no address in them needs SMTPUTF8.
//
// What cannot be converted passes as it is: a part under multipart/signed, and a
// message that has a DKIM signature or an ARC set already.
type Handler struct {
	// AnyClient converts messages of strangers too, whose signatures elsewhere in
	// the message may be lost. Default: false.
	AnyClient bool `json:"any_client,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.encode_7bit", New: func() caddy.Module { return new(Handler) }}
}

// OnlyAnnotates says that it refuses nothing.
func (*Handler) OnlyAnnotates() bool { return true }

// HandleMessage converts the message, if it is ours to change.
func (h *Handler) HandleMessage(_ context.Context, tx *session.Transaction, m *message.Message) error {
	if !h.AnyClient && !tx.Session.Trusted() || m.Header.Count("DKIM-Signature")+m.Header.Count("ARC-Seal") > 0 {
		return nil
	}
	env := tx.Envelope
	body := m.Body().Stats()
	binary := env.Body == mail.BodyBinary
	if !binary && !body.EightBit && !m.Header.EightBit() && body.LongestLine <= 998 {
		return nil
	}
	for _, target := range []convert.Target{{}, {UTF8: true}} { // the second, where the header needs SMTPUTF8
		c, err := convert.New(m, binary, target)
		if _, ok := errors.AsType[*mail.Reply](err); ok {
			continue
		}
		if err != nil {
			return err
		}
		if c == nil { // it is text, whatever was said
			if binary {
				env.Body = mail.Body7Bit
			}
			return nil
		}
		env.Body = c.Body()
		return replace(tx, m, c)
	}
	return nil
}

func replace(tx *session.Transaction, m *message.Message, c *convert.Content) error {
	r, err := c.NewReader()
	if err != nil {
		return err
	}
	defer r.Close()
	return tx.Replace(m, r)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	encode_7bit {
//		any_client
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{"any_client": caddyopt.Flag(&h.AnyClient)})
}

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
