package nexthop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/convert"
	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// A Sender hands mail to hosts under one policy. It is not changed once it is
// in use.
type Sender struct {
	Client   client.Options
	Resolver dns.Resolver
	TLS      TLS
	Auth     *client.Credentials // nil for no login
	Pool     *Pool
	Log      *slog.Logger

	// Done is what a recipient is that the peer took: queue.Relayed, or
	// queue.Delivered if the peer is the last.
	Done queue.Action

	// Own says that the hosts are of our own choice. What they have against us,
	// not against a message, can be put right and is no reason for a DSN.
	Own bool

	// TunnelPriority has messages with a priority carry it in a header field to
	// hosts that do not know MT-PRIORITY (RFC 6758).
	TunnelPriority bool

	// NoConvert returns messages that a host cannot take as they are, in the
	// place of converting them.
	NoConvert bool

	// Addresses is how many addresses an attempt dials, and Sessions how many of
	// those that come beyond EHLO it makes use of; zero for 5 and 2. Whoever is not
	// reached by then is tried later.
	Addresses, Sessions int

	source Source // see From
}

// Send makes one attempt to hand a message for rcpts to the first host that
// takes it. It returns a status for each recipient, in order.
func (s *Sender) Send(ctx context.Context, d *queue.Delivery, rcpts []*mail.Recipient, hosts []Host) []queue.Status {
	a := &attempt{s: s.counted(d.Rule), d: d, rcpts: rcpts, statuses: make([]queue.Status, len(rcpts)), policy: s.TLS}
	if d.Envelope.RequireTLS && s.Done == queue.Relayed { // RFC 8689; delivery to the mailbox is not its business
		if refused := a.requireTLS(hosts); refused != nil {
			return refused
		}
	}
	for i := range rcpts {
		a.open = append(a.open, i)
	}
	a.run(ctx, hosts)
	return a.statuses
}

// requireTLS raises the policy to what REQUIRETLS demands: a certificate, for a
// name that nobody on the way could have changed. What comes out of DNS is not
// such a name unless DNSSEC or MTA-STS vouch for it (RFC 8689, section 4.2.1),
// which nothing here does; there the message fails.
func (a *attempt) requireTLS(hosts []Host) []queue.Status {
	if slices.ContainsFunc(hosts, func(h Host) bool { return !h.chosen }) {
		return Refuse(mail.Refuse(550, "5.7.30", "REQUIRETLS: the name of the mail host cannot be trusted"), len(a.rcpts))
	}
	if a.policy.Mode != TLSImplicit {
		a.policy.Mode = TLSRequired
	}
	a.policy.Unverified = false
	return nil
}

// Refuse returns the statuses of recipients for whom no host can be tried.
func Refuse(reply *mail.Reply, n int) []queue.Status {
	statuses := make([]queue.Status, n)
	for i := range statuses {
		statuses[i] = (&trouble{reply: reply}).status()
	}
	return statuses
}

// attempt is an attempt under way.
type attempt struct {
	s      *Sender
	d      *queue.Delivery
	policy TLS

	rcpts    []*mail.Recipient
	statuses []queue.Status
	open     []int // recipients of whom nothing is known yet

	fittings            map[convert.Target]fitting
	addresses, sessions int
	reached             bool     // somebody has spoken SMTP
	looped              bool     // a host was ourselves
	last                *trouble // what speaks for the open ones

	aside  []int            // those for whom the host at hand lacks something
	lacked map[int]*trouble // what hosts so far have lacked for a recipient, or had against him
}

// spent reports whether no more may be tried.
func (a *attempt) spent(ctx context.Context) bool {
	return a.addresses >= cmp.Or(a.s.Addresses, maxAddresses) || a.sessions >= cmp.Or(a.s.Sessions, maxSessions) || ctx.Err() != nil
}

// run tries the hosts, the addresses of each in a race, until all recipients are
// settled.
func (a *attempt) run(ctx context.Context, hosts []Host) {
	for group := range groups(hosts) {
		places := a.places(ctx, group)
		if i := slices.IndexFunc(places, func(p place) bool { return p.ours }); i >= 0 {
			a.note(group[i], "", judgeError(errSelf))
			break
		}
		for i, h := range group {
			if err := places[i].err; err != nil {
				a.note(h, "", judgeLookup(err))
			} else if !a.host(ctx, h, interleave(a.s.source.within(places[i].addrs))) {
				a.conclude()
				return
			}
		}
	}
	a.conclude()
}

