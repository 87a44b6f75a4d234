package session

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/emersion/go-sasl"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// maxExpansions bounds what aliases make of one recipient, and how often.
const maxExpansions = 1000

var (
	errNotClaimed = mail.Refuse(550, "5.7.1", "relaying denied")
	errApart      = mail.Refuse(452, "4.5.3", "send to this recipient in a transaction of its own")
	errTooMany    = mail.Refuse(452, "4.5.3", "too many recipients")
	errExpansions = mail.Refuse(550, "5.4.6", "alias expands to too many addresses")
)

// engine is the part of a Session that runs the plan.
type engine struct {
	decided map[*mail.Recipient]decisions // of the transaction's recipients
	fate    string                        // of the transaction's first recipient
}

// expansion is what Transaction.Expand left for the engine.
type expansion struct {
	of *mail.Recipient
	to []mail.Address
}

// Expand puts other addresses in the place of r: each goes on from the handler
// that calls it as a recipient of its own. If one of them is refused, so is r.
func (tx *Transaction) Expand(r *mail.Recipient, to ...mail.Address) {
	tx.expansion = &expansion{r, to}
}

// dnsTime bounds the DNS look-ups of one message, whoever makes them, and those
// of a stage before the first message.
const dnsTime = 20 * time.Second

// asking bounds the look-ups of a stage that belongs to no transaction.
func asking(ctx context.Context) context.Context {
	return dns.WithBudget(ctx, dns.NewBudget(dnsTime))
}

// stageConnect runs the handlers that come before the greeting.
func (s *Session) stageConnect(ctx context.Context) error {
	ctx = asking(ctx)
	return s.each(ctx, StageConnect, &Point{Session: s}, func(h any) error {
		return h.(ConnectHandler).HandleConnect(ctx, s)
	})
}

func (s *Session) stageHello(ctx context.Context) error {
	ctx = asking(ctx)
	return s.each(ctx, StageHello, &Point{Session: s}, func(h any) error {
		return h.(HelloHandler).HandleHello(ctx, s)
	})
}

// each runs the handlers of a stage that has one subject.
func (s *Session) each(ctx context.Context, st Stage, at *Point, run func(h any) error) error {
	d := s.cfg.Plan.decisions()
	for _, step := range s.cfg.Plan.steps[st] {
		ok, err := d.active(ctx, step.route, at)
		if err == nil && ok {
			err = run(step.handler)
		}
		if err != nil {
			return s.fault(step.name, st, err)
		}
	}
	return nil
}

// fault logs an error that is not a Reply: it is ours, and the client is not
// told of it.
func (s *Session) fault(name string, st Stage, err error) error {
	if _, ok := errors.AsType[*mail.Reply](err); !ok {
		s.Log.Error("handler failed", "handler", name, "stage", st.String(), "error", err)
	}
	return mail.ReplyFor(err)
}

// authHandlers are those that take part on this connection.
func (s *Session) authHandlers(ctx context.Context) []AuthHandler {
	var hs []AuthHandler
	_ = s.each(ctx, StageAuth, &Point{Session: s}, func(h any) error {
		hs = append(hs, h.(AuthHandler))
		return nil
	})
	return hs
}

// mechanisms are the SASL mechanisms on offer, without repetition.
func (s *Session) mechanisms() []string {
	var ms []string
	for _, h := range s.authHandlers(context.Background()) {
		for _, m := range h.Mechanisms(s) {
			if !slices.Contains(ms, m) {
				ms = append(ms, m)
			}
		}
	}
	return ms
}

// authenticate begins an exchange with the first handler that has mech.
func (s *Session) authenticate(ctx context.Context, mech string) (sasl.Server, error) {
	ctx = login.WithClient(ctx, login.Client{Remote: addrPortOf(s.Remote), Local: addrPortOf(s.Local), TLS: s.TLS != nil, Mechanism: mech})
	for _, h := range s.authHandlers(ctx) {
		if slices.Contains(h.Mechanisms(s), mech) {
			srv, err := h.Authenticate(ctx, s, mech)
			if err != nil {
				return nil, s.fault(mech, StageAuth, err)
			}
			return srv, nil
		}
	}
	return nil, mail.Refuse(504, "5.5.4", "mechanism not supported")
}

