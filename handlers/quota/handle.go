package quota

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/placeholder"
	"github.com/caddymail/caddy-smtp/smtpapp/quota"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// reached counts refusals. It is of the process.
var reached = prometheus.NewCounterVec(prometheus.CounterOpts{
	Namespace: "caddy", Subsystem: "smtp", Name: "quota_reached_total", Help: "Commands and messages that a quota refused.",
}, []string{"quota", "limit"})

// tellEvery is how often an event says that somebody was stopped.
const tellEvery = 10 * time.Minute

// An asking is the account of a transaction, with its limits.
type asking struct {
	h      *Handler
	tx     *session.Transaction
	ledger *quota.Ledger
	who    string // as the configuration has it
	key    string // of the ledger: accounts of different kinds may look alike
	limits []quota.Limit
}

// ask finds the account of a transaction; nil if it has no limit.
func (h *Handler) ask(ctx context.Context, tx *session.Transaction) (*asking, error) {
	who := placeholder.New(tx.Session, tx, nil).ReplaceAll(h.Key, "")
	if who == "" || tx.Session.Internal() {
		return nil, nil
	}
	limits, err := h.limitsOf(ctx, tx.Session, who)
	if err != nil || len(limits) == 0 {
		return nil, err
	}
	return &asking{h, tx, h.state.get(h.path, h.log), who, h.Key + " " + who, limits}, nil
}

// HandleMail refuses the message of whom no message is left.
func (h *Handler) HandleMail(ctx context.Context, tx *session.Transaction) error {
	a, err := h.ask(ctx, tx)
	if a == nil {
		return err
	}
	return a.answer(a.ledger.Room(a.key, a.limits, quota.Use{Messages: 1}))
}

// HandleRcpt refuses the recipient that is one too many.
func (h *Handler) HandleRcpt(ctx context.Context, tx *session.Transaction, r *mail.Recipient) error {
	a, err := h.ask(ctx, tx)
	if a == nil {
		return err
	}
	n := len(tx.Envelope.Recipients) + 1 // at most: some may have come out of one
	if a.ledger.Room(a.key, a.limits, quota.Use{Messages: 1, Recipients: n, New: n}) == nil {
		return nil
	}
	to := given(append(slices.Clone(tx.Envelope.Recipients), r))
	return a.answer(a.ledger.Room(a.key, a.limits, quota.Use{Messages: 1, Recipients: len(to), New: a.ledger.Unknown(a.key, to)}))
}

// HandleMessage counts the message, and takes that back if it is not accepted.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, _ *message.Message) error {
	settle, err := h.take(ctx, tx)
	if settle != nil {
		tx.OnEnd(settle)
	}
	return err
}

// take counts a message and its recipients, until that is settled. Forks of one
// message count it once.
func (h *Handler) take(ctx context.Context, tx *session.Transaction) (settle func(accepted bool), err error) {
	a, err := h.ask(ctx, tx)
	if a == nil {
		return nil, err
	}
	messages := 1
	if h.state.counted(tx.ID) {
		messages = 0
	}
	receipt, over := a.ledger.Take(a.key, a.limits, messages, given(tx.Envelope.Recipients))
	if over != nil {
		return nil, a.answer(over)
	}
	h.state.count(tx.ID, 1)
	return func(accepted bool) {
		h.state.count(tx.ID, -1)
		receipt.Settle(accepted)
	}, nil
}

// given returns the forward-paths that the client named, each once.
func given(rs []*mail.Recipient) []mail.Address {
	to := make([]mail.Address, 0, len(rs))
	seen := make(map[mail.Address]bool, len(rs))
	for _, r := range rs {
		if !seen[r.Given] {
			seen[r.Given] = true
			to = append(to, r.Given)
		}
	}
	return to
}

// answer is the reply to who is over a limit, or a note.
func (a *asking) answer(over *quota.Over) error {
	if over == nil {
		return nil
	}
	h, tx := a.h, a.tx
	if !h.Annotate {
		reached.WithLabelValues(h.Name, string(over.What)).Inc()
	}
	if a.ledger.Tell(a.key, tellEvery) {
		h.log.Warn("quota reached", "key", a.who, "user", tx.Session.User, "transaction", tx.ID, "limit", over.String())
		h.env.Emit("smtp_quota_reached", map[string]any{
			"quota": h.Name, "key": a.who, "user": tx.Session.User, "limit": string(over.What), "retry": int(over.Retry.Seconds()),
		})
	}
	if h.Annotate && len(tx.Find("x-quota")) > 0 { // once is enough
		return nil
	}
	if h.Annotate {
		tx.Results = append(tx.Results, session.Result{Method: "x-quota", Value: "fail", Reason: over.String(), Private: true})
		return nil
	}
	return mail.Refuse(452, "4.7.0", "%s", over)
}
