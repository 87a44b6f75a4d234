package nexthop

import (
	"strconv"

	"github.com/caddymail/caddy-smtp/smtpapp/client"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// batch is whom the next transaction on a connection is for: as many of those
// who are left as the peer takes (RFC 9422), none if it takes nobody more here.
func (a *attempt) batch(k *kept) []int {
	ext := k.conn.Extensions()
	batch := a.open
	if n, ok := ext.Limit("RCPTMAX"); ok {
		batch = batch[:min(n, len(batch))]
	}
	if n, ok := ext.Limit("RCPTDOMAINMAX"); ok {
		batch = batch[:k.domains(a, batch, n)]
	}
	for n, i := range batch {
		if !a.tunnelled(ext, i) {
			continue
		}
		return batch[:max(n, 1)] // its field is for nobody else to see
	}
	return batch
}

// domains is how many of a batch have domains that are among the most that the
// peer takes on one connection, and notes them.
func (k *kept) domains(a *attempt, batch []int, most int) int {
	if k.to == nil {
		k.to = map[string]bool{}
	}
	for n, i := range batch {
		d := a.rcpts[i].Address.Domain
		if !k.to[d] && len(k.to) >= most {
			return n
		}
		k.to[d] = true
	}
	return len(batch)
}

// tunnelled reports whether a recipient's demand for its owner goes to the peer
// as a header field (RFC 7293, section 5.2). Who rather has the message fail has
// the client refuse it.
func (a *attempt) tunnelled(ext client.Extensions, i int) bool {
	r := a.rcpts[i]
	return !r.RRVS.IsZero() && !r.RRVSReject && !ext.Has("RRVS")
}

// Fields by which what the peer does not know comes to hosts behind it.
const (
	fieldPriority = "MT-Priority"                   // RFC 6758
	fieldOwner    = "Require-Recipient-Valid-Since" // RFC 7293, section 3.2
)

// carried is the content as a peer gets it in a transaction for batch.
func (a *attempt) carried(ext client.Extensions, batch []int) *message.Message {
	m := a.d.Content
	env := a.d.Envelope
	if a.s.TunnelPriority && !ext.Has("MT-PRIORITY") {
		m = m.Fork()
		was := m.Header.Remove(fieldPriority)
		if env.Prioritized || was > 0 { // RFC 6758, section 3.3
			m.Header.Prepend(fieldPriority, strconv.Itoa(env.Priority))
		}
	}
	if len(batch) == 1 && a.tunnelled(ext, batch[0]) {
		r := a.rcpts[batch[0]]
		m = m.Fork()
		m.Header.Prepend(fieldOwner, r.Address.String()+"; "+r.RRVS.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	}
	return m
}
