// Package window counts over a time that slides. It knows nothing of what is
// counted.
package window

import "time"

// Slots is into how many parts a window's time is divided.
const Slots = 12

// A Window has one slot more than the time has, so that what is in the oldest
// counts until all of it is old enough: in no time of the length Per is there
// ever more than what Wait has let in. It is for times from Slots nanoseconds on.
type Window struct {
	Per   time.Duration
	Head  int64 // number of the newest slot since the epoch
	Count [Slots + 1]uint32
}

// Slot is the number of the slot of a moment.
func (w *Window) Slot(now time.Time) int64 { return now.UnixNano() / int64(w.Per/Slots) }

// Advance drops what is too old. A clock that steps back changes nothing, unless
// what was counted would outlive the window by another one: then it counts as if
// it had been by now.
func (w *Window) Advance(now time.Time) {
	to := w.Slot(now)
	if w.Head-to > Slots {
		old := *w
		for i := range int64(Slots + 1) {
			w.Count[(to+Slots+1-i)%(Slots+1)] = old.Count[(old.Head-i)%(Slots+1)]
		}
		w.Head = to
	}
	if to-w.Head > Slots {
		w.Count, w.Head = [Slots + 1]uint32{}, to
	}
	for w.Head < to {
		w.Head++
		w.Count[w.Head%(Slots+1)] = 0
	}
}

// Sum is how many there are, as of the last Advance.
func (w *Window) Sum() (n int) {
	for _, c := range w.Count {
		n += int(c)
	}
	return n
}

// Add counts n more, and returns the slot they are in.
func (w *Window) Add(n int, now time.Time) int64 {
	w.Advance(now)
	w.Count[w.Head%(Slots+1)] += uint32(n)
	return w.Head
}

// Take takes back what was added.
func (w *Window) Take(n int, slot int64) {
	if slot > w.Head-Slots-1 && slot <= w.Head {
		c := &w.Count[slot%(Slots+1)]
		*c -= min(*c, uint32(n))
	}
}

// Wait returns how long it takes until n more are within the limit, as of the
// last Advance: all of Per if that cannot be.
func (w *Window) Wait(n, limit int, now time.Time) time.Duration {
	left := w.Sum()
	if left+n <= limit {
		return 0
	}
	for s := w.Head - Slots; s <= w.Head; s++ {
		left -= int(w.Count[s%(Slots+1)])
		if left+n <= limit {
			gone := (s + Slots + 1) * int64(w.Per/Slots)
			return max(time.Duration(gone-now.UnixNano()), 0)
		}
	}
	return w.Per
}
