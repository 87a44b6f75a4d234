package caddyfile

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
)

// shaping reads the table of rules. Syntax:
//
//	shaping {
//		providers
//		rule <name> {
//			domain                  <domains...>
//			mx                      <hosts...>
//			agent                   <names...>
//			source                  <names...>
//			count                   each|together
//			concurrency             <number> [<first>]
//			connections_per_address <number>
//			messages_per_connection <number>
//			messages                <number>/<duration>...
//			recipients              <number>/<duration>...
//			retry                   <durations...>
//			expire                  <duration>
//			expire_null             <duration>
//			reply <pattern> [pause <duration>] [slow <duration>] [elsewhere] [retry|fail]
//		}
//	}
func (p *parser) shaping(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"providers": caddyopt.Flag(&p.app.Shaping.Providers),
		"rule":      p.rule,
	})
}

func (p *parser) rule(d *caddyfile.Dispenser) error {
	var r smtpapp.Rule
	if !d.AllArgs(&r.Name) {
		return d.ArgErr()
	}
	for _, o := range p.app.Shaping.Rules {
		if o.Name == r.Name {
			return d.Errf("rule %s is given twice", r.Name)
		}
	}
	line := *d
	err := caddyopt.Block(d, caddyopt.Table{
		"domain":                  caddyopt.Strings(&r.Domains),
		"mx":                      caddyopt.Strings(&r.MX),
		"agent":                   caddyopt.Strings(&r.Agents),
		"source":                  caddyopt.Strings(&r.Sources),
		"count":                   caddyopt.String(&r.Count),
		"concurrency":             twoInts(&r.Concurrency, &r.FirstConcurrency),
		"connections_per_address": caddyopt.Int(&r.ConnectionsPerAddress, 1),
		"messages_per_connection": caddyopt.Int(&r.MessagesPerConnection, 1),
		"messages":                caddyopt.Strings(&r.Messages),
		"recipients":              caddyopt.Strings(&r.Recipients),
		"retry":                   durations(&r.Retry),
		"expire":                  caddyopt.Duration(&r.Expire),
		"expire_null":             caddyopt.Duration(&r.ExpireNull),
		"reply":                   func(d *caddyfile.Dispenser) error { return reply(d, &r.Replies) },
	})
	if err != nil {
		return err
	}
	if err := r.Check(); err != nil {
		return line.Errf("rule %s: %w", r.Name, err)
	}
	p.app.Shaping.Rules = append(p.app.Shaping.Rules, r)
	return nil
}

// reply reads a pattern and what replies mean that have it.
func reply(d *caddyfile.Dispenser, to *[]smtpapp.Reading) error {
	var r smtpapp.Reading
	if !d.NextArg() {
		return d.ArgErr()
	}
	r.Pattern = d.Val()
	if d.CountRemainingArgs() == 0 {
		return d.Err("a reply means something: pause, slow, elsewhere, retry or fail")
	}
	for d.NextArg() {
		err := error(nil)
		switch word := d.Val(); word {
		case "pause":
			err = duration(d, &r.Pause)
		case "slow":
			err = duration(d, &r.Slow)
		case "elsewhere":
			r.Elsewhere = true
		case "retry", "fail":
			if r.Outcome != "" {
				err = errors.New("retry and fail are the outcome, of which there is one")
			}
			r.Outcome = word
		default:
			err = fmt.Errorf("'%s' is none of pause, slow, elsewhere, retry, fail", word)
		}
		if err != nil {
			return d.WrapErr(err)
		}
	}
	if err := r.Check(); err != nil {
		return d.WrapErr(err)
	}
	*to = append(*to, r)
	return nil
}

// duration reads the next argument.
func duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	word := d.Val()
	if !d.NextArg() {
		return fmt.Errorf("'%s' is for how long?", word)
	}
	v, err := caddy.ParseDuration(d.Val())
	if err != nil || v <= 0 {
		return fmt.Errorf("'%s' is not a duration", d.Val())
	}
	*to = caddy.Duration(v)
	return nil
}

// twoInts reads one number or two.
func twoInts(first, second *int) caddyopt.Option {
	return caddyopt.Once(func(d *caddyfile.Dispenser) error {
		args := d.RemainingArgs()
		if len(args) == 0 || len(args) > 2 {
			return d.ArgErr()
		}
		for i, to := range []*int{first, second}[:len(args)] {
			n, err := strconv.Atoi(args[i])
			if err != nil || n < 1 {
				return d.Errf("'%s' is not a number of 1 or more", args[i])
			}
			*to = n
		}
		return nil
	})
}
