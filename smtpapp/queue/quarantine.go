package queue

import (
	"log/slog"
	"time"
)

// maxStarts is how many attempts of a recipient may end with the process, or
// with a panic, before it waits for an operator: one message must not keep a
// server from working.
const maxStarts = 3

// Causes of a quarantine: for metrics and events.
const (
	CauseDamage = "damage" // what is stored is not what was
	CauseDeath  = "death"  // attempts have ended with the process
)

// Why recipients are held, in words.
const (
	ReasonDamaged = "stored envelope is damaged"
	reasonDied    = "each of the last 3 attempts ended this server or failed inside it"
)

// quarantined tells of recipients that are held and wait for an operator. It is
// called once that is stored.
func (q *Queue) quarantined(p *Policy, id, cause string, rcpts []*Recipient) {
	n, reason, agent := 0, "", ""
	for _, r := range rcpts {
		if r.Held && !r.Done {
			n, reason, agent = n+1, r.Reason, r.Agent
		}
	}
	if n == 0 {
		return
	}
	log := q.log
	if p != nil {
		log = p.Log
	}
	log.LogAttrs(q.ctx, slog.LevelError, "quarantine", slog.String("id", id), slog.String("cause", cause),
		slog.Int("recipients", n), slog.String("agent", agent), slog.String("reason", reason))
	if p != nil && p.Observe != nil {
		p.Observe.Quarantined(id, agent, cause)
	}
}

// deaths is how many attempts of a ticket have ended badly in a row.
func (t *ticket) deaths() (n int) {
	for _, r := range t.rcpts {
		n = max(n, r.Starts)
	}
	return n
}

// setAside holds what was found to have ended the process time and again,
// instead of another attempt.
func (q *Queue) setAside(p *Policy, t *ticket) {
	c := new(Change)
	for _, r := range t.rcpts {
		r.Held, r.Reason, r.Bin = true, reasonDied, 0
		c.Update = append(c.Update, r)
	}
	q.persist(p, t.entry.ID, c)
	q.quarantined(p, t.entry.ID, CauseDeath, t.rcpts)
	q.mu.Lock()
	defer q.mu.Unlock()
	left := q.comply(p, t, t.rcpts)
	q.sched.putAll(left)
	q.sched.returned(t, q.policy(), time.Now())
	q.nudge()
}

// sound returns those of the entries whose envelopes are what was stored. The
// others, which come from the store as held, are held there too.
func (q *Queue) sound(es []*Entry) []*Entry {
	var whole []*Entry
	for _, e := range es {
		if !e.Damaged {
			whole = append(whole, e)
			continue
		}
		for _, r := range e.Recipients {
			r.Bin = 0
		}
		if err := q.store.Commit(q.ctx, &Change{Update: e.Recipients}); err != nil {
			q.log.Error("holding a damaged entry", "id", e.ID, "error", err)
			continue
		}
		q.mu.Lock()
		p := q.policy()
		q.mu.Unlock()
		q.quarantined(p, e.ID, CauseDamage, e.Recipients)
	}
	return whole
}
