package dkimkey

import (
	"slices"
	"time"
)

// A Schedule says when keys are replaced. All of it follows from what is stored
// and the time, so that nodes that share a storage agree.
type Schedule struct {
	// Rotate is how long a key signs; 0 is for ever.
	Rotate time.Duration
	// Overlap is how long a key is made, to be published, before it signs, and
	// how long it stays after another has taken over: messages that it signed
	// are still on their way.
	Overlap time.Duration
	// Unchecked has keys sign when their time has come. Otherwise they also wait
	// until DNS has them.
	Unchecked bool
}

// ready reports whether a key may sign.
func (s Schedule) ready(e *entry, now time.Time) bool {
	return !e.signs.After(now) && (s.Unchecked || !e.published.IsZero())
}

// current returns the key of a list, all of one algorithm, that signs now: the
// latest that is ready. If none is, such as the first one of a domain, or all of
// them for a clock that has gone back, then one that DNS has had, and at last
// the oldest; nil if there is none at all.
func (s Schedule) current(es []*entry, now time.Time) *entry {
	var best *entry
	for _, e := range sorted(es) {
		if s.ready(e, now) {
			best = e
		}
	}
	if best != nil || len(es) == 0 {
		return best
	}
	if i := slices.IndexFunc(sorted(es), func(e *entry) bool { return !e.published.IsZero() }); i >= 0 {
		return sorted(es)[i]
	}
	return sorted(es)[0]
}

// sorted returns the keys in the order in which they sign.
func sorted(es []*entry) []*entry {
	return slices.SortedStableFunc(slices.Values(es), before)
}

func before(a, b *entry) int {
	if c := a.signs.Compare(b.signs); c != 0 {
		return c
	}
	if c := a.created.Compare(b.created); c != 0 {
		return c
	}
	if a.Selector < b.Selector {
		return -1
	}
	return 1
}

const day = 24 * time.Hour

// skew is how far ahead another node's clock may be.
const skew = day

// next returns the key that is to follow cur, nil if there is none. One that
// waits for a time far ahead was made by a clock that was wrong.
func (s Schedule) next(es []*entry, cur *entry, now time.Time) *entry {
	for _, e := range sorted(es) {
		if e != cur && before(cur, e) < 0 && e.signs.Before(now.Add(s.Overlap+skew)) {
			return e
		}
	}
	return nil
}

// due reports whether it is time to make the key that is to follow cur.
func (s Schedule) due(cur *entry, now time.Time) bool {
	return s.Rotate > 0 && !now.Before(cur.signs.Add(s.Rotate-s.Overlap))
}

// removal returns when a key goes for good, the zero time if that is not known:
// an overlap after cur has taken over from it.
func (s Schedule) removal(e, cur *entry) time.Time {
	if e == cur || before(e, cur) > 0 {
		return time.Time{}
	}
	since := cur.signs
	if cur.published.After(since) {
		since = cur.published
	}
	return since.Add(s.Overlap)
}
