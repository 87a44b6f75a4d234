package queue

import (
	"container/heap"
	"hash/fnv"
	"iter"
	"time"
)

// A bin is what is known of recipients that wait in the store for one site. Its
// number is stored with them, made of the site that they had then: under
// another policy they may have another, which is found out when they are read.
// There are six for each site: for who is new, where there was no room in the
// active set, and for who was tried, each for what is urgent, bulk or neither by
// its priority, so that none of them waits for another.
type bin struct {
	id        int64
	due       time.Time // of the first that is not active, zero for none
	speak     time.Time // when the first sender is to be told, zero for none
	notBefore time.Time // it is not read sooner

	site  site // of what was last read
	known bool

	timed bool // there may be some whose sender has said by when

	active   int // its recipients in the active set
	reading  bool
	sweeping bool
	starved  bool // in group.starved
	listed   bool // in schedule.toRead

	look  time.Time
	index int // in schedule.looks, -1 when not there
}

// lane tells who is new from who was tried.
func lane(r *Recipient) int {
	if r.Attempts > 0 {
		return 1
	}
	return 0
}

// binOf returns the number of a recipient's bin. It is stored, so it stays what
// it is.
func binOf(k site, e *Entry, r *Recipient) int64 {
	n := baseOf(k) | int64(lane(r))
	switch p := e.Envelope.Priority; {
	case p > 0:
		n |= 2
	case p < 0:
		n |= 4
	}
	return n
}

// baseOf is the part of it that a site's bins share.
func baseOf(k site) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(k.agent + "\x00" + k.destination))
	if k.source != "" {
		_, _ = h.Write([]byte("\x00" + k.source))
	}
	return int64(h.Sum64()>>4)<<3 | 1<<62 // neither negative nor 0
}

// triedBin reports whether a bin is for who was tried.
func triedBin(id int64) bool { return id&1 == 1 }

// binsOf returns the numbers of the bins that a site may have.
func binsOf(k site) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		base := baseOf(k)
		for i := range int64(6) {
			if !yield(base | i) {
				return
			}
		}
	}
}

// stow has a recipient wait in the store, from the next commit on.
// What time it is to speak may change yet, with the terms.
func (r *Recipient) stow(e *Entry, k site, t *terms) {
	r.Bin = binOf(k, e, r)
	r.Speak = t.schedule.speaks(e, r)
	r.timed = e.timed()
}

// put notes that a recipient waits in the store. It was committed before.
func (s *schedule) put(r *Recipient) {
	if r.Bin == 0 || r.Done || r.Held {
		return
	}
	b := s.bins[r.Bin]
	if b == nil {
		b = &bin{id: r.Bin, index: -1}
		s.bins[r.Bin] = b
	}
	b.due = earlier(b.due, r.Due)
	b.speak = earlier(b.speak, r.Speak)
	b.timed = b.timed || r.timed
	s.consider(b)
}

func (s *schedule) putAll(rs []*Recipient) {
	for _, r := range rs {
		s.put(r)
	}
}

// consider has a bin looked at when something in it may be read.
func (s *schedule) consider(b *bin) {
	if b == nil || b.reading || b.listed {
		return
	}
	if b.due.IsZero() {
		if b.index >= 0 {
			heap.Remove(&s.looks, b.index)
		}
		if b.active == 0 && !b.sweeping { // what waits is due some time, or active
			delete(s.bins, b.id)
			if d := s.sites[b.site]; b.known && d != nil {
				s.drop(d)
			}
		}
		return
	}
	b.look = later(b.due, b.notBefore)
	if d := s.sites[b.site]; b.known && d != nil {
		b.look = later(b.look, d.until)
	}
	if b.index >= 0 {
		heap.Fix(&s.looks, b.index)
	} else {
		heap.Push(&s.looks, b)
	}
}

// considerSite is for what has changed at a site.
func (s *schedule) considerSite(k site) {
	for id := range binsOf(k) {
		s.consider(s.bins[id])
	}
}

