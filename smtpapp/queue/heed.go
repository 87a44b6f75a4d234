package queue

import (
	"log/slog"
	"slices"
	"time"
)

// read has statuses say what the rules read in their replies, and returns what
// else these ask for.
func (t *ticket) read(statuses []Status) (rs []*Reading) {
	for i := range statuses {
		s := &statuses[i]
		if s.Action != Delayed && s.Action != Failed {
			continue
		}
		if r := t.terms.rule().Reading(s.Reply); r != nil {
			r.apply(s)
			rs = append(rs, r)
		}
	}
	return rs
}

// heed does what readings ask for. What is ready for a group that pauses leaves
// the active set: it returns what is not in the store's bins yet. q.mu is held.
func (q *Queue) heed(p *Policy, t *ticket, rs []*Reading, began, now time.Time) (park []*ticket) {
	d := q.sched.sites[t.site]
	if d == nil || d.group == nil {
		return nil
	}
	for _, r := range rs {
		if !d.group.heed(r, began, now) {
			continue
		}
		d.group.reason = t.words(r)
		what, until := "sending more slowly", d.group.slow
		if r.Pause > 0 {
			what, until = "sending nothing", d.group.paused
			for _, o := range q.sched.sites {
				if o.group == d.group {
					park = append(park, q.sched.empty(o)...)
				}
			}
		}
		p.Log.LogAttrs(q.ctx, slog.LevelWarn, what, slog.String("rule", d.terms.Name), slog.String("agent", t.site.agent),
			slog.String("destination", t.site.destination), slog.String("source", t.site.source), slog.String("after", r.Pattern.String()), slog.Time("until", until))
	}
	return park
}

// words are those in which a reading was found.
func (t *ticket) words(r *Reading) string {
	for _, rc := range t.rcpts {
		if last := rc.Last.Reply; last != nil && r.Pattern.MatchString(last.Error()) {
			return last.Error()
		}
	}
	return ""
}

// putBack has a ticket wait in its ready queue again, if no attempt was made
// since no connection could be had, and reports whether it does.
func (q *Queue) putBack(p *Policy, t *ticket, statuses []Status, now time.Time) bool {
	if slices.ContainsFunc(statuses, func(s Status) bool { return !s.Busy || s.Action != Delayed }) {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.policy() != p || len(t.wishes)+len(t.hasten) > 0 { // it may belong elsewhere now
		return false
	}
	if r := statuses[0].Reply; r != nil {
		q.sched.sites[t.site].reason = r.Error()
	}
	q.sched.putBack(t, p, now)
	q.nudge()
	return true
}

func (s *schedule) putBack(t *ticket, p *Policy, now time.Time) {
	d := s.sites[t.site]
	s.leave(d)
	if d.group != nil {
		d.group.spared(len(t.rcpts))
	}
	t.running = false
	lane := 1
	if t.bin == nil && t.rcpts[0].Attempts == 0 {
		lane = 0
	}
	d.ready[lane] = slices.Insert(d.ready[lane], 0, t)
	d.crowd(now)
	s.rest(d)
	s.relisted(d, p, now)
}
