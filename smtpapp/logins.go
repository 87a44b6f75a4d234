package smtpapp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/guard"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// Logins bound guesses at passwords. They count for all servers together, and
// outlive reloads. A login that fails within its budgets is answered late; one
// that is over a budget of its address or network is not looked at, and has that
// banned for a while; one that is over the budget of its user is not looked at
// unless he has logged in from that network (an IPv4 /24, an IPv6 /56) within the
// last 30 days. Where he has, a budget of his own is all that counts: nobody can
// lock him out of there by guessing from elsewhere, nor from the next desk.
//
// Bans are listed and lifted through the admin API and by `caddy smtp bans`. The
// events smtp_login_failed, smtp_login_limited and smtp_login_banned tell of what
// happens.
type Logins struct {
	// Address is the budget of an IPv4 address or an IPv6 /64. Default: 10
	// failures in a minute, 50 in a day.
	Address Budget `json:"address,omitzero"`

	// Subnet is that of an IPv4 /26 or an IPv6 /56. Default: 30 and 150.
	Subnet Budget `json:"subnet,omitzero"`

	// Network is that of an IPv4 /21 or an IPv6 /48. Default: 90 and 450.
	Network Budget `json:"network,omitzero"`

	// User is that of a user from wherever he is not known, and once more of each
	// network where he is. Default: 20 and 200.
	User Budget `json:"user,omitzero"`

	// Delay is how late the first failure is answered, at least: a session has
	// a second of its own. It doubles with each further tenth of a budget that is
	// used. Default: 1s.
	Delay caddy.Duration `json:"delay,omitempty"`

	// MaxDelay is the longest. Default: 10s.
	MaxDelay caddy.Duration `json:"max_delay,omitempty"`

	// Ban is how long the first ban lasts; each further one within a day of the
	// last takes twice as long. Negative: nobody is banned. Default: 5m.
	Ban caddy.Duration `json:"ban,omitempty"`

	// MaxBan is the longest. Default: 24h.
	MaxBan caddy.Duration `json:"max_ban,omitempty"`

	// Exempt are addresses and networks that are never banned, such as that of a
	// webmail server, from which all users come: there each user has a budget of
	// his own. Clients on unix sockets are exempt too. Default: the loopback
	// addresses; "none": only unix sockets.
	Exempt []string `json:"exempt,omitempty"`

	// Local keeps bans to this node. Otherwise they are shared with all that use
	// the same Caddy storage. Default: false.
	Local bool `json:"local,omitempty"`

	policy guard.Policy
	env    *env.Env
	log    *slog.Logger
	end    context.CancelFunc
	ended  chan struct{}
}

// Budget is how many failed logins are looked at within a time. Zero is the
// default, a negative number no limit.
type Budget struct {
	// Minute is the number of failures within a minute.
	Minute int `json:"minute,omitempty"`
	// Day is the number of failures within a day.
	Day int `json:"day,omitempty"`
}

func (b Budget) or(minute, day int) guard.Budget {
	return guard.Budget{Minute: limit(b.Minute, minute), Day: limit(b.Day, day)}
}

// theGuard is of the process.
var theGuard = sync.OnceValue(guard.New)

func (l *Logins) provision(a *App) error {
	l.env, l.log = a.env, plainlog.New(a.ctx.Slogger())
	p := guard.Policy{
		Address: l.Address.or(10, 50), Subnet: l.Subnet.or(30, 150), Network: l.Network.or(90, 450), User: l.User.or(20, 200),
		Delay: time.Duration(cmp.Or(l.Delay, caddy.Duration(time.Second))), MaxDelay: time.Duration(cmp.Or(l.MaxDelay, caddy.Duration(10*time.Second))),
		Ban: time.Duration(limit(int64(l.Ban), int64(5*time.Minute))), MaxBan: time.Duration(cmp.Or(l.MaxBan, caddy.Duration(24*time.Hour))),
	}
	if p.Delay < 0 || p.MaxDelay < p.Delay || p.MaxBan < p.Ban {
		return errors.New("logins: the longest is less than the first")
	}
	var err error
	if p.Exempt, err = exemptions(l.Exempt); err != nil {
		return fmt.Errorf("logins: exempt: %w", err)
	}
	l.policy = p
	m := theLoginMetrics()
	return a.env.Register(m.failed, m.limited, m.refused, m.banned, m.bans)
}

// exemptions reads who is exempt from a limit of addresses.
func exemptions(words []string) (pattern.Networks, error) {
	switch {
	case len(words) == 0:
		return pattern.ParseNetworks([]string{"127.0.0.0/8", "::1"})
	case slices.Equal(words, []string{"none"}):
		return nil, nil
	}
	return pattern.ParseNetworks(words)
}

// start shares bans through the storage of the configuration.
func (l *Logins) start(st guard.Storage) {
	if l.Local {
		return
	}
	var ctx context.Context
	ctx, l.end = context.WithCancel(context.Background())
	l.ended = make(chan struct{})
	go func() {
		defer close(l.ended)
		theGuard().Share(ctx, st, l.policy.MaxBan, l.log)
	}()
}

