package queue

// Loading reports that the store is still being read.
func (q *Queue) Loading() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.loading
}

// Active returns how many recipients wait or are being tried.
func (q *Queue) Active() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := q.sched.count
	for _, b := range q.sched.bins {
		if !b.due.IsZero() || b.reading {
			n++
		}
	}
	return n
}

// InMemory returns how many recipients and bins the schedule has, and sites.
func (q *Queue) InMemory() (recipients, bins, sites int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sched.count, len(q.sched.bins), len(q.sched.sites)
}

// ClockWasSet is what run does when it has noticed that.
func (q *Queue) ClockWasSet() { signal(q.survey) }

// Jumped is jumped.
var Jumped = jumped

// Paused returns how many sites are left alone.
func (q *Queue) Paused() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.sched.paused)
}