// stageMail opens a transaction unless a handler refuses the sender.
func (s *Session) stageMail(ctx context.Context, env *mail.Envelope) error {
	env.Server, env.AuthUser, env.Hello = s.cfg.Server, s.User, s.Hello
	if ip := s.RemoteIP(); ip.IsValid() {
		env.ClientIP = ip.String()
	}
	tx := &Transaction{ID: s.cfg.NewID(), Session: s, Envelope: env, Began: time.Now(), Results: slices.Clone(s.Results), dns: dns.NewBudget(dnsTime), ends: new([]func(bool))}
	ctx = dns.WithBudget(ctx, tx.dns)
	err := s.each(ctx, StageMail, &Point{Session: s, Transaction: tx}, func(h any) error {
		return h.(MailHandler).HandleMail(ctx, tx)
	})
	if err != nil {
		s.logRefusal(tx, nil, err)
		return err
	}
	s.tx = tx
	s.engine = engine{decided: map[*mail.Recipient]decisions{}}
	return nil
}

// reset drops the transaction.
func (s *Session) reset() { s.tx, s.engine = nil, engine{} }

// stageRcpt adds a recipient, or what it expands to, if a handler claims each.
func (s *Session) stageRcpt(ctx context.Context, r *mail.Recipient) error {
	ctx = dns.WithBudget(ctx, s.tx.dns)
	if r.Address.Domain == "" {
		r.Address = s.cfg.Postmaster
	}
	done, err := s.claim(ctx, r)
	if err == nil {
		err = s.unvouched(done)
	}
	if err == nil {
		err = s.share(ctx, done)
	}
	if err != nil {
		s.logRefusal(s.tx, r, err)
		return err
	}
	made := make([]*mail.Recipient, 0, len(done))
	for _, c := range done {
		same := s.tx.find(c.r)
		if same == nil {
			same = c.r
			s.tx.Envelope.Recipients = append(s.tx.Envelope.Recipients, c.r)
			s.decided[c.r] = c.d
		}
		made = append(made, same)
	}
	if s.cfg.LMTP {
		s.tx.commands = append(s.tx.commands, made)
	}
	return nil
}

// find returns the recipient that r repeats, if there is one.
func (tx *Transaction) find(r *mail.Recipient) *mail.Recipient {
	i := slices.IndexFunc(tx.Envelope.Recipients, func(o *mail.Recipient) bool {
		return o.Address == r.Address && o.Agent == r.Agent && o.Discarded == r.Discarded
	})
	if i < 0 {
		return nil
	}
	return tx.Envelope.Recipients[i]
}

// A candidate is a recipient on its way through the handlers.
type candidate struct {
	r    *mail.Recipient
	d    decisions
	step int
}

// claim takes r, and what it expands to, through the RCPT handlers until each
// is claimed.
func (s *Session) claim(ctx context.Context, r *mail.Recipient) ([]candidate, error) {
	work := []candidate{{r, s.cfg.Plan.decisions(), 0}}
	var done []candidate
	for n := 0; len(work) > 0; n++ {
		if n > maxExpansions || len(done)+len(work) > maxExpansions {
			return nil, errExpansions
		}
		c := work[0]
		more, err := s.runRcpt(ctx, &c)
		if err != nil {
			return nil, err
		}
		work = append(more, work[1:]...)
		if more != nil {
			continue
		}
		if err := s.verify(ctx, c.r); err != nil {
			return nil, err
		}
		done = append(done, c)
	}
	return done, nil
}

// runRcpt takes c on until it is claimed or expanded; the latter returns a
// list that is not nil.
func (s *Session) runRcpt(ctx context.Context, c *candidate) ([]candidate, error) {
	steps := s.cfg.Plan.steps[StageRcpt]
	at := &Point{Session: s, Transaction: s.tx, Recipient: c.r}
	for ; c.step < len(steps) && !c.r.Claimed(); c.step++ {
		st := steps[c.step]
		ok, err := c.d.active(ctx, st.route, at)
		if err == nil && ok {
			err = st.handler.(RcptHandler).HandleRcpt(ctx, s.tx, c.r)
		}
		if err != nil {
			return nil, s.fault(st.name, StageRcpt, err)
		}
		if ex := s.tx.expansion; ex != nil {
			s.tx.expansion = nil
			return ex.candidates(c), nil
		}
	}
	return nil, nil
}

func (ex *expansion) candidates(c *candidate) []candidate {
	out := make([]candidate, 0, len(ex.to))
	for _, a := range ex.to {
		r := *ex.of
		r.Rewrite(a)
		out = append(out, candidate{&r, slices.Clone(c.d), c.step + 1})
	}
	return out
}

func (s *Session) verify(ctx context.Context, r *mail.Recipient) error {
	if !r.Claimed() {
		return errNotClaimed
	}
	if r.Verified || r.Discarded || s.cfg.Verify == nil {
		return nil
	}
	err := s.cfg.Verify.Verify(ctx, r.Agent, r.Address)
	if err == nil || s.internal && mail.ReplyFor(err).Temporary() { // ours waits in the queue meanwhile
		return nil
	}
	return s.fault(r.Agent, StageRcpt, err)
}

