package nexthop

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// probeTimeout bounds a probe. Somebody waits for the reply to RCPT.
const probeTimeout = 10 * time.Second

var errOddPath = mail.Refuse(553, "5.1.3", "recipient address has a control character")

// Probe asks the hosts, best first, whether they take mail for an address:
// MAIL from the null reverse-path, RCPT, RSET. No mail is sent. It takes no
// longer than ten seconds, and connections are the pool's.
//
// It returns nil if a host does, the host's Reply without its text if it says
// no, for now or for good, and otherwise a temporary Reply of ours: nobody
// could tell.
func (s *Sender) Probe(ctx context.Context, to mail.Address, hosts []Host) error {
	if strings.ContainsAny(to.Local, "\r\n\x00") {
		return errOddPath
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	t := s.ask(ctx, to, hosts)
	switch {
	case t == nil:
		return nil
	case t.scope == ofRecipient:
		return t.reply
	}
	return unsaid(t)
}

// ask asks the hosts, each address of each, until one has an answer.
func (s *Sender) ask(ctx context.Context, to mail.Address, hosts []Host) *trouble {
	var last *trouble
	n := 0
	for _, h := range hosts {
		addrs, err := addresses(ctx, s.Resolver, h)
		if err != nil {
			last = worse(last, s.unasked(h, judgeLookup(err)))
			continue
		}
		for _, addr := range addrs {
			if n++; n > maxAddresses || ctx.Err() != nil {
				break
			}
			t := s.askAt(ctx, to, h, addr)
			if t == nil || t.scope == ofRecipient {
				return t
			}
			last = worse(last, s.unasked(h, t))
		}
	}
	if last == nil { // called off before anybody was asked
		last = &trouble{reply: mail.Refuse(451, "4.3.2", "the attempt was called off")}
	}
	return last
}

// unasked logs that a host could not tell.
func (s *Sender) unasked(h Host, t *trouble) *trouble {
	level := slog.LevelDebug
	if s.Own {
		level = slog.LevelWarn
	}
	s.Log.Log(context.Background(), level, "cannot ask who exists", "host", h.String(), "error", t.cause)
	return t
}

// askAt asks at one address. RSET tells whether a connection that was kept is
// still good.
func (s *Sender) askAt(ctx context.Context, to mail.Address, h Host, addr string) *trouble {
	key := s.key(s.TLS, h, addr)
	if k := s.Pool.take(key); k != nil {
		if k.conn.Reset(ctx) == nil {
			return s.askOn(ctx, to, key, k)
		}
		s.Pool.quit(k.conn)
	}
	k, err := s.open(ctx, s.TLS, h, addr)
	if err != nil {
		return judgeError(err)
	}
	return s.askOn(ctx, to, key, k)
}

// askOn asks on a connection and gives it back.
func (s *Sender) askOn(ctx context.Context, to mail.Address, key string, k *kept) *trouble {
	r, err := k.conn.Ask(ctx, to)
	if err != nil {
		_ = k.conn.Close()
		return judgeError(err)
	}
	if !r.Local {
		r.Reply = &mail.Reply{Code: r.Reply.Code, Enh: r.Reply.Enh}
	}
	s.Log.Debug("asked who exists", "to", to.String(), "phase", r.Phase, "reply", r.Reply.Error())
	_, limited := k.conn.Extensions().Limit("MAILMAX") // which the client counts, without us
	_, domains := k.conn.Extensions().Limit("RCPTDOMAINMAX")
	if r.Reply.Code == 421 || limited || domains || k.conn.Reset(ctx) != nil || ctx.Err() != nil {
		_ = k.conn.Close()
	}
	s.Pool.give(key, k, nil)
	if r.Reply.Code/100 == 2 {
		return nil
	}
	return judgeProbe(r)
}
