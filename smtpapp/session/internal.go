package session

import (
	"context"
	"log/slog"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// internalUser is who a message of our own is from, to handlers that ask.
const internalUser = "MAILER-DAEMON"

// newInternal returns a session that takes a message of our own, as a stranger's
// would or as that of one of our own users.
func newInternal(cfg *Config, own bool) *Session {
	s := &Session{ID: "internal", Began: time.Now(), Hello: cfg.Hostname, ESMTP: true, internal: true, cfg: cfg, Log: cfg.Log}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if own {
		s.User, s.Method = internalUser, "INTERNAL"
	}
	return s
}

// Internal reports whether the message is one of this host's own, such as a
// report: it has no client, and rules for users do not apply to it.
func (s *Session) Internal() bool { return s.internal }

// RouteTo returns the recipients that a message of our own to an address has
// by the routes of a server, each claimed by an agent, as a stranger's message
// would or as that of one of our own users. A Reply is the routes' refusal.
func RouteTo(ctx context.Context, cfg *Config, own bool, to mail.Address) ([]*mail.Recipient, error) {
	s := newInternal(cfg, own)
	s.tx = &Transaction{ID: s.ID, Session: s, Envelope: new(mail.Envelope), Began: s.Began}
	cs, err := s.claim(ctx, mail.NewRecipient(to))
	if err != nil {
		return nil, err
	}
	rs := make([]*mail.Recipient, 0, len(cs))
	for _, c := range cs {
		if c.r.Agent != "" {
			rs = append(rs, c.r)
		}
	}
	return rs, nil
}

// Submit sends a message of our own by the routes of a server as one of our own
// users would, from RCPT on: it is signed and queued like theirs. A Reply is the
// routes' refusal. A handler that panics is a fault that may pass.
func Submit(ctx context.Context, cfg *Config, from, to mail.Address, m *message.Message) error {
	s := newInternal(cfg, true)
	env := &mail.Envelope{From: from, Server: cfg.Server, AuthUser: internalUser, Body: mail.Body7Bit, Final: from.IsNull()}
	s.tx = &Transaction{ID: cfg.NewID(), Session: s, Envelope: env, Began: s.Began, dns: dns.NewBudget(dnsTime), ends: new([]func(bool))}
	s.engine = engine{decided: map[*mail.Recipient]decisions{}}
	ctx = dns.WithBudget(ctx, s.tx.dns)
	r := s.guarded(func() *mail.Reply {
		if err := s.stageRcpt(ctx, mail.NewRecipient(to)); err != nil {
			return mail.ReplyFor(err)
		}
		return s.stageMessage(ctx, m)
	})
	if r.Code/100 != 2 {
		return r
	}
	return nil
}
