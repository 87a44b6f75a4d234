package queue

import (
	"slices"
	"sort"
	"time"
)

// headStart is what a step of MT-PRIORITY (RFC 6710) is worth: a message goes
// before those of the next lower priority that became due up to so much earlier.
// As what waits gets older and what comes does not, nothing waits forever.
const headStart = time.Hour

// rank is where a ticket stands in its ready queue: the earliest is the first.
func (t *ticket) rank() time.Time {
	return t.due.Add(-headStart * time.Duration(t.entry.Envelope.Priority))
}

// inOrder puts a ticket into a ready queue, behind those of its own rank.
func inOrder(ready []*ticket, t *ticket) []*ticket {
	at := t.rank()
	if n := len(ready); n == 0 || !ready[n-1].rank().After(at) { // as nearly always
		return append(ready, t)
	}
	i := sort.Search(len(ready), func(i int) bool { return ready[i].rank().After(at) })
	return slices.Insert(ready, i, t)
}