// host tries the addresses of a host. It reports whether another host is to be
// tried.
func (a *attempt) host(ctx context.Context, h Host, addrs []string) bool {
	addrs = a.again(ctx, h, addrs)
	for len(a.open) > 0 && len(addrs) > 0 && !a.looped {
		if a.spent(ctx) {
			return false
		}
		some := addrs[:min(len(addrs), cmp.Or(a.s.Addresses, maxAddresses)-a.addresses)]
		won, conn, n, failed := a.s.race(ctx, h.network, some)
		a.addresses += n
		var left []string // those that were not dialled, or were beaten
		for i, addr := range addrs {
			if err := failed[i]; err != nil {
				a.note(h, addr, judgeError(err))
			} else if i != won {
				left = append(left, addr)
			}
		}
		addrs = left
		if won >= 0 {
			a.addresses -= n - 1 - len(failed) // who was beaten has not failed
			a.try(ctx, h, some[won], conn)
		}
	}
	a.open, a.aside = append(a.aside, a.open...), nil
	return len(a.open) > 0 && !a.looped
}

// again uses connections that were kept. One may have gone dead meanwhile, which
// says nothing about the host: its address is still to be tried. It returns which
// are.
func (a *attempt) again(ctx context.Context, h Host, addrs []string) (left []string) {
	for i, addr := range addrs {
		if a.spent(ctx) || len(a.open) == 0 {
			return append(left, addrs[i:]...)
		}
		key := a.s.key(a.policy, h, addr)
		k := a.s.Pool.take(key)
		if k == nil {
			left = append(left, addr)
			continue
		}
		if t := a.converse(ctx, h, key, k); t != nil && t.untouched {
			left = append(left, addr)
		} else {
			a.addresses++
			a.spoke(h, addr, t)
		}
	}
	return left
}

// conclude settles those whom no host settled.
func (a *attempt) conclude() {
	last := a.last
	if last == nil { // called off before anything was tried
		last = &trouble{reply: mail.Refuse(451, "4.3.2", "the attempt was called off")}
	}
	for _, i := range a.open {
		t := last
		if l := a.lacked[i]; l != nil && (a.last == nil || worse(last, l) == l) {
			t = l
		}
		s := t.status()
		if a.s.Own && !t.lacking && !t.elsewhere {
			s = t.temporary()
		}
		s.Unreachable = s.Unreachable && !a.reached
		a.statuses[i] = s
	}
	a.open = nil
}

// note remembers a trouble that other hosts may not have.
func (a *attempt) note(h Host, addr string, t *trouble) {
	level := slog.LevelDebug
	if t.ours {
		level = slog.LevelWarn
	}
	a.d.Log.Log(context.Background(), level, "mail host failed", "host", h.String(), "address", addr, "error", t.cause)
	a.last, a.looped = worse(a.last, t.of(h)), a.looped || t.self
}

// try talks to one address, to which there is a connection.
func (a *attempt) try(ctx context.Context, h Host, addr string, conn net.Conn) {
	key := a.s.key(a.policy, h, addr)
	s := a.s.with(conn)
	for n := 0; n < maxConnections; n++ {
		k, err := s.open(ctx, a.policy, h, addr)
		if err != nil {
			a.note(h, addr, judgeError(err))
			return
		}
		before := len(a.open)
		t := a.converse(ctx, h, key, k)
		a.spoke(h, addr, t)
		if t == nil || !t.usedUp || len(a.open) == before {
			return
		}
	}
}

// spoke counts a session, and notes what it left to do. One in which there was
// nothing to say, as the host lacks what it takes, does not count.
func (a *attempt) spoke(h Host, addr string, t *trouble) {
	a.reached = true
	if t != nil || len(a.aside) == 0 {
		a.sessions++
	}
	if t != nil {
		a.note(h, addr, t)
	}
}

// key is what connections must have in common to stand in for one another.
func (s *Sender) key(policy TLS, h Host, addr string) string {
	return strings.Join([]string{h.network, addr, h.Name, string(policy.Mode), fmt.Sprint(s.source)}, "|")
}

