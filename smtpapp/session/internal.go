package session

import (
	"context"
	"log/slog"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// internalUser is who a message of our own is from, to handlers that ask.
const internalUser = "MAILER-DAEMON"

// RouteTo returns the recipients that a message of our own to an address has
// by the routes of a server, each claimed by an agent, as a stranger's message
// would or as that of one of our own users. A Reply is the routes' refusal.
func RouteTo(ctx context.Context, cfg *Config, own bool, to mail.Address) ([]*mail.Recipient, error) {
	s := &Session{ID: "internal", Began: time.Now(), Hello: cfg.Hostname, ESMTP: true, internal: true, cfg: cfg, Log: cfg.Log}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if own {
		s.User, s.Method = internalUser, "INTERNAL"
	}
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
