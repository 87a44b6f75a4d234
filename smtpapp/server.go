package smtpapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddymail/caddy-smtp/smtpapp/admission"
	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/pattern"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// Server is one SMTP server: addresses that share a configuration.
type Server struct {
	// Listen are the addresses to listen on, in Caddy's notation; the default
	// port is 25, or 24 for LMTP. Clients of port 465 begin with TLS, all others may ask for
	// it with STARTTLS.
	Listen []string `json:"listen,omitempty"`

	// ListenTLS are further addresses whose clients begin with TLS, whatever
	// the port. The default port is 465.
	ListenTLS []string `json:"listen_tls,omitempty"`

	// ListenerWrappersRaw are Caddy listener wrappers, such as proxy_protocol
	// to learn the client's address from a proxy in front. They see the
	// connection before TLS.
	ListenerWrappersRaw []json.RawMessage `json:"listener_wrappers,omitempty" caddy:"namespace=caddy.listeners inline_key=wrapper"`

	// Hostname is the name that the server greets with. Default: the app's.
	Hostname string `json:"hostname,omitempty"`

	// AuthservID is what the server calls itself in Authentication-Results
	// (RFC 8601, section 2.5), such as one name that several hosts share.
	// Fields from outside under this name or the hostname are removed. Default:
	// the hostname.
	AuthservID string `json:"authserv_id,omitempty"`

	// TLS says where certificates come from. Default: they are managed for the
	// hostname as Caddy does for a site of that name.
	TLS *TLS `json:"tls,omitempty"`

	// LMTP has the server speak LMTP (RFC 2033) in the place of SMTP: for an MTA
	// in front, on this host or in its network, which hears for each recipient
	// what came of a message. The default port is then 24; 25 is not allowed.
	// Default: false.
	LMTP bool `json:"lmtp,omitempty"`

	// ETRN are domains whose waiting mail any client may ask to be sent now, by
	// ETRN (RFC 1985), once a minute: hosts that are not always connected.
	// "*.example.org" is every domain below example.org. Default: none.
	ETRN []string `json:"etrn,omitempty"`

	// FutureRelease is how long users who logged in may have their mail held
	// before it is delivered (RFC 4865); negative: not at all. Default: 30d.
	FutureRelease caddy.Duration `json:"future_release,omitempty"`

	Extensions

	// StrictNewlines refuses content with a LF that has no CR before it. Such
	// lines are otherwise mended, as many clients send some; they never end
	// content either way. Default: false.
	StrictNewlines bool `json:"strict_newlines,omitempty"`

	// BareLF takes commands that end in a LF without a CR, of devices that know
	// no better. Content ends in CRLF.CRLF all the same. Default: false.
	BareLF bool `json:"bare_lf,omitempty"`

	// PlaintextAuth offers AUTH without TLS too. Passwords can then be read on
	// the way. Default: false.
	PlaintextAuth bool `json:"plaintext_auth,omitempty"`

	// XCLIENT are addresses and networks whose clients are proxies that may say
	// for whom they speak, by Postfix's XCLIENT: the session is then treated as
	// one of that client, its login included. "unix" stands for clients on unix
	// sockets, "private_ranges" for private networks. Default: none.
	XCLIENT []string `json:"xclient,omitempty"`

	// XFORWARD are those whose clients may say, by Postfix's XFORWARD, where a
	// message came from, for the log alone: content filters. Default: none.
	XFORWARD []string `json:"xforward,omitempty"`

	// RefuseBanned has the server refuse connections of addresses that are
	// banned for failed logins, with 421; where TLS comes first they are closed.
	// On other servers such clients cannot log in, and that is all. Default: true
	// where a login is required, false otherwise.
	RefuseBanned *bool `json:"refuse_banned,omitempty"`

	// Limits bound what a session may ask for.
	Limits Limits `json:"limits,omitzero"`

	// Timeouts bound how long it may take.
	Timeouts Timeouts `json:"timeouts,omitzero"`

	// Routes are the handlers and when they run, in order.
	Routes []*Route `json:"routes,omitempty"`

	app       *App
	name      string
	log       *zap.Logger
	cfg       *session.Config
	tls       *serverTLS
	wrappers  []caddy.ListenerWrapper
	listeners []*listener

	mu       sync.Mutex
	sessions map[*session.Session]net.Conn
	draining bool
	exiting  bool
}

// A listener is one address of a server.
type listener struct {
	addr     caddy.NetworkAddress
	offset   uint
	implicit bool // TLS
	sub      *subscription
	ln       net.Listener // sub under the wrappers
}

