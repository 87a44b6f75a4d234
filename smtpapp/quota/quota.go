// Package quota counts what users send, and says when they have sent as much as
// they may. It knows nothing of sessions or of where limits come from. What it
// counts is kept in a journal, which is written behind the back of whoever
// sends, so that a crash may forget the last seconds.
package quota

import (
	"fmt"
	"slices"
	"time"
)

// What is counted.
type What string

// The things that are counted.
const (
	Messages      What = "messages"
	Recipients    What = "recipients"
	NewRecipients What = "new_recipients" // to whom the user never wrote before
)

// A Limit is how many there may be in any time of that length.
type Limit struct {
	What  What
	Count int
	Per   time.Duration
}

// A Use is how much is to be sent.
type Use struct{ Messages, Recipients, New int }

func (u Use) of(w What) int {
	switch w {
	case Messages:
		return u.Messages
	case Recipients:
		return u.Recipients
	}
	return u.New
}

// An Over says which limit was reached.
type Over struct {
	Limit
	Retry time.Duration // after which there is room again
}

// String writes it for the user.
func (o *Over) String() string {
	what := map[What]string{Messages: "messages", Recipients: "recipients", NewRecipients: "first-time recipients"}[o.What]
	return fmt.Sprintf("quota of %d %s in %s reached; try again in %s", o.Count, what, exact(o.Per), rough(o.Retry))
}

// units are what durations are written in: each up to twice the next.
var units = []struct {
	length time.Duration
	name   string
}{{time.Second, "s"}, {time.Minute, "min"}, {time.Hour, "h"}, {24 * time.Hour, "d"}}

// exact writes a duration of whole seconds.
func exact(d time.Duration) string {
	for _, u := range slices.Backward(units) {
		if d%u.length == 0 {
			return fmt.Sprintf("%d%s", d/u.length, u.name)
		}
	}
	return d.String()
}

// rough writes a duration, rounded up to what matters of it.
func rough(d time.Duration) string {
	u := units[0]
	for _, next := range units[1:] {
		if d >= 2*next.length {
			u = next
		}
	}
	return fmt.Sprintf("%d%s", max((d+u.length-1)/u.length, 1), u.name)
}

// slots is into how many parts a window's time is divided.
const slots = 12

// A window counts over a time that slides. It has one slot more than the time
// has, so that what is in the oldest counts until all of it is old enough: in no
// time of that length there is ever more than the limit.
type window struct {
	what  What
	per   time.Duration
	head  int64 // number of the newest slot since the epoch
	count [slots + 1]uint32
}

func (w *window) slot(now time.Time) int64 { return now.UnixNano() / int64(w.per/slots) }

// advance drops what is too old. A clock that steps back changes nothing, unless
// what was counted would outlive the window by another one: then it counts as if
// it had been sent by now.
func (w *window) advance(now time.Time) {
	to := w.slot(now)
	if w.head-to > slots {
		old := *w
		for i := range int64(slots + 1) {
			w.count[(to+slots+1-i)%(slots+1)] = old.count[(old.head-i)%(slots+1)]
		}
		w.head = to
	}
	if to-w.head > slots {
		w.count, w.head = [slots + 1]uint32{}, to
	}
	for w.head < to {
		w.head++
		w.count[w.head%(slots+1)] = 0
	}
}

func (w *window) sum() (n int) {
	for _, c := range w.count {
		n += int(c)
	}
	return n
}

// add counts n more, and returns the slot they are in.
func (w *window) add(n int, now time.Time) int64 {
	w.advance(now)
	w.count[w.head%(slots+1)] += uint32(n)
	return w.head
}

// take takes back what was added.
func (w *window) take(n int, slot int64) {
	if slot > w.head-slots-1 && slot <= w.head {
		c := &w.count[slot%(slots+1)]
		*c -= min(*c, uint32(n))
	}
}

// wait returns how long it takes until n more are within the limit.
func (w *window) wait(n, limit int, now time.Time) time.Duration {
	left := w.sum()
	for s := w.head - slots; s <= w.head; s++ {
		left -= int(w.count[s%(slots+1)])
		if left+n <= limit {
			gone := (s + slots + 1) * int64(w.per/slots)
			return max(time.Duration(gone-now.UnixNano()), time.Second)
		}
	}
	return w.per
}
