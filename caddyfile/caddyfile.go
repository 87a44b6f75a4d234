// Package caddyfile reads the global option `smtp` of the Caddyfile and writes
// the JSON of the smtp app.
package caddyfile

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
)

func init() { httpcaddyfile.RegisterGlobalOption("smtp", parseOption) }

// parseOption reads the option. Repeated, it adds to what there is. Syntax:
//
//	{
//		smtp {
//			hostname     <name>
//			postmaster   <address>
//			resolver     <address[:port]...>
//			ca           <provider> [...]
//			grace_period <duration>
//			drain_period <duration>
//			logins { ... }
//			queue [<path>] { ... }
//			shaping { ... }
//			agent  <name> <module> [<args...>] { ... }
//			server <name> [<addresses...>] { ... }
//		}
//	}
func parseOption(d *caddyfile.Dispenser, existing any) (any, error) {
	p := &parser{app: &smtpapp.App{
		Servers:   map[string]*smtpapp.Server{},
		AgentsRaw: map[string]json.RawMessage{},
	}}
	if prev, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(prev.Value, p.app); err != nil {
			return nil, d.WrapErr(err)
		}
	}
	d.Next()
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	if err := caddyopt.Block(d, p.options()); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "smtp", Value: caddyconfig.JSON(p.app, nil)}, nil
}

// A parser holds the app that is being read.
type parser struct {
	app *smtpapp.App
}

func (p *parser) options() caddyopt.Table {
	return caddyopt.Table{
		"hostname":     caddyopt.String(&p.app.Hostname),
		"postmaster":   caddyopt.String(&p.app.Postmaster),
		"resolver":     caddyopt.Strings(&p.app.Resolver),
		"ca":           caddyopt.Module("tls.ca_pool.source", "provider", &p.app.CARaw),
		"connections":  intOrNone(&p.app.Connections),
		"grace_period": caddyopt.Duration(&p.app.GracePeriod),
		"drain_period": caddyopt.Duration(&p.app.DrainPeriod),
		"logins":       p.logins,
		"queue":        p.queue,
		"shaping":      p.shaping,
		"agent":        p.agent,
		"server":       p.server,
	}
}

// queue reads where the queue is, and its schedule. Syntax:
//
//	queue [<path>] {
//		retry             <durations...>
//		expire            <duration>
//		expire_null       <duration>
//		delay_notice      <duration>
//		concurrency       <number>
//		per_destination   <number> [<first>]
//		free_space        <size>
//		dsn_agent         <name>
//		dsn_template      [<language>] <file>
//		dsn_content       <size>|off
//		double_failure    drop|postmaster|<address>
//	}
func (p *parser) queue(d *caddyfile.Dispenser) error {
	q := &p.app.Queue
	if d.NextArg() {
		q.Path = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"retry":           durations(&q.Retry),
		"expire":          caddyopt.Duration(&q.Expire),
		"expire_null":     caddyopt.Duration(&q.ExpireNull),
		"delay_notice":    caddyopt.Duration(&q.DelayNotice),
		"concurrency":     caddyopt.Int(&q.Concurrency, 1),
		"per_destination": twoInts(&q.PerDestination, &q.FirstPerDestination),
		"free_space":      caddyopt.Size(&q.FreeSpace),
		"dsn_agent":       caddyopt.String(&q.DSNAgent),
		"dsn_template":    dsnTemplate(&q.DSNTemplates),
		"dsn_content":     dsnContent(&q.DSNContent),
		"double_failure":  caddyopt.String(&q.DoubleFailure),
	})
}

// dsnContent reads a size, of which none means the same as "off".
func dsnContent(p *int64) caddyopt.Option {
	read := orOff(caddyopt.Size(p), func() { *p = -1 })
	return func(d *caddyfile.Dispenser) error {
		err := read(d)
		if *p == 0 {
			*p = -1
		}
		return err
	}
}

// dsnTemplate reads a file, and the language that it is for. It may stand again.
func dsnTemplate(ts *[]smtpapp.DSNTemplate) caddyopt.Option {
	return func(d *caddyfile.Dispenser) error {
		switch args := d.RemainingArgs(); len(args) {
		case 1:
			*ts = append(*ts, smtpapp.DSNTemplate{File: args[0]})
		case 2:
			*ts = append(*ts, smtpapp.DSNTemplate{Language: args[0], File: args[1]})
		default:
			return d.ArgErr()
		}
		return nil
	}
}