// converse has as many transactions as it takes, and returns the trouble that
// leaves recipients open.
func (a *attempt) converse(ctx context.Context, h Host, key string, k *kept) *trouble {
	for len(a.open) > 0 && k.conn.Usable() {
		batch := a.batch(k)
		if len(batch) == 0 {
			break
		}
		if t := a.transact(ctx, h, k.conn, batch); t != nil {
			a.s.Pool.quit(k.conn)
			return t
		}
	}
	if len(a.open) == 0 {
		a.s.Pool.give(key, k, a.d.Rule)
		return nil
	}
	// The peer had enough of us, which says nothing about the next connection.
	a.s.Pool.quit(k.conn)
	enough := mail.Refuse(451, "4.5.3", "mail host takes no more recipients now")
	return &trouble{scope: ofHost, reply: enough, cause: enough, untouched: true, usedUp: true}
}

// transact has one transaction for the recipients of batch.
func (a *attempt) transact(ctx context.Context, h Host, c *client.Conn, batch []int) *trouble {
	ext := c.Extensions()
	results, err := a.send(ctx, c, batch)
	silence := judgeError(cmp.Or(err, error(errNoWord))) // for those without a reply
	accepted := slices.ContainsFunc(results, client.Result.Accepted)
	var left []int
	var next *trouble
	for n, r := range results {
		i, t := batch[n], silence
		switch {
		case r.Accepted():
			a.statuses[i] = queue.Status{
				Action: a.s.Done, Reply: r.Reply, RemoteMTA: h.Name, Notifies: ext.Has("DSN"), KeepsTime: ext.Has("DELIVERBY"),
			}
			continue
		case accepted && tooMany(r):
			left = append(left, i)
			continue
		case r.Reply != nil:
			t = judgeResult(r)
		}
		if t.lacking || a.elsewhere(t) {
			a.lack(i, h, t)
			continue
		}
		if t.nextHost() {
			left, next = append(left, i), t
			continue
		}
		a.blame(i, h, t)
	}
	a.open = append(left, a.open[len(batch):]...)
	return next
}

// elsewhere reports whether another host is asked as a rule has it so, whatever a
// reply is about.
func (a *attempt) elsewhere(t *trouble) bool {
	r := a.d.Rule.Reading(t.reply)
	t.elsewhere = r != nil && r.Elsewhere && !t.nextHost() && !t.inDoubt && !t.ours
	return t.elsewhere
}

// lack sets a recipient aside for whom a host lacks something, or who may do better
// elsewhere.
func (a *attempt) lack(i int, h Host, t *trouble) {
	a.d.Log.Debug("another mail host may do better", "host", h.String(), "to", a.rcpts[i].Address.String(), "error", t.cause)
	if a.lacked == nil {
		a.lacked = map[int]*trouble{}
	}
	a.lacked[i] = worse(a.lacked[i], t.of(h))
	a.aside = append(a.aside, i)
}

// send has the client say it, after the message was made to fit.
func (a *attempt) send(ctx context.Context, c *client.Conn, batch []int) ([]client.Result, error) {
	env, content, err := a.fit(c.Extensions(), a.carried(c.Extensions(), batch))
	if err != nil {
		results := make([]client.Result, len(batch))
		if r, ok := errors.AsType[*mail.Reply](err); ok {
			for i := range results {
				results[i] = client.Result{Reply: r, Phase: client.PhaseMail, Local: true}
			}
		}
		return results, err
	}
	tx := &client.Transaction{Envelope: env, Content: content}
	for _, i := range batch {
		tx.Recipients = append(tx.Recipients, a.rcpts[i])
	}
	tx.Taken = func(indices []int) {
		var rs []*mail.Recipient
		for _, n := range indices {
			rs = append(rs, tx.Recipients[n])
		}
		a.d.Took(rs...)
	}
	return c.Send(ctx, tx)
}

// blame settles a recipient whom no other host would help.
func (a *attempt) blame(i int, h Host, t *trouble) {
	if t.inDoubt || t.ours {
		a.d.Log.Warn("message not sent", "host", h.String(), "to", a.rcpts[i].Address.String(), "error", t.cause)
	}
	a.statuses[i] = t.of(h).status()
}
