package caddyfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/caddymail/caddy-smtp/smtpapp"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
)

// extensions adds the options for what clients may ask for.
func extensions(t caddyopt.Table, e *smtpapp.Extensions) caddyopt.Table {
	t["mt_priority"] = caddyopt.Once(func(d *caddyfile.Dispenser) error {
		e.MTPriority = new(smtpapp.MTPriority)
		return mtPriority(d, e.MTPriority)
	})
	t["deliver_by"] = orOff(caddyopt.Duration(&e.DeliverBy), func() { e.DeliverBy = -1 })
	t["dsn"] = words(&e.DSN, "off", "trusted", "on")
	t["vrfy"] = audience(&e.VRFY)
	t["expn"] = audience(&e.EXPN)
	t["help"] = caddyopt.String(&e.Help)
	return t
}

func audience(p *string) caddyopt.Option { return words(p, "off", "authenticated", "on") }

// words reads one of some words.
func words(p *string, some ...string) caddyopt.Option {
	return caddyopt.One(func(s string) error {
		if !slices.Contains(some, s) {
			return fmt.Errorf("'%s' is none of %s", s, strings.Join(some, ", "))
		}
		*p = s
		return nil
	})
}

// mtPriority reads who may ask for which priority. Syntax:
//
//	mt_priority [<policy>] {
//		max        <priority>
//		max_others <priority>
//		min        <priority>
//		refuse
//		max_size   <priority> <size>
//		header
//	}
func mtPriority(d *caddyfile.Dispenser, m *smtpapp.MTPriority) error {
	if d.NextArg() {
		m.Policy = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{
		"max":        priority(func(n int) { m.Max = &n }),
		"max_others": priority(func(n int) { m.MaxOthers = n }),
		"min":        priority(func(n int) { m.Min = &n }),
		"refuse":     caddyopt.Flag(&m.Refuse),
		"header":     caddyopt.Flag(&m.Header),
		"max_size": func(d *caddyfile.Dispenser) error {
			var n, size string
			if !d.AllArgs(&n, &size) {
				return d.ArgErr()
			}
			p, err := parsePriority(n)
			if err != nil {
				return d.WrapErr(err)
			}
			octets, err := humanize.ParseBytes(size)
			if err != nil || octets > 1<<62 {
				return d.Errf("'%s' is not a size", size)
			}
			m.MaxSizes = append(m.MaxSizes, smtpapp.PrioritySize{Priority: p, Size: int64(octets)})
			return nil
		},
	})
}

func priority(set func(int)) caddyopt.Option {
	return caddyopt.One(func(s string) error {
		n, err := parsePriority(s)
		if err == nil {
			set(n)
		}
		return err
	})
}

func parsePriority(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < -9 || n > 9 {
		return 0, fmt.Errorf("'%s' is no priority: they are -9 to 9", s)
	}
	return n, nil
}
