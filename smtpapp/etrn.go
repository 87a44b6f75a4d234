package smtpapp

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// A flusher does what ETRN asks for (RFC 1985): it is how a host that is not
// always there says that it is now.
type flusher struct {
	app     *App
	domains []string // as pattern.Domains has them
	log     *zap.Logger

	mu   sync.Mutex
	last map[string]time.Time // of those that may be asked for: they are few, or asked for seldom
}

// flushEvery is how often the mail for a domain is tried because somebody asks.
const flushEvery = time.Minute

// maxFlushed bounds the domains that are remembered, where all may be asked for.
const maxFlushed = 1000

func newFlusher(a *App, domains []string, log *zap.Logger) (*flusher, error) {
	f := &flusher{app: a, domains: append([]string{}, domains...), log: log, last: map[string]time.Time{}}
	return f, pattern.Domains(f.domains)
}

var (
	errNotFlushed = mail.Refuse(459, "4.7.1", "mail for that domain is not sent on request")
	errBusy       = mail.Refuse(458, "4.3.2", "unable to queue messages for that domain now")
)

// flush has all mail for a domain tried now. It does not wait for that.
func (f *flusher) flush(domain string) *mail.Reply {
	if !pattern.HasDomain(f.domains, domain) {
		return errNotFlushed
	}
	if !f.due(domain) {
		return nil // it was just done
	}
	release, ok := f.app.lifetime.lease()
	if !ok {
		return errBusy
	}
	go func() {
		defer release()
		ctx, cancel := context.WithTimeout(f.app.lifetime.ctx, flushEvery)
		defer cancel()
		p, err := f.app.queue.Operate(ctx, queue.Operation{Deed: queue.Retry}, queue.Filter{Domain: domain}, nil)
		f.log.Info("mail asked for", zap.String("domain", domain), zap.Int("recipients", p.Recipients), zap.Error(err))
	}()
	return nil
}

// due reports whether a domain has not been asked for lately.
func (f *flusher) due(domain string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.last[domain]) < flushEvery {
		return false
	}
	for d := range f.last { // any of them, if they are too many
		if len(f.last) < maxFlushed {
			break
		}
		delete(f.last, d)
	}
	f.last[domain] = now
	return true
}
