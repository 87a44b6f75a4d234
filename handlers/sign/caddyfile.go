package sign

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	sign [<domains...>] {
//		table      <table...>
//		default    <domain>
//		any_client
//		malformed  refuse|pass
//		key        <selector> <file|text> [<domain>]
//		algorithms rsa|ed25519...
//		rsa_bits   <n>
//		selector   <prefix>
//		rotate     <duration>|off
//		overlap    <duration>
//		unchecked
//		canonicalization <header>/<body>
//		expire     <duration>
//		identity   domain|address
//		headers    <names...>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	h.Domains = d.RemainingArgs()
	var algorithms []string
	err := caddyopt.Block(d, caddyopt.Table{
		"table":            caddyopt.Module("smtp.tables", "table", &h.TableRaw),
		"default":          caddyopt.String(&h.Default),
		"any_client":       caddyopt.Flag(&h.AnyClient),
		"malformed":        caddyopt.String(&h.Malformed),
		"key":              h.key,
		"algorithms":       caddyopt.Strings(&algorithms),
		"rsa_bits":         caddyopt.Int(&h.Generate.RSABits, 2048),
		"selector":         caddyopt.String(&h.Generate.Selector),
		"rotate":           rotate(&h.Generate.Rotate),
		"overlap":          caddyopt.Duration(&h.Generate.Overlap),
		"unchecked":        caddyopt.Flag(&h.Generate.Unchecked),
		"canonicalization": caddyopt.String(&h.Form.Canonicalization),
		"expire":           caddyopt.Duration(&h.Form.Expire),
		"identity":         caddyopt.String(&h.Form.Identity),
		"headers":          caddyopt.Strings(&h.Form.Headers),
	})
	for _, a := range algorithms {
		h.Generate.Algorithms = append(h.Generate.Algorithms, dkimkey.Algorithm(a))
	}
	if err == nil && len(h.Domains) == 0 && h.TableRaw == nil && h.Default == "" {
		err = d.Err("no domain to sign for")
	}
	return err
}

func (h *Handler) key(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 {
		return d.ArgErr()
	}
	k := &Key{Selector: args[0], Private: args[1]}
	if len(args) == 3 {
		k.Domain = args[2]
	}
	h.Keys = append(h.Keys, k)
	return nil
}

// rotate reads a duration, or "off".
func rotate(p *caddy.Duration) caddyopt.Option {
	return caddyopt.One(func(s string) error {
		if s == "off" {
			*p = -1
			return nil
		}
		v, err := caddy.ParseDuration(s)
		if err == nil && v <= 0 {
			err = errors.New("neither off nor a time")
		}
		*p = caddy.Duration(v)
		return err
	})
}

var _ caddyfile.Unmarshaler = (*Handler)(nil)