func (l *listener) key() string { return l.addr.Network + "/" + l.addr.JoinHostPort(l.offset) }

func (s *Server) provision(a *App, name string) error {
	s.app, s.name = a, name
	s.log = a.log.With(zap.String("server", name))
	s.sessions = map[*session.Session]net.Conn{}
	if err := s.provisionHostname(); err != nil {
		return err
	}
	if err := s.provisionListeners(); err != nil {
		return err
	}
	var err error
	if s.tls, err = provisionTLS(s); err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if s.wrappers, err = caddyopt.LoadModules[caddy.ListenerWrapper](a.drain, s, "ListenerWrappersRaw"); err != nil {
		return fmt.Errorf("listener wrappers: %w", err)
	}
	routes, err := provisionRoutes(a.drain, s.Routes, "")
	if err != nil {
		return err
	}
	plan, err := session.Compile(routes)
	if err != nil {
		return err
	}
	s.cfg = &session.Config{
		Server: name, Hostname: s.Hostname, AuthservID: s.AuthservID, Postmaster: a.postmaster(), Plan: plan,
		TLS: s.tls.config(), LMTP: s.LMTP, FutureRelease: time.Duration(limit(s.FutureRelease, caddy.Duration(30*24*time.Hour))), StrictNewlines: s.StrictNewlines, BareLF: s.BareLF, PlaintextAuth: s.PlaintextAuth,
		Trusted: trustedBy(routes),
		Limits:  s.Limits.session(), Timeouts: s.Timeouts.wire(),
		Accept: (*acceptor)(a), Spool: (*acceptor)(a), Verify: (*verifier)(a),
		NewID: queue.NewID, Observe: a.metrics.observer(name),
		Log: plainlog.New(a.ctx.Slogger()).With("server", name),
	}
	if s.cfg.Offers, err = s.offers(routes); err != nil {
		return err
	}
	s.cfg.Help, s.cfg.PassesOn = s.Help, a.passesOn
	if err := s.provisionDoor(); err != nil {
		return err
	}
	if len(s.ETRN) > 0 {
		f, err := newFlusher(a, s.ETRN, s.log)
		if err != nil {
			return fmt.Errorf("etrn: %w", err)
		}
		s.cfg.Flush = f.flush
	}
	s.provisionWatch(routes)
	return a.checkAgents(routes)
}

// provisionDoor says who may speak for others, and who is let in.
func (s *Server) provisionDoor() (err error) {
	p := &s.cfg.Proxies
	if p.XCLIENT, err = peers(s.XCLIENT); err != nil {
		return fmt.Errorf("xclient: %w", err)
	}
	if p.XFORWARD, err = peers(s.XFORWARD); err != nil {
		return fmt.Errorf("xforward: %w", err)
	}
	if err := s.Limits.valid(); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	if err := s.Timeouts.valid(); err != nil {
		return fmt.Errorf("timeouts: %w", err)
	}
	exempt, err := s.Limits.exempt()
	if err != nil {
		return fmt.Errorf("limits: exempt: %w", err)
	}
	exempt = append(exempt, s.cfg.Trusted...)
	s.cfg.Admission = &door{
		gate: gateOf(s.name), limits: s.Limits.admission(), all: admission.Limits{Connections: s.app.room},
		exempt:  func(ip netip.Addr) bool { return exempt.Contain(ip) || p.XCLIENT(ip) },
		refused: s.app.metrics.connectionRefused(s.name),
	}
	return nil
}

// provisionWatch bounds guesses, where there is something to guess.
func (s *Server) provisionWatch(routes []session.Route) {
	offered, optional := loginsOf(routes)
	closes := offered && !optional
	if s.RefuseBanned != nil {
		closes = *s.RefuseBanned
	}
	if offered || closes {
		s.cfg.Guard = &watch{&s.app.Logins, theLoginMetrics(), s.name, closes}
	}
}

// peers reads which connections may speak for others.
func peers(words []string) (func(netip.Addr) bool, error) {
	unix := slices.Contains(words, "unix")
	nets, err := pattern.ParseNetworks(slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "unix" }))
	return func(ip netip.Addr) bool { return !ip.IsValid() && unix || nets.Contain(ip) }, err
}

func (s *Server) provisionHostname() error {
	if s.Hostname == "" {
		s.Hostname = s.app.Hostname
		return nil
	}
	h, err := caddy.NewReplacer().ReplaceOrErr(s.Hostname, true, true)
	if err == nil {
		h, err = mail.ParseDomain(h)
	}
	if err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	s.Hostname = h
	return nil
}

