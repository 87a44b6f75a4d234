package caddyfile

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/caddymail/caddy-smtp/smtpapp"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
)

// server reads a server. What is no option is a handler. Syntax:
//
//	server <name> [<addresses...>] {
//		listen     <addresses...>
//		listen_tls <addresses...>
//		listener_wrappers {
//			<wrapper...>
//		}
//		hostname   <name>
//		tls        internal|off | { ... }
//		lmtp
//		xclient  <networks...>
//		xforward <networks...>
//		etrn <domains...>
//		future_release <duration>|off
//		deliver_by <duration>|off
//		mt_priority [<policy>] { ... }
//		dsn  off|trusted|on
//		vrfy off|authenticated|on
//		expn off|authenticated|on
//		help <text>
//		strict_newlines
//		bare_lf
//		plaintext_auth
//		refuse_banned on|off
//		limits   { ... }
//		timeouts { ... }
//
//		@<name> <matcher> [<args...>] | { <matchers...> }
//		<handler> [@<name>] [<args...>] { ... }
//		handle    [@<name>] { ... }
//		route     [@<name>] { ... }
//	}
func (p *parser) server(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	if _, ok := p.app.Servers[name]; ok {
		return d.Errf("server %s is declared twice", name)
	}
	if strings.ContainsAny(name, ":/.") {
		return d.Errf("'%s' looks like an address; a server has a name first: server <name> <addresses...>", name)
	}
	s := &smtpapp.Server{Listen: d.RemainingArgs()}
	p.app.Servers[name] = s
	return p.serverBlock(d, name, s)
}

func (p *parser) serverBlock(d *caddyfile.Dispenser, name string, s *smtpapp.Server) error {
	options := serverOptions(s)
	b := newBlock(p, name, nil)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if read, ok := options[d.Val()]; ok {
			if err := read(d); err != nil {
				return err
			}
			continue
		}
		if err := b.line(d); err != nil {
			return err
		}
	}
	if len(s.Listen)+len(s.ListenTLS) == 0 {
		return d.Errf("server %s has no address to listen on", name)
	}
	for _, a := range append(append([]string{}, s.Listen...), s.ListenTLS...) {
		if _, err := caddy.ParseNetworkAddressWithDefaults(a, "tcp", 25); err != nil && !strings.Contains(a, "{") {
			return d.Errf("server %s: '%s' is not a network address: %v", name, a, err)
		}
	}
	if err := b.read(); err != nil {
		return err
	}
	s.Routes = b.routes
	return b.check()
}

func serverOptions(s *smtpapp.Server) caddyopt.Table {
	return extensions(caddyopt.Table{
		"listen":            caddyopt.Strings(&s.Listen),
		"listen_tls":        caddyopt.Strings(&s.ListenTLS),
		"listener_wrappers": listenerWrappers(s),
		"hostname":          caddyopt.String(&s.Hostname),
		"authserv_id":       caddyopt.String(&s.AuthservID),
		"lmtp":              caddyopt.Flag(&s.LMTP),
		"xclient":           caddyopt.Strings(&s.XCLIENT),
		"xforward":          caddyopt.Strings(&s.XFORWARD),
		"etrn":              caddyopt.Strings(&s.ETRN),
		"future_release":    orOff(caddyopt.Duration(&s.FutureRelease), func() { s.FutureRelease = -1 }),
		"strict_newlines":   caddyopt.Flag(&s.StrictNewlines),
		"bare_lf":           caddyopt.Flag(&s.BareLF),
		"plaintext_auth":    caddyopt.Flag(&s.PlaintextAuth),
		"refuse_banned":     caddyopt.OnOffUnset(&s.RefuseBanned),
		"tls":               tlsOption(s),
		"limits":            func(d *caddyfile.Dispenser) error { return caddyopt.Block(d, limits(&s.Limits)) },
		"timeouts":          func(d *caddyfile.Dispenser) error { return caddyopt.Block(d, timeouts(&s.Timeouts)) },
	}, &s.Extensions)
}

func listenerWrappers(s *smtpapp.Server) caddyopt.Option {
	return func(d *caddyfile.Dispenser) error {
		return caddyopt.GuestBlock(d, "caddy.listeners", "wrapper", &s.ListenerWrappersRaw)
	}
}

func limits(l *smtpapp.Limits) caddyopt.Table {
	return caddyopt.Table{
		"message_size":  sizeOrNone(&l.MessageSize),
		"recipients":    intOrNone(&l.Recipients),
		"messages":      intOrNone(&l.Messages),
		"hops":          intOrNone(&l.Hops),
		"header_size":   sizeOrNone(&l.HeaderSize),
		"header_fields": intOrNone(&l.HeaderFields),
		"soft_errors":   intOrNone(&l.SoftErrors),
		"hard_errors":   intOrNone(&l.HardErrors),
		"non_mail":      intOrNone(&l.NonMail),
		"failed_auth":   intOrNone(&l.FailedAuth),
		"chunks":        intOrNone(&l.Chunks),
		"field_size":    sizeOrNone(&l.FieldSize),
		"text_line":     sizeOrNone(&l.TextLine),

		"line_length":      caddyopt.Int(&l.LineLength, 512),
		"auth_line_length": caddyopt.Int(&l.AuthLineLength, 512),
		"error_delay":      orNone(caddyopt.Duration(&l.ErrorDelay), func() { l.ErrorDelay = -1 }),

		"connections":             intOrNone(&l.Connections),
		"connections_per_address": intOrNone(&l.ConnectionsPerAddress),
		"connections_per_network": intOrNone(&l.ConnectionsPerNetwork),
		"connection_rate":         intOrNone(&l.ConnectionRate),
		"message_rate":            intOrNone(&l.MessageRate),
		"exempt":                  caddyopt.Strings(&l.Exempt),
	}
}

