// Package smtpapp is the Caddy app: configuration, life cycle and wiring. What
// is not of Caddy lives in the packages below it.
package smtpapp

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"go.uber.org/zap"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func init() { caddy.RegisterModule(new(App)) }

// App is a mail transfer agent: servers that receive mail, a durable queue,
// and the agents that deliver from it.
//
// Templates in its configuration know these placeholders, besides Caddy's own:
//
// Placeholder | Meaning
// ------------|--------
// `{smtp.server}` | The server's name in the configuration
// `{smtp.hostname}` | The server's hostname
// `{smtp.session.id}` | An id of the session
// `{smtp.remote.ip}`, `{smtp.remote.port}` | The client's address
// `{smtp.local.ip}`, `{smtp.local.port}` | The address it connected to
// `{smtp.helo}` | The name it gave in EHLO or HELO
// `{smtp.auth.user}`, `{smtp.auth.method}` | Who logged in, and how
// `{smtp.auth.secret}` | With which of his passwords, by its name
// `{smtp.auth.attr.<name>}` | What the credential source says about him
// `{smtp.tls.version}`, `{smtp.tls.cipher}`, `{smtp.tls.server_name}` | The TLS connection
// `{smtp.mail.from}`, `{smtp.mail.from.local}`, `{smtp.mail.from.domain}` | The reverse-path
// `{smtp.rcpt}`, `{smtp.rcpt.local}`, `{smtp.rcpt.domain}`, `{smtp.rcpt.tag}` | The recipient, as rewritten
// `{smtp.rcpt.given}` | The recipient that the client named
// `{smtp.result.<method>}` | A policy result, such as `{smtp.result.spf}`
// `{smtp.queue.id}` | The queue id, in delivery
type App struct {
	// Hostname is the name that servers greet with unless they have their own,
	// that the queue gives in EHLO, and that certificates are managed for.
	// Default: the system's host name.
	Hostname string `json:"hostname,omitempty"`

	// Postmaster is the sender of DSNs and the place where mail for
	// <postmaster> without a domain goes. Default: postmaster@hostname.
	Postmaster string `json:"postmaster,omitempty"`

	// Resolver are the DNS servers to ask, each as address or address:port.
	// Default: those of the system.
	Resolver []string `json:"resolver,omitempty"`

	// CARaw is a Caddy CA pool module: the authorities that outbound TLS
	// trusts. Default: the system's.
	CARaw json.RawMessage `json:"ca,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// Queue is where accepted mail is kept until it is delivered.
	Queue Queue `json:"queue,omitzero"`

	// Shaping says what destinations may have: how much at once, how much in what
	// time, and what their replies mean.
	Shaping Shaping `json:"shaping,omitzero"`

	// AgentsRaw are the delivery agents, by a name of your choice. Queued mail
	// keeps the name of its agent.
	AgentsRaw map[string]json.RawMessage `json:"agents,omitempty" caddy:"namespace=smtp.agents inline_key=agent"`

	// Servers are the servers to run, by a name of your choice.
	Servers map[string]*Server `json:"servers,omitempty"`

	// Connections of all servers at a time. From nine tenths of it on, clients
	// must answer within 10s, and a tenth of the errors is forgiven. Default:
	// 2000; negative: no limit. There are never more than three quarters of the
	// files that the process may have open.
	Connections int `json:"connections,omitempty"`

	// Logins bound guesses at passwords.
	Logins Logins `json:"logins,omitzero"`

	// GracePeriod is how long sessions and deliveries may go on when Caddy
	// exits. Caddy answers no other signal meanwhile, and service managers have
	// a limit of their own. Default: 5s.
	GracePeriod caddy.Duration `json:"grace_period,omitempty"`

	// DrainPeriod is how long sessions and deliveries of a configuration may go
	// on after another has replaced it. Default: 10m.
	DrainPeriod caddy.Duration `json:"drain_period,omitempty"`

	ctx      caddy.Context // ends when the configuration is replaced
	drain    caddy.Context // ends when its last session or attempt has
	log      *zap.Logger
	tls      *caddytls.TLS
	env      *env.Env
	metrics  *metrics
	agents   map[string]queue.Agent
	policy   *queue.Policy
	queue    *sharedQueue
	queueKey string
	room     int // for clients at a time
	lifetime *lifetime
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp", New: func() caddy.Module { return new(App) }}
}

// Provision sets the app up. It touches nothing outside: `caddy validate`
// provisions too, beside a live server.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.log = ctx, ctx.Logger()
	a.lifetime = newLifetime()
	if err := a.defaults(); err != nil {
		return err
	}
	tlsApp, err := ctx.App("tls")
	if err != nil {
		return err
	}
	a.tls = tlsApp.(*caddytls.TLS)
	a.metrics = registerMetrics(ctx.GetMetricsRegistry())
	if err := a.provisionEnv(); err != nil {
		return err
	}
	if err := a.Logins.provision(a); err != nil {
		return err
	}
	if err := a.provisionAgents(); err != nil {
		return err
	}
	if err := a.provisionDSNs(); err != nil {
		return err
	}
	wanted := limit(a.Connections, 2000)
	if a.room = roomFor(wanted, descriptors()); a.room < wanted {
		a.log.Warn("few files may be open, so there is less room for clients", zap.Int("connections", a.room), zap.Int("wanted", wanted))
	}
	for _, name := range a.serverNames() {
		if err := a.Servers[name].provision(a, name); err != nil {
			return fmt.Errorf("server %s: %w", name, err)
		}
	}
	rules, err := a.Shaping.rules(a.agents)
	if err != nil {
		return fmt.Errorf("shaping: %w", err)
	}
	a.policy = a.newPolicy(rules)
	return nil
}

func (a *App) serverNames() []string {
	names := make([]string, 0, len(a.Servers))
	for n := range a.Servers {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (a *App) defaults() error {
	if a.GracePeriod == 0 {
		a.GracePeriod = caddy.Duration(5 * time.Second)
	}
	if a.DrainPeriod == 0 {
		a.DrainPeriod = caddy.Duration(10 * time.Minute)
	}
	if a.Hostname == "" {
		a.Hostname = systemHostname()
	}
	repl := caddy.NewReplacer()
	var err error
	if a.Hostname, err = repl.ReplaceOrErr(a.Hostname, true, true); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if a.Hostname, err = mail.ParseDomain(a.Hostname); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if a.Postmaster == "" {
		a.Postmaster = "postmaster@" + a.Hostname
	}
	if _, err := mail.ParseAddress(a.Postmaster); err != nil {
		return fmt.Errorf("postmaster: %w", err)
	}
	return a.Queue.defaults(repl)
}

// postmaster is the address, which defaults has checked.
func (a *App) postmaster() mail.Address {
	p, _ := mail.ParseAddress(a.Postmaster)
	return p
}

// provisionEnv makes what modules share, and the drain context that they are
// loaded into: they must outlive the configuration for as long as a session
// or an attempt uses them.
func (a *App) provisionEnv() error {
	a.env = &env.Env{Hostname: a.Hostname, Metrics: a.ctx.GetMetricsRegistry(), Submit: a.submit, Listens: listens}
	if err := a.provisionEvents(); err != nil {
		return err
	}
	var servers []string
	for _, r := range a.Resolver {
		s, err := resolverAddress(r)
		if err != nil {
			return fmt.Errorf("resolver: %w", err)
		}
		servers = append(servers, s)
	}
	var err error
	if a.env.Resolver, err = dns.New(servers); err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	if len(a.CARaw) > 0 {
		mod, err := a.ctx.LoadModule(a, "CARaw")
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		p, ok := mod.(interface{ CertPool() *x509.CertPool })
		if !ok {
			return fmt.Errorf("ca: %T has no pool of certificates", mod)
		}
		a.env.Roots = p.CertPool()
	}
	parent := a.ctx
	parent.Context = env.NewContext(context.WithoutCancel(a.ctx.Context), a.env)
	drain, end := caddy.NewContext(parent)
	a.drain = drain
	a.lifetime.onEnd(end)
	return nil
}

// provisionEvents has modules emit events for as long as a session or an
// attempt of this configuration lasts: Caddy emits none on a context that ended.
func (a *App) provisionEvents() error {
	m, err := a.ctx.App("events")
	if err != nil {
		return err
	}
	ctx := a.ctx
	ctx.Context = context.WithoutCancel(a.ctx.Context)
	app := m.(*caddyevents.App)
	a.env.Events = func(name string, data map[string]any) { app.Emit(ctx, name, data) }
	return nil
}

// resolverAddress completes an address of a DNS server.
func resolverAddress(s string) (string, error) {
	s, err := caddy.NewReplacer().ReplaceOrErr(s, true, true)
	if err != nil {
		return "", err
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.String(), nil
	}
	ip, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return "", fmt.Errorf("%q is neither an IP address nor one with a port", s)
	}
	return netip.AddrPortFrom(ip, 53).String(), nil
}

// Validate refuses what can be known to fail before anything starts.
func (a *App) Validate() error {
	seen := map[string]string{}
	for _, name := range a.serverNames() {
		for _, l := range a.Servers[name].listeners {
			key := l.key()
			if prev, ok := seen[key]; ok {
				return fmt.Errorf("server %s: address %s is already that of server %s", name, l.addr.At(l.offset), prev)
			}
			seen[key] = name
		}
	}
	return nil
}

// Start opens the queue and the listeners. The queue and the sockets may be
// those of the configuration before this one, which is still running.
func (a *App) Start() error {
	a.lifetime.started()
	var err error
	if a.queue, err = acquireQueue(a); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	names := map[string]struct{}{}
	for _, name := range a.serverNames() {
		s := a.Servers[name]
		if err := s.bind(); err != nil {
			return fmt.Errorf("server %s: %w", name, err)
		}
		for _, n := range s.managedNames() {
			names[n] = struct{}{}
		}
	}
	if err := a.tls.Manage(names); err != nil {
		return fmt.Errorf("managing certificates: %w", err)
	}
	for _, m := range env.All[env.Starter](a.env) {
		if err := m.Start(); err != nil {
			return err
		}
	}
	a.Logins.start(a.ctx.Storage())
	a.queue.Attach(a.policy)
	for _, name := range a.serverNames() {
		a.Servers[name].serve()
	}
	return nil
}

// Stop stops receiving and begins no attempt any more. After a reload it
// returns at once, and what is open ends under this configuration; when Caddy
// exits it waits, for older configurations too, up to the grace period.
func (a *App) Stop() error {
	a.shutdown()
	if caddy.Exiting() {
		waitForDrains(time.Duration(a.GracePeriod))
	}
	return nil
}

// Cleanup undoes what a failed Start or a mere validation left.
func (a *App) Cleanup() error {
	if a.lifetime == nil {
		return nil // Provision was never called
	}
	a.shutdown()
	return nil
}

// shutdown begins to drain; only its first call does anything.
func (a *App) shutdown() {
	if !a.lifetime.stop() {
		return
	}
	if a.queue != nil {
		a.queue.Detach(a.policy)
	}
	a.Logins.stop()
	for _, s := range a.Servers {
		s.close(caddy.Exiting())
	}
	if !a.lifetime.hasStarted() {
		a.lifetime.end()
		return
	}
	drains.add(a)
	go a.drained()
}

// drained waits until the last lease is given back and tears down. Sessions
// that take longer than the drain period are cut off.
func (a *App) drained() {
	timer := time.AfterFunc(time.Duration(a.DrainPeriod), a.cut)
	<-a.lifetime.idle
	timer.Stop()
	a.lifetime.end()
	if a.queue != nil {
		if err := releaseQueue(a); err != nil {
			a.log.Error("closing the queue", zap.Error(err))
		}
	}
	drains.remove(a)
}

// cut ends every session at once.
func (a *App) cut() {
	n := 0
	for _, s := range a.Servers {
		n += s.cut()
	}
	if n > 0 {
		a.log.Warn("time is up, sessions were cut off", zap.Int("sessions", n))
	}
	a.lifetime.cancel(errors.New("time to finish is over"))
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