// wants is how many recipients of a bin the active set can take now.
func (s *schedule) wants(b *bin, p *Policy, now time.Time) int {
	if p == nil {
		return 0
	}
	share := min(s.share(p.Schedule.Active), 2*batch)
	if b.active > share/2 {
		return 0
	}
	switch {
	case b.known:
	case len(p.terms) > 0: // it may have use for no more
		return 1
	default:
		return share - b.active
	}
	if p.Agents[b.site.agent] == nil {
		return 0
	}
	d, g := s.sites[b.site], s.groupOf(b.site, p)
	space := s.space(g, p, now)
	switch {
	case space <= 0:
		g.starve(b)
		return 0
	case d == nil || d.failures == 0:
		return min(share-b.active, space)
	case d.until.After(now) || d.running > 0 || !d.idle():
		return 0
	}
	return 1 // a probe
}

// choose takes a bin that is to be read, and for how many recipients.
func (s *schedule) choose(p *Policy, now time.Time) (b *bin, want int) {
	for len(s.toRead) > 0 && p != nil && s.count < p.Schedule.Active {
		b := s.toRead[0]
		s.toRead[0] = nil
		s.toRead = s.toRead[1:]
		b.listed = false
		if want := s.wants(b, p, now); want > 0 && !b.due.IsZero() {
			b.reading, b.due = true, time.Time{}
			s.reads++
			return b, want
		}
		s.consider(b)
	}
	return nil, 0
}

// read is over: what of it nobody else has becomes active. next is when the
// first that was left is due.
func (s *schedule) read(b *bin, es []*Entry, next time.Time, p *Policy, now time.Time) {
	b.reading = false
	b.due = earlier(b.due, next)
	for _, e := range es {
		if s.touched[e.ID] || s.pending[e.ID] {
			for _, r := range e.Recipients { // whoever has it may leave it as it is
				b.due = earlier(b.due, r.Due)
			}
			b.notBefore = later(b.notBefore, now.Add(100*time.Millisecond))
			continue
		}
		rest := s.others(e)
		if len(rest) == 0 {
			continue
		}
		b.site, b.known = siteOf(e, rest[0].Recipient, p), true
		d := s.sites[b.site]
		if p == nil || p.Agents[b.site.agent] == nil || d != nil && d.until.After(now) { // it has died meanwhile
			b.due = earlier(b.due, rest[0].Due)
			continue
		}
		s.activate(e, rest, b, p, now)
	}
	s.readEnds()
	s.consider(b)
}

// readEnds forgets what has changed during reads when there are none.
func (s *schedule) readEnds() {
	if s.reads--; s.reads == 0 {
		clear(s.touched)
	}
}

// others returns the recipients of an entry that are not in the active set.
func (s *schedule) others(e *Entry) []*Recipient {
	ts := s.all[e.ID]
	if len(ts) == 0 {
		return e.Recipients
	}
	active := map[int]bool{}
	for _, t := range ts {
		for _, r := range t.rcpts {
			active[r.Index] = true
		}
	}
	var rest []*Recipient
	for _, r := range e.Recipients {
		if !active[r.Index] {
			rest = append(rest, r)
		}
	}
	return rest
}

// seize makes tickets, which nobody may disturb, of entries that were read for
// another reason than an attempt.
func (s *schedule) seize(b *bin, es []*Entry, p *Policy) (ts []*ticket) {
	for _, e := range es {
		if s.touched[e.ID] || s.pending[e.ID] {
			continue
		}
		bare := *e
		bare.Recipients = nil
		for _, t := range tickets(&bare, s.others(e), p) {
			t.bin, t.running = b, true
			s.enter(t, p)
			ts = append(ts, t)
		}
	}
	return ts
}

// looks is a heap of bins by the time to look at them.
type looks []*bin

func (l looks) Len() int           { return len(l) }
func (l looks) Less(i, j int) bool { return l[i].look.Before(l[j].look) }
func (l looks) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push is for container/heap.
func (l *looks) Push(x any) {
	b := x.(*bin)
	b.index = len(*l)
	*l = append(*l, b)
}

// Pop is for container/heap.
func (l *looks) Pop() any {
	old := *l
	b := old[len(old)-1]
	old[len(old)-1] = nil
	*l = old[:len(old)-1]
	b.index = -1
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