func (s *Server) provisionListeners() error {
	if len(s.Listen)+len(s.ListenTLS) == 0 {
		return errors.New("no address to listen on")
	}
	port := uint(25)
	if s.LMTP {
		port = 24
	}
	for _, a := range s.Listen {
		if err := s.addListeners(a, port, false); err != nil {
			return err
		}
	}
	for _, a := range s.ListenTLS {
		if err := s.addListeners(a, 465, true); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) addListeners(addr string, port uint, implicit bool) error {
	addr, err := caddy.NewReplacer().ReplaceOrErr(addr, true, true)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	na, err := caddy.ParseNetworkAddressWithDefaults(addr, "tcp", port)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for off := range na.PortRangeSize() {
		if s.LMTP && na.StartPort+off == 25 && !na.IsUnixNetwork() && !na.IsFdNetwork() {
			return fmt.Errorf("listen: %s: LMTP is not for port 25 (RFC 2033, section 5)", addr)
		}
		tls := implicit || na.StartPort+off == 465 && !na.IsUnixNetwork() && !na.IsFdNetwork()
		s.listeners = append(s.listeners, &listener{addr: na, offset: off, implicit: tls})
	}
	return nil
}

// bind opens the sockets, or finds them open. Nothing is accepted before serve.
func (s *Server) bind() error {
	for _, l := range s.listeners {
		sub, err := listen(s.app.ctx, l.addr, l.offset, s.app.lifetime.lease)
		if err != nil {
			return fmt.Errorf("listening on %s: %w", l.addr.At(l.offset), err)
		}
		l.sub, l.ln = sub, sub
		for _, w := range s.wrappers {
			l.ln = w.WrapListener(l.ln)
		}
	}
	return nil
}

// serve takes over from the configuration before.
func (s *Server) serve() {
	for _, l := range s.listeners {
		go s.accept(l)
		l.sub.activate()
		s.log.Info("listening", zap.String("address", l.sub.Addr().String()), zap.Bool("implicit_tls", l.implicit))
	}
}

func (s *Server) accept(l *listener) {
	for {
		conn, err := l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // a wrapper's, of one connection
			s.log.Debug("connection refused by a listener wrapper", zap.Error(err))
			continue
		}
		go s.session(conn, l.implicit)
	}
}

// session serves one connection, which holds a lease on the configuration.
func (s *Server) session(conn net.Conn, implicit bool) {
	defer conn.Close()
	sess := session.New(conn, s.cfg, implicit)
	s.add(sess, conn)
	defer s.remove(sess)
	if err := sess.Serve(s.app.lifetime.ctx); err != nil {
		s.log.Debug("session ended", zap.String("session", sess.ID), zap.Error(err))
	}
}

func (s *Server) add(sess *session.Session, conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[sess] = conn
	if s.draining {
		sess.Drain(s.exiting)
	}
}

func (s *Server) remove(sess *session.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
}

// close gives the sockets back and lets sessions come to their end.
func (s *Server) close(exiting bool) {
	for _, l := range s.listeners {
		if l.sub != nil {
			l.sub.Close()
		}
	}
	s.drain(exiting)
}

func (s *Server) drain(exiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining, s.exiting = true, s.exiting || exiting
	for sess := range s.sessions {
		sess.Drain(s.exiting)
	}
}

// cut closes every connection under its session and tells how many there were.
func (s *Server) cut() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.sessions {
		// Give the reply that the context's end calls for a moment to leave.
		time.AfterFunc(time.Second, func() { conn.Close() })
	}
	return len(s.sessions)
}

// managedNames are the names that certificates are to be had for.
func (s *Server) managedNames() []string {
	if s.tls.off {
		return nil
	}
	return s.tls.names
}

func systemHostname() string {
	h, err := os.Hostname()
	if err != nil || h == "" {
		return "localhost"
	}
	return h
}

// trustedBy collects the networks whose clients handlers relay for.
func trustedBy(routes []session.Route) []netip.Prefix {
	var nets []netip.Prefix
	for _, r := range routes {
		for _, h := range r.Handlers {
			nets = append(nets, trustedBy(h.Routes)...)
			if t, ok := h.Module.(interface{ TrustedNetworks() []netip.Prefix }); ok {
				nets = append(nets, t.TrustedNetworks()...)
			}
		}
	}
	return nets
}