// sizeOrNone reads a size of at least an octet: zero would be the default.
func sizeOrNone[T ~int | ~int64](p *T) caddyopt.Option {
	read := caddyopt.Size(p)
	return orNone(func(d *caddyfile.Dispenser) error {
		err := read(d)
		if err == nil && *p == 0 {
			err = d.Err("a size of 0 would let nothing in: none lifts the limit")
		}
		return err
	}, func() { *p = -1 })
}

func intOrNone(p *int) caddyopt.Option {
	return orNone(caddyopt.Int(p, 1), func() { *p = -1 })
}

// orNone reads "none" for a limit that is lifted.
func orNone(read caddyopt.Option, lift func()) caddyopt.Option { return orWord("none", read, lift) }

// orOff reads "off" for what is not wanted.
func orOff(read caddyopt.Option, off func()) caddyopt.Option { return orWord("off", read, off) }

func orWord(word string, read caddyopt.Option, instead func()) caddyopt.Option {
	return func(d *caddyfile.Dispenser) error {
		if d.NextArg() {
			if d.Val() == word && d.CountRemainingArgs() == 0 {
				instead()
				return nil
			}
			d.Prev()
		}
		return read(d)
	}
}

func timeouts(t *smtpapp.Timeouts) caddyopt.Table {
	return caddyopt.Table{
		"before_hello": caddyopt.Duration(&t.BeforeHello),
		"command":      caddyopt.Duration(&t.Command),
		"block":        caddyopt.Duration(&t.Block),
		"content":      caddyopt.Duration(&t.Content),
		"handshake":    caddyopt.Duration(&t.Handshake),
		"write":        caddyopt.Duration(&t.Write),
		"greeting":     caddyopt.Duration(&t.Greeting),
		"min_rate":     caddyopt.Int(&t.MinRate, 1),
	}
}

// tlsOption reads where certificates come from. What it does not know is an
// option of a connection policy, as in Caddy. Syntax:
//
//	tls internal|off
//	tls {
//		names  <names...>
//		issuer <module> [...]
//		on_demand
//		connection_policy { ... }
//		<connection policy option...>
//	}
func tlsOption(s *smtpapp.Server) caddyopt.Option {
	return caddyopt.Once(func(d *caddyfile.Dispenser) error {
		s.TLS = new(smtpapp.TLS)
		first := d.Token()
		for d.NextArg() {
			switch d.Val() {
			case "internal":
				s.TLS.Automation = &caddytls.AutomationPolicy{}
				s.TLS.Automation.IssuersRaw = append(s.TLS.Automation.IssuersRaw, caddyconfig.JSONModuleObject(caddytls.InternalIssuer{}, "module", "internal", nil))
			case "off":
				s.TLS.Off = true
			default:
				return d.Errf("unrecognized TLS setting '%s'; there are internal and off", d.Val())
			}
		}
		return tlsBlock(d, s.TLS, first)
	})
}

func tlsBlock(d *caddyfile.Dispenser, t *smtpapp.TLS, first caddyfile.Token) error {
	policy := func() *caddytls.AutomationPolicy {
		if t.Automation == nil {
			t.Automation = new(caddytls.AutomationPolicy)
		}
		return t.Automation
	}
	options := caddyopt.Table{
		"names": caddyopt.Strings(&t.Names),
		"issuer": func(d *caddyfile.Dispenser) error {
			return caddyopt.Modules("tls.issuance", "module", &policy().IssuersRaw)(d)
		},
		"on_demand": func(d *caddyfile.Dispenser) error { return caddyopt.Flag(&policy().OnDemand)(d) },
		"connection_policy": func(d *caddyfile.Dispenser) error {
			cp := new(caddytls.ConnectionPolicy)
			t.ConnectionPolicies = append(t.ConnectionPolicies, cp)
			return cp.UnmarshalCaddyfile(d.NewFromNextSegment())
		},
	}
	var rest []caddyfile.Token
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if read, ok := options[d.Val()]; ok {
			if err := read(d); err != nil {
				return err
			}
			continue
		}
		rest = append(rest, d.NextSegment()...)
	}
	if len(rest) == 0 {
		return nil
	}
	cp := new(caddytls.ConnectionPolicy)
	t.ConnectionPolicies = append(t.ConnectionPolicies, cp)
	return cp.UnmarshalCaddyfile(blockOf("connection_policy", first, rest))
}

// blockOf returns a dispenser of a block with the given lines.
func blockOf(name string, at caddyfile.Token, lines []caddyfile.Token) *caddyfile.Dispenser {
	tokens := []caddyfile.Token{tokenAt(at, name, at.Line), tokenAt(at, "{", at.Line)}
	tokens = append(tokens, lines...)
	return caddyfile.NewDispenser(append(tokens, tokenAt(at, "}", lines[len(lines)-1].Line+1)))
}

func tokenAt(at caddyfile.Token, text string, line int) caddyfile.Token {
	t := at.Clone()
	t.Text, t.Line = text, line
	return t
}
