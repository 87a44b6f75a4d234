// Package caddyopt reads Caddyfile blocks from tables of options and loads
// guest modules with a type. It knows nothing of mail.
package caddyopt

import (
	"cmp"
	"fmt"
	"math"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// An Option reads the arguments of one option, and the block behind them if it
// takes one. The dispenser stands on the option's name.
type Option = func(d *caddyfile.Dispenser) error

// A Table has the options of a block by name. Make a new one for each block:
// options that hold one value remember that they were given. The option "", if
// there is one, reads what no other does.
type Table map[string]Option

// Block reads the block that d stands before, if there is one.
func Block(d *caddyfile.Dispenser, t Table) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		read, ok := t[d.Val()]
		if !ok {
			read, ok = t[""]
		}
		if !ok {
			return d.Errf("unrecognized option '%s'", d.Val())
		}
		if err := read(d); err != nil {
			return err
		}
	}
	return nil
}

// End is an error unless d stands at the end of a line without a block: what a
// module calls that has read all that it takes.
func End(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return Block(d, nil)
}

// Once makes an error of an option's second use.
func Once(read Option) Option {
	given := false
	return func(d *caddyfile.Dispenser) error {
		if given {
			return d.Errf("option '%s' is given twice", d.Val())
		}
		given = true
		return read(d)
	}
}

// One is an option of exactly one argument, given once.
func One(set func(arg string) error) Option {
	return Once(func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var arg string
		if !d.AllArgs(&arg) {
			return d.ArgErr()
		}
		if err := set(arg); err != nil {
			return d.Errf("option '%s': %w", name, err)
		}
		return nil
	})
}

// String reads one argument.
func String(p *string) Option {
	return One(func(s string) error { *p = s; return nil })
}

// Strings reads one or more arguments. Repeated, it adds to them.
func Strings(p *[]string) Option {
	return func(d *caddyfile.Dispenser) error {
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.ArgErr()
		}
		*p = append(*p, args...)
		return nil
	}
}

// Duration reads a duration such as 30s, 15m or 5d.
func Duration(p *caddy.Duration) Option {
	return One(func(s string) error {
		v, err := caddy.ParseDuration(s)
		if err == nil && v < 0 {
			err = fmt.Errorf("'%s' is negative", s)
		}
		*p = caddy.Duration(v)
		return err
	})
}

// Size reads a number of octets such as 512KiB or 25MB.
func Size[T ~int | ~int64](p *T) Option {
	return One(func(s string) error {
		v, err := humanize.ParseBytes(s)
		if err != nil || v > math.MaxInt64 || int64(T(v)) != int64(v) {
			return fmt.Errorf("'%s' is not a size", s)
		}
		*p = T(v)
		return nil
	})
}

// Int reads a number of at least least.
func Int[T ~int | ~int32 | ~int64 | ~uint16 | ~uint32](p *T, least T) Option {
	return One(func(s string) error {
		v, err := strconv.ParseInt(s, 10, 64)
		if err != nil || int64(T(v)) != v || cmp.Less(T(v), least) {
			return fmt.Errorf("'%s' is not a number of %d or more", s, least)
		}
		*p = T(v)
		return nil
	})
}

// Flag is an option without argument that sets p.
func Flag(p *bool) Option {
	return Once(func(d *caddyfile.Dispenser) error {
		if d.NextArg() {
			return d.ArgErr()
		}
		*p = true
		return nil
	})
}

// OnOff reads "on" or "off".
func OnOff(p *bool) Option {
	return One(func(s string) error {
		if s != "on" && s != "off" {
			return fmt.Errorf("'%s' is neither on nor off", s)
		}
		*p = s == "on"
		return nil
	})
}

// OnOffUnset reads "on" or "off" where neither differs from both.
func OnOffUnset(p **bool) Option {
	v := new(bool)
	read := OnOff(v)
	return func(d *caddyfile.Dispenser) error {
		*p = v
		return read(d)
	}
}

// Mode reads a file mode in octal, such as 0600.
func Mode(p *string) Option {
	return One(func(s string) error {
		_, err := ParseMode(s, 0)
		*p = s
		return err
	})
}