// logins reads how guesses at passwords are bounded: failures within a minute
// and within a day, the first delay and the longest, the first ban and the
// longest. Syntax:
//
//	logins {
//		address <number>|none [<number>|none]
//		subnet  <number>|none [<number>|none]
//		network <number>|none [<number>|none]
//		user    <number>|none [<number>|none]
//		delay   <duration> [<duration>]
//		ban     <duration> [<duration>] | off
//		exempt  <networks...>|none
//		local
//	}
func (p *parser) logins(d *caddyfile.Dispenser) error {
	l := &p.app.Logins
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"address": budget(&l.Address),
		"subnet":  budget(&l.Subnet),
		"network": budget(&l.Network),
		"user":    budget(&l.User),
		"delay":   twoDurations(&l.Delay, &l.MaxDelay),
		"ban":     ban(&l.Ban, &l.MaxBan),
		"exempt":  caddyopt.Strings(&l.Exempt),
		"local":   caddyopt.Flag(&l.Local),
	})
}

func budget(b *smtpapp.Budget) caddyopt.Option {
	return caddyopt.Once(func(d *caddyfile.Dispenser) error {
		args := d.RemainingArgs()
		if len(args) == 0 || len(args) > 2 {
			return d.ArgErr()
		}
		for i, to := range []*int{&b.Minute, &b.Day}[:len(args)] {
			n, err := strconv.Atoi(args[i])
			switch {
			case args[i] == "none":
				n = -1
			case err != nil || n < 1:
				return d.Errf("'%s' is not a number of 1 or more", args[i])
			}
			*to = n
		}
		return nil
	})
}

func ban(first, longest *caddy.Duration) caddyopt.Option {
	read := twoDurations(first, longest)
	return func(d *caddyfile.Dispenser) error {
		if d.NextArg() {
			if d.Val() == "off" && d.CountRemainingArgs() == 0 {
				*first = -1
				return nil
			}
			d.Prev()
		}
		return read(d)
	}
}

// twoDurations reads one duration or two.
func twoDurations(first, second *caddy.Duration) caddyopt.Option {
	return caddyopt.Once(func(d *caddyfile.Dispenser) error {
		args := d.RemainingArgs()
		if len(args) == 0 || len(args) > 2 {
			return d.ArgErr()
		}
		for i, to := range []*caddy.Duration{first, second}[:len(args)] {
			v, err := caddy.ParseDuration(args[i])
			if err != nil || v <= 0 {
				return d.Errf("'%s' is not a duration", args[i])
			}
			*to = caddy.Duration(v)
		}
		return nil
	})
}

func durations(p *[]caddy.Duration) caddyopt.Option {
	return caddyopt.Once(func(d *caddyfile.Dispenser) error {
		for d.NextArg() {
			v, err := caddy.ParseDuration(d.Val())
			if err != nil || v <= 0 {
				return d.Errf("'%s' is not a duration", d.Val())
			}
			*p = append(*p, caddy.Duration(v))
		}
		if len(*p) == 0 {
			return d.ArgErr()
		}
		return nil
	})
}

// agent reads a delivery agent under a name.
func (p *parser) agent(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	if _, ok := p.app.AgentsRaw[name]; ok {
		return d.Errf("agent %s is declared twice", name)
	}
	if _, err := caddy.GetModule("smtp.agents." + name); err == nil {
		return d.Errf("an agent cannot have the name of a module (%s), which would be taken for it", name)
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	raw, err := caddyopt.Guest(d, "smtp.agents", "agent")
	if err != nil {
		return err
	}
	p.app.AgentsRaw[name] = raw
	return nil
}

// inline takes the agent that a handler declares in its own line to the app's
// agents, under the name of its server and its module.
func (p *parser) inline(d *caddyfile.Dispenser, server string, h caddyopt.AgentDeclarer) error {
	module, raw := h.DeclaredAgent()
	if module == "" {
		return nil
	}
	name := server + "." + module
	raw, err := withKey(raw, "agent", module)
	if err != nil {
		return d.WrapErr(err)
	}
	if prev, ok := p.app.AgentsRaw[name]; ok && string(prev) != string(raw) {
		return d.Errf("server %s has a %s agent already; declare this one under a name: agent <name> %s ...", server, module, module)
	}
	p.app.AgentsRaw[name] = raw
	h.NameAgent(name)
	return nil
}

// withKey adds a string to a JSON object.
func withKey(raw json.RawMessage, key, value string) (json.RawMessage, error) {
	obj := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &obj); err != nil {
		return nil, fmt.Errorf("agent %s: %w", value, err)
	}
	v, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	obj[key] = v
	return json.Marshal(obj)
}
