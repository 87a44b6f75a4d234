package guard

import "time"

// A Budget is how many failures are looked at within a time. Zero is no limit.
type Budget struct{ Minute, Day int }

// parts is into how many parts a window is divided: what falls out of it, falls
// out by parts.
const parts = 6

// A window counts what happened within a time that ends now: in the part that
// is under way and the six before it, so that it never counts too little. Time
// is that since the guard was made, which no setting of a clock changes.
type window struct {
	part   int64 // the one under way when it was last looked at
	counts [parts + 1]uint16
}

// move brings the window to now.
func (w *window) move(now, length time.Duration) {
	part := int64(now / (length / parts))
	for n := min(part-w.part, parts+1); n > 0; n-- {
		w.counts[(part-n+1)%(parts+1)] = 0
	}
	w.part = part
}

func (w *window) add(now, length time.Duration) {
	w.move(now, length)
	if c := &w.counts[w.part%(parts+1)]; *c < 1<<16-1 {
		*c++
	}
}

func (w *window) sum(now, length time.Duration) int {
	w.move(now, length)
	n := 0
	for _, c := range w.counts {
		n += int(c)
	}
	return n
}

const day = 24 * time.Hour

// A count is the failures of an address, a network, or a user.
type count struct {
	minute, day window
	open        int           // attempts under way
	known       string        // the user, once he is known to be one
	told        time.Duration // when somebody was last told that it is too much
}

func (c *count) add(now time.Duration) {
	c.minute.add(now, time.Minute)
	c.day.add(now, day)
}

// full says whether there were too many failures, and whether there are if all
// attempts under way fail.
func (c *count) full(now time.Duration, b Budget) (full, perhaps bool) {
	m, d := c.minute.sum(now, time.Minute), c.day.sum(now, day)
	over := func(n, limit int) bool { return limit > 0 && n >= limit }
	return over(m, b.Minute) || over(d, b.Day), over(m+c.open, b.Minute) || over(d+c.open, b.Day)
}

// tenths says how much of a budget is used.
func (c *count) tenths(now time.Duration, b Budget) int {
	used := func(n, limit int) int {
		if limit <= 0 {
			return 0
		}
		return (10*n + limit - 1) / limit
	}
	return max(used(c.minute.sum(now, time.Minute), b.Minute), used(c.day.sum(now, day), b.Day))
}