// share sees to it that one reply to the content can speak for all recipients
// (LMTP has a reply for each):
// a stranger's recipient that message handlers may treat differently from the
// first one has to wait for a transaction of its own. Our own users hear of
// partial refusals by DSN instead.
func (s *Session) share(ctx context.Context, cs []candidate) error {
	if limit := s.cfg.Limits.Recipients; limit > 0 && len(s.tx.Envelope.Recipients)+len(cs) > limit+maxExpansions {
		return errTooMany
	}
	if s.Trusted() || s.cfg.LMTP {
		return nil
	}
	for i, c := range cs {
		f, err := s.cfg.Plan.fate(ctx, c.d, &Point{Session: s, Transaction: s.tx, Recipient: c.r})
		if err != nil {
			return s.fault("matcher", StageRcpt, err)
		}
		switch {
		case i == 0 && len(s.tx.Envelope.Recipients) == 0:
			s.fate = f
		case f != s.fate && len(s.tx.Envelope.Recipients) > 0:
			return errApart
		}
	}
	return nil
}

// logRefusal says that a command was refused, with the reply's own words.
func (s *Session) logRefusal(tx *Transaction, r *mail.Recipient, err error) {
	attrs := []slog.Attr{slog.String("transaction", tx.ID), slog.String("from", tx.Envelope.From.String())}
	if r != nil {
		attrs = append(attrs, slog.String("to", r.Given.String()))
	}
	attrs = append(attrs, slog.String("helo", s.Hello), slog.String("reply", mail.ReplyFor(err).Error()))
	s.Log.LogAttrs(context.Background(), slog.LevelInfo, "refused", attrs...)
}

// stageMessage runs the message handlers, makes what is left durable, and
// returns the reply to the content. It ends the transaction.
func (s *Session) stageMessage(ctx context.Context, m *message.Message) *mail.Reply {
	tx := s.tx
	accepted := false
	defer func() { tx.end(accepted) }() // whatever happens
	r := s.finish(dns.WithBudget(ctx, tx.dns), tx, m)
	for o := r; o != nil; o = o.Next {
		accepted = accepted || o.Code == 250
	}
	s.logMessage(tx, m, r)
	if s.cfg.Observe != nil {
		s.cfg.Observe.MessageEnded(tx, r)
	}
	s.reset()
	return r
}

func (s *Session) finish(ctx context.Context, tx *Transaction, m *message.Message) *mail.Reply {
	if limit := s.cfg.Limits.Hops; limit > 0 && m.Header.Hops() > limit {
		return s.forEach(tx, mail.Refuse(554, "5.4.6", "mail loop: more than %d hops", limit))
	}
	s.forgeries(m.Header)
	if reply := s.prioritize(tx, m); reply != nil {
		return s.forEach(tx, reply)
	}
	groups, reply := s.runMessage(ctx, tx, m)
	if reply != nil {
		return reply
	}
	var objects []*message.Object
	for _, g := range groups {
		if o := g.object(); o != nil {
			objects = append(objects, o)
		}
	}
	if len(objects) == 0 {
		return s.forEach(tx, &mail.Reply{Code: 250, Enh: "2.0.0", Text: "discarded as " + tx.ID})
	}
	id, err := s.cfg.Accept.Accept(ctx, objects)
	if err != nil {
		return s.forEach(tx, mail.ReplyFor(s.fault("queue", StageMessage, err)))
	}
	return s.forEach(tx, &mail.Reply{Code: 250, Enh: "2.0.0", Text: "queued as " + id})
}

// logMessage is the one line a transaction leaves.
func (s *Session) logMessage(tx *Transaction, m *message.Message, r *mail.Reply) {
	to := make([]string, 0, min(len(tx.Envelope.Recipients), 10))
	for _, rc := range tx.Envelope.Recipients[:cap(to)] {
		to = append(to, rc.Given.String())
	}
	what := "accepted"
	if r.Code != 250 {
		what = "refused"
	}
	log := s.Log
	if s.forwarded != nil {
		log = log.With("forwarded", s.forwarded)
		s.forwarded = nil
	}
	log.LogAttrs(context.Background(), slog.LevelInfo, what,
		slog.String("transaction", tx.ID), slog.String("from", tx.Envelope.From.String()),
		slog.Any("to", to), slog.Int("recipients", len(tx.Envelope.Recipients)),
		slog.Int64("size", m.Size()), slog.String("helo", s.Hello), slog.String("user", s.User),
		slog.String("reply", allOf(r)), slog.Duration("took", time.Since(tx.Began)))
}
