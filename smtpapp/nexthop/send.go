package nexthop

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
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
}

// Send makes one attempt to hand a message for rcpts to the first host that
// takes it. It returns a status for each recipient, in order.
func (s *Sender) Send(ctx context.Context, d *queue.Delivery, rcpts []*mail.Recipient, hosts []Host) []queue.Status {
	a := &attempt{s: s, d: d, rcpts: rcpts, statuses: make([]queue.Status, len(rcpts)), policy: s.TLS}
	if d.Envelope.RequireTLS && a.policy.Mode != TLSImplicit { // RFC 8689
		a.policy.Mode, a.policy.Unverified = TLSRequired, false
	}
	for i := range rcpts {
		a.open = append(a.open, i)
	}
	a.run(ctx, hosts)
	return a.statuses
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

	addresses, sessions int
	last                *trouble // what speaks for the open ones
}

// run tries the hosts, each address of each, until all recipients are settled.
func (a *attempt) run(ctx context.Context, hosts []Host) {
	for _, h := range hosts {
		addrs, err := addresses(ctx, a.s.Resolver, h)
		if err != nil {
			a.note(h, "", judgeLookup(err))
			continue
		}
		for _, addr := range addrs {
			if a.addresses == maxAddresses || a.sessions == maxSessions || ctx.Err() != nil {
				a.conclude()
				return
			}
			a.addresses++
			a.try(ctx, h, addr)
			if len(a.open) == 0 {
				return
			}
		}
	}
	a.conclude()
}

// conclude settles those whom no host settled.
func (a *attempt) conclude() {
	t := a.last
	if t == nil { // called off before anything was tried
		t = &trouble{reply: mail.Refuse(451, "4.3.2", "the attempt was called off")}
	}
	if a.s.Own {
		t.reply = temporary(t.reply)
	}
	for _, i := range a.open {
		a.statuses[i] = t.status()
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
	a.last = worse(a.last, t.of(h))
}

// try talks to one address. A connection that was kept may have gone dead
// meanwhile, which says nothing about the host: then there is a new one.
func (a *attempt) try(ctx context.Context, h Host, addr string) {
	key := a.s.key(a.policy, h, addr)
	if k := a.s.Pool.take(key); k != nil {
		t := a.converse(ctx, h, key, k)
		if t == nil || !t.untouched {
			a.spoke(h, addr, t)
			return
		}
	}
	k, err := a.s.open(ctx, a.policy, h, addr)
	if err != nil {
		a.note(h, addr, judgeError(err))
		return
	}
	a.spoke(h, addr, a.converse(ctx, h, key, k))
}

// spoke counts a session, and notes what it left to do.
func (a *attempt) spoke(h Host, addr string, t *trouble) {
	a.sessions++
	if t != nil {
		a.note(h, addr, t)
	}
}

// key is what connections must have in common to stand in for one another.
func (s *Sender) key(policy TLS, h Host, addr string) string {
	return strings.Join([]string{h.network, addr, h.Name, string(policy.Mode)}, "|")
}

// converse has as many transactions as it takes, and returns the trouble that
// leaves recipients open.
func (a *attempt) converse(ctx context.Context, h Host, key string, k *kept) *trouble {
	for len(a.open) > 0 && k.conn.Usable() {
		batch := a.open
		if n, ok := k.conn.Extensions().Limit("RCPTMAX"); ok {
			batch = batch[:min(n, len(batch))]
		}
		if t := a.transact(ctx, h, k.conn, batch); t != nil {
			a.s.Pool.quit(k.conn)
			return t
		}
	}
	a.s.Pool.give(key, k)
	if len(a.open) > 0 { // the peer had enough of us; the rest is for later
		enough := mail.Refuse(451, "4.5.3", "mail host takes no more recipients now")
		return &trouble{scope: ofHost, reply: enough, cause: enough}
	}
	return nil
}

// transact has one transaction for the recipients of batch.
func (a *attempt) transact(ctx context.Context, h Host, c *client.Conn, batch []int) *trouble {
	tx := &client.Transaction{Envelope: a.d.Envelope, Content: a.d.Content}
	for _, i := range batch {
		tx.Recipients = append(tx.Recipients, a.rcpts[i])
	}
	results, err := c.Send(ctx, tx)
	silence := judgeError(cmp.Or(err, error(errNoWord))) // for those without a reply
	accepted := slices.ContainsFunc(results, client.Result.Accepted)
	var left []int
	var next *trouble
	for n, r := range results {
		i, t := batch[n], silence
		switch {
		case r.Accepted():
			a.statuses[i] = queue.Status{Action: a.s.Done, Reply: r.Reply, RemoteMTA: h.Name}
			continue
		case accepted && tooMany(r):
			left = append(left, i)
			continue
		case r.Reply != nil:
			t = judgeResult(r)
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

// blame settles a recipient whom no other host would help.
func (a *attempt) blame(i int, h Host, t *trouble) {
	if t.inDoubt || t.ours {
		a.d.Log.Warn("message not sent", "host", h.String(), "to", a.rcpts[i].Address.String(), "error", t.cause)
	}
	a.statuses[i] = t.of(h).status()
}