// stop ends that. A storage that does not listen to its context keeps nothing up.
func (l *Logins) stop() {
	if l.end == nil {
		return
	}
	l.end()
	select {
	case <-l.ended:
	case <-time.After(time.Second):
		l.log.Warn("storage takes long; bans may not have been shared")
	}
}

// loginMetrics are of the process, as all are.
type loginMetrics struct {
	failed, limited, refused, banned *prometheus.CounterVec
	bans                             prometheus.GaugeFunc
}

var theLoginMetrics = sync.OnceValue(func() *loginMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "smtp", Name: name, Help: help}, labels)
	}
	return &loginMetrics{
		failed:  counter("logins_failed_total", "Logins with a wrong secret.", "server", "mechanism"),
		limited: counter("logins_limited_total", "Logins that were not looked at since there were too many failures, by what the budget is for.", "server", "scope"),
		refused: counter("banned_connections_total", "Connections that were refused since their address is banned.", "server"),
		banned:  counter("login_bans_total", "Bans that this node has made, by what was banned.", "scope"),
		bans: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "caddy", Subsystem: "smtp", Name: "login_bans", Help: "Bans in force."},
			func() float64 { return float64(len(theGuard().Bans())) }),
	}
})

// A watch is session.Guard for one server.
type watch struct {
	*Logins
	*loginMetrics
	server string
	closes bool // the door, to those who are banned
}

var (
	errBanned   = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many failed logins from your network, try again later", Close: true}
	errTooOften = mail.Refuse(454, "4.7.0", "too many failed logins, try again later")
)

// Admit refuses an address that is banned.
func (w *watch) Admit(s *session.Session) *mail.Reply {
	if !w.closes || !theGuard().Banned(&w.policy, s.RemoteIP()) {
		return nil
	}
	w.refused.WithLabelValues(w.server).Inc()
	return errBanned
}

// Attempt lets a login be looked at, or not. One over the budget of its user is
// told to come again, since it may be he himself, in a hotel; it would lose his
// right password if it were told that it is wrong. It waits for that as long as
// for any other answer.
func (w *watch) Attempt(ctx context.Context, s *session.Session, user string) (func(session.Outcome) time.Duration, error) {
	a, no := theGuard().Begin(ctx, &w.policy, s.RemoteIP(), user)
	if no == nil {
		return func(o session.Outcome) time.Duration { return w.settle(s, a, o) }, nil
	}
	w.overBudget(s, no)
	if no.Scope < guard.User && (no.Banned || w.policy.Ban > 0) {
		return nil, errBanned
	}
	select {
	case <-ctx.Done():
	case <-time.After(w.policy.MaxDelay):
	}
	return nil, errTooOften
}

func (w *watch) settle(s *session.Session, a *guard.Attempt, o session.Outcome) time.Duration {
	verdict := map[session.Verdict]guard.Verdict{session.Wrong: guard.Wrong, session.Right: guard.Right}[o.Verdict]
	delay, bans := a.End(verdict, o.User)
	if verdict == guard.Wrong {
		w.failed.WithLabelValues(w.server, o.Mechanism).Inc()
		w.emit(s, "smtp_login_failed", map[string]any{"mechanism": o.Mechanism, "user": o.User})
		w.tell(s, bans)
	}
	return delay
}

func (w *watch) overBudget(s *session.Session, no *guard.Refusal) {
	w.limited.WithLabelValues(w.server, no.Scope.String()).Inc()
	if !no.Again {
		s.Log.Warn("too many failed logins", "scope", no.Scope.String(), "user", no.User, "banned", no.Banned)
		w.emit(s, "smtp_login_limited", map[string]any{"scope": no.Scope.String(), "user": no.User})
	}
	w.tell(s, no.Bans)
}

func (w *watch) tell(s *session.Session, bans []guard.Ban) {
	for _, b := range bans {
		w.banned.WithLabelValues(b.Scope).Inc()
		s.Log.Warn("banned for failed logins", "network", b.Network.String(), "until", b.Until, "strikes", b.Strikes)
		w.emit(s, "smtp_login_banned", map[string]any{
			"network": b.Network.String(), "scope": b.Scope, "until": b.Until, "strikes": b.Strikes,
		})
	}
}

func (w *watch) emit(s *session.Session, name string, data map[string]any) {
	data["server"], data["session"], data["remote"] = w.server, s.ID, addrText(s.RemoteIP())
	w.env.Emit(name, data)
}

func addrText(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

// loginsOf says whether a server's handlers offer logins, and whether one of them
// wants none.
func loginsOf(routes []session.Route) (offered, optional bool) {
	for _, r := range routes {
		for _, h := range r.Handlers {
			o, opt := loginsOf(h.Routes)
			offered, optional = offered || o, optional || opt
			if _, ok := h.Module.(session.AuthHandler); ok {
				offered = true
				l, ok := h.Module.(interface{ LoginOptional() bool })
				optional = optional || !ok || l.LoginOptional()
			}
		}
	}
	return offered, optional
}
