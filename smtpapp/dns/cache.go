package dns

import (
	"container/list"
	"sync"
	"time"
)

// A cache keeps answers until they expire, and when it is full forgets the
// one that was longest not asked for. Its zero value keeps none.
type cache struct {
	max int // entries

	mu      sync.Mutex
	entries map[question]*list.Element // of *entry
	recent  list.List                  // last used first
}

type entry struct {
	question question
	answer   answer
}

// load returns the answer to q if there is one that holds now.
func (c *cache) load(q question, now time.Time) (answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[q]
	if !ok {
		return answer{}, false
	}
	e := el.Value.(*entry)
	if !now.Before(e.answer.expires) {
		c.remove(el)
		return answer{}, false
	}
	c.recent.MoveToFront(el)
	return e.answer, true
}

// store keeps a, unless it expires at once or is large: what a stranger
// publishes must not decide how much memory we use.
func (c *cache) store(q question, a answer, now time.Time) {
	if c.max <= 0 || a.size > maxKept || !now.Before(a.expires) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[q]; ok {
		c.remove(el)
	}
	if c.entries == nil {
		c.entries = make(map[question]*list.Element)
	}
	for len(c.entries) >= c.max {
		c.remove(c.recent.Back())
	}
	c.entries[q] = c.recent.PushFront(&entry{q, a})
}

func (c *cache) remove(el *list.Element) {
	delete(c.entries, c.recent.Remove(el).(*entry).question)
}

// flights are the questions being asked, so that callers who want the same
// answer at the same time share it.
type flights struct {
	mu  sync.Mutex
	all map[question]*flight
}

type flight struct {
	done   chan struct{} // closed when the fields below are set
	answer answer
	err    error
	// cut says that the caller who asked gave up; the others must ask again.
	cut bool
}

// join returns the flight of q; leads says that the caller is to ask, and to
// call land when it has.
func (f *flights) join(q question) (fl *flight, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.all[q]; ok {
		return fl, false
	}
	if f.all == nil {
		f.all = make(map[question]*flight)
	}
	fl = &flight{done: make(chan struct{}), cut: true}
	f.all[q] = fl
	return fl, true
}

// land ends the flight of q and wakes those who wait for it.
func (f *flights) land(q question, fl *flight) {
	f.mu.Lock()
	delete(f.all, q)
	f.mu.Unlock()
	close(fl.done)
}
