package relay

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/nexthop"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
)

// A Pool is sources that share what they send.
type Pool struct {
	// Name is of your choice. Logs and shaping rules name a source by it and by
	// the source's first address: "bulk/192.0.2.11".
	Name string `json:"name,omitempty"`

	// Sources are where messages come from, each message from one of them.
	Sources []PoolSource `json:"sources,omitempty"`

	// Users are those whose mail it is for, as they logged in, with "*" for any
	// run of characters. Default: all, and who did not log in.
	Users []string `json:"users,omitempty"`

	// From are patterns of the senders whose mail it is for: "*@news.example.org",
	// "<>". Default: all.
	From []string `json:"from,omitempty"`

	names []string // of sources
}

// A PoolSource is a source of a pool.
type PoolSource struct {
	// Source is as that of the agent: addresses, and a name for EHLO.
	Source []string `json:"source,omitempty"`

	// Weight is how much it sends, beside others of the pool. Default: 1.
	Weight int `json:"weight,omitempty"`
}

// settlePools makes a sender for each source.
func (a *Agent) settlePools() error {
	if len(a.Pools) > 0 && a.SourceByRaw != nil {
		return errors.New("a message has its source from a pool or by source_by: give pools their users")
	}
	a.senders = map[string]*nexthop.Sender{}
	names := map[string]bool{}
	for i := range a.Pools {
		p := &a.Pools[i]
		if err := p.check(); err != nil {
			return fmt.Errorf("pool %s: %w", p.Name, err)
		}
		if names[p.Name] {
			return fmt.Errorf("pool %s: there are two of this name", p.Name)
		}
		names[p.Name] = true
		for _, s := range p.Sources {
			src, _ := nexthop.ParseSource(s.Source)
			name := p.Name + "/" + src.Addresses[0].String()
			if a.senders[name] != nil {
				return fmt.Errorf("pool %s: %s is in it twice", p.Name, src.Addresses[0])
			}
			a.senders[name] = a.sender.From(src)
			p.names = append(p.names, name)
		}
	}
	return nil
}

// check returns what is wrong with a pool.
func (p *Pool) check() error {
	switch {
	case p.Name == "":
		return errors.New("a pool has a name")
	case len(p.Sources) == 0:
		return errors.New("a pool has sources")
	}
	for _, s := range p.Sources {
		if s.Weight < 0 {
			return errors.New("a weight is 1 or more")
		}
		if _, err := nexthop.ParseSource(s.Source); err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
	p.From = slices.Clone(p.From)
	return pattern.Addresses(p.From)
}

// isFor reports whether the pool is for a message.
func (p *Pool) isFor(env *mail.Envelope) bool {
	if len(p.Users) > 0 && (env.AuthUser == "" || !slices.ContainsFunc(p.Users, func(u string) bool { return pattern.Glob(u, env.AuthUser) })) {
		return false
	}
	return len(p.From) == 0 || pattern.HasAddress(p.From, env.From)
}

// ChooseSource names the source of a message, "" if it is in no pool. It follows from the
// message's id alone: after a change of the pool only those messages have another
// that must.
func (a *Agent) ChooseSource(id string, env *mail.Envelope) string {
	for i := range a.Pools {
		if p := &a.Pools[i]; p.isFor(env) {
			return p.choose(id)
		}
	}
	return ""
}

// Sources are the names of the sources of all pools.
func (a *Agent) Sources() (names []string) {
	for _, p := range a.Pools {
		names = append(names, p.names...)
	}
	return names
}

// choose draws a source for each message by weighted rendezvous hashing: of the
// sources' draws, each of an exponential distribution with its weight as rate, the
// least wins.
func (p *Pool) choose(id string) (name string) {
	least := math.Inf(1)
	for i, n := range p.names {
		sum := sha256.Sum256([]byte(id + "\x00" + n))
		u := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53)
		if draw := -math.Log(u) / float64(max(p.Sources[i].Weight, 1)); draw < least {
			least, name = draw, n
		}
	}
	return name
}

func (a *Agent) readPool(d *caddyfile.Dispenser) error {
	var p Pool
	if !d.AllArgs(&p.Name) {
		return d.ArgErr()
	}
	line := *d
	err := caddyopt.Block(d, caddyopt.Table{
		"source": p.readSource,
		"user":   caddyopt.Strings(&p.Users),
		"from":   caddyopt.Strings(&p.From),
	})
	if err != nil {
		return err
	}
	if err := p.check(); err != nil {
		return line.Errf("pool %s: %w", p.Name, err)
	}
	a.Pools = append(a.Pools, p)
	return nil
}

func (p *Pool) readSource(d *caddyfile.Dispenser) error {
	var s PoolSource
	s.Source = d.RemainingArgs()
	if n := len(s.Source); n >= 2 && s.Source[n-2] == "weight" {
		w, err := strconv.Atoi(s.Source[n-1])
		if err != nil || w < 1 {
			return d.Errf("'%s' is not a weight of 1 or more", s.Source[n-1])
		}
		s.Source, s.Weight = s.Source[:n-2], w
	}
	if len(s.Source) == 0 {
		return d.ArgErr()
	}
	if _, err := nexthop.ParseSource(s.Source); err != nil {
		return d.WrapErr(err)
	}
	p.Sources = append(p.Sources, s)
	return nil
}
