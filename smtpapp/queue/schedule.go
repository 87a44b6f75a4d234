package queue

import (
	"container/heap"
	"slices"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A ticket is what one attempt is for: recipients of one entry that share an
// agent and a destination, and whose time has come. While it runs, its attempt
// alone touches it; else the schedule does.
type ticket struct {
	entry *Entry // without recipients and content, shared by all its tickets
	rcpts []*Recipient
	due   time.Time // the first of theirs
	site  site
	terms *terms // that were in force for the site when it was begun
	bin   *bin   // where its recipients wait in the store too, nil if nowhere

	content *message.Message // of what has just been accepted, nil if it is in the store only
	running bool             // an attempt is being made, or something else that nobody may disturb
	gone    bool             // it was taken out of the schedule: its ready queue passes over it
	hasten  map[int]bool     // recipients, by index: if it fails, the next is made at once
	wishes  map[int]Mark     // for recipients when the attempt is over
}

// A site is where a ticket goes: its ready queue.
type site struct {
	agent, destination string
	source             string // of ours, where the agent has several
}

// A schedule is what is being tried and what comes next: the active set. It is
// bounded; what waits is in the store, and of that, only what is known of each
// bin is here. It is guarded by Queue.mu.
type schedule struct {
	bins   map[int64]*bin
	looks  looks  // bins to look at, by the time for that
	toRead []*bin // those that have something due and room for it

	paused pauses // sites that are left alone, by the end of that
	sites  map[site]*destination
	turn   []*destination // those that have ready tickets and may have an attempt, in rotation
	probes []*destination // the same of those where nobody was there the last time

	astrays  []site // whose hosts are to be looked up
	locating int    // look-ups under way

	groupings
	gatherings      map[string]*gathering // by entry id
	gatheringsSwept time.Time

	all     map[string][]*ticket // by entry id
	count   int                  // recipients in all
	running int
	probing int
	kept    int64 // octets of content in memory

	timesKept time.Time // when overtime was looked for last

	reads   int             // of the store that are under way
	touched map[string]bool // entries that have changed since these began
	pending map[string]bool // entries that are being committed or operated on
}

func newSchedule() schedule {
	return schedule{
		bins: map[int64]*bin{}, sites: map[site]*destination{}, all: map[string][]*ticket{}, groupings: groupings{groups: map[string]*group{}}, gatherings: map[string]*gathering{},
		touched: map[string]bool{}, pending: map[string]bool{},
	}
}

// tickets parts recipients of an entry by agent and destination, and who is new
// from who was tried.
func tickets(e *Entry, rcpts []*Recipient, p *Policy) []*ticket {
	type part struct {
		site
		tried bool
	}
	var ts []*ticket
	parts := map[part]*ticket{}
	for _, r := range rcpts {
		if r.Held {
			continue
		}
		k := part{siteOf(e, r.Recipient, p), r.Attempts > 0}
		t := parts[k]
		if t == nil {
			t = &ticket{entry: e, site: k.site}
			parts[k] = t
			ts = append(ts, t)
		}
		t.due = earlier(t.due, r.Due)
		t.rcpts = append(t.rcpts, r)
	}
	return ts
}

func siteOf(e *Entry, r *mail.Recipient, p *Policy) site {
	s := site{agent: r.Agent}
	if p == nil {
		return s
	}
	if rt, ok := p.Agents[r.Agent].(Router); ok {
		s.destination = rt.Destination(e.Envelope, r)
	}
	if so, ok := p.Agents[r.Agent].(Sourcer); ok {
		s.source = so.ChooseSource(e.ID, e.Envelope)
	}
	return s
}

// maxKept bounds the content that is kept in memory for attempts that come at
// once. What is over it is read from the store again.
const maxKept = 32 << 20

// share is how many recipients of one bin, or new ones of one site, may be in
// the active set: the fewer, the fuller it is, so that one that has much leaves
// room for all others.
func (s *schedule) share(limit int) int {
	return max((limit-s.count)/2, min(limit, 10))
}

// admits reports whether new mail for a site goes into the active set: there is
// room, and an attempt will come soon. Else it waits in the store.
func (s *schedule) admits(k site, p *Policy, now time.Time) bool {
	if p == nil || p.Agents[k.agent] == nil || s.count >= p.Schedule.Active {
		return false
	}
	if s.space(s.groupOf(k, p), p, now) <= 0 {
		return false
	}
	d := s.sites[k]
	return d == nil || d.failures == 0 && d.fresh < s.share(p.Schedule.Active)
}

// place decides, before they are committed, which recipients of a new entry
// wait in the store.
func (s *schedule) place(e *Entry, p *Policy, now time.Time) {
	for _, r := range e.Recipients {
		if k := siteOf(e, r.Recipient, p); r.Due.After(now) || !s.admits(k, p, now) {
			r.stow(e, k, s.termsOf(k, p))
		}
	}
}

// activate makes recipients of an entry, which may have content, ready. They
// are from a bin, or from nowhere.
func (s *schedule) activate(e *Entry, rcpts []*Recipient, b *bin, p *Policy, now time.Time) {
	bare := *e
	bare.Recipients, bare.Content = nil, nil
	for _, t := range tickets(&bare, rcpts, p) {
		t.bin = b
		if e.Content != nil {
			s.keep(t, e.Content)
		}
		d := s.enter(t, p)
		k := 0
		if b != nil || t.rcpts[0].Attempts > 0 {
			k = 1
		}
		d.ready[k] = inOrder(d.ready[k], t)
		s.list(d, p, now)
	}
}

// enter adds a ticket to the active set.
func (s *schedule) enter(t *ticket, p *Policy) *destination {
	s.all[t.entry.ID] = append(s.all[t.entry.ID], t)
	d := s.sites[t.site]
	if d == nil {
		d = newDestination(t.site)
		s.sites[t.site] = d
		s.find(d, p)
	}
	t.terms = d.terms
	s.weigh(t, len(t.rcpts))
	return d
}

func (s *schedule) weigh(t *ticket, n int) {
	s.count += n
	d := s.sites[t.site]
	d.active += n
	if d.group != nil {
		d.group.active += n
	}
	if t.bin != nil {
		t.bin.active += n
	} else {
		d.fresh += n
	}
}

// remove takes a ticket out of the active set.
func (s *schedule) remove(t *ticket) {
	s.weigh(t, -len(t.rcpts))
	s.forget(t)
	id := t.entry.ID
	if s.reads > 0 {
		s.touched[id] = true
	}
	list := s.all[id]
	if i := slices.Index(list, t); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if s.all[id] = list; len(list) == 0 {
		delete(s.all, id)
	}
}

func (s *schedule) keep(t *ticket, m *message.Message) {
	if data, ok := m.Body().Bytes(); ok && s.kept+int64(len(data)) <= maxKept {
		t.content = m
		s.kept += int64(len(data))
	}
}

// forget drops the content of a ticket.
func (s *schedule) forget(t *ticket) {
	if t.content != nil {
		s.kept -= t.content.Body().Size()
		t.content = nil
	}
}

// withdraw takes what is ready of an entry out of the active set, and returns
// that and what attempts have.
func (s *schedule) withdraw(id string) (taken, busy []*ticket) {
	for _, t := range slices.Clone(s.all[id]) {
		if t.running {
			busy = append(busy, t)
			continue
		}
		t.gone = true
		s.remove(t)
		taken = append(taken, t)
	}
	return taken, busy
}

// reopen ends the pause of a site.
func (s *schedule) reopen(k site) {
	d := s.sites[k]
	if d == nil || d.pause < 0 {
		return
	}
	d.until = time.Time{}
	heap.Fix(&s.paused, d.pause)
	s.considerSite(k)
}

// refile sorts the active set by the sites of a policy, and forgets which bins
// are of which. What is being tried is left alone, and what is known of sites
// that matter is kept. What has no agent any more leaves; it returns those that
// are not in the store's bins yet.
func (s *schedule) refile(p *Policy, now time.Time) (lost []*ticket) {
	var idle []*ticket
	for _, list := range s.all {
		for _, t := range list {
			if !t.running {
				idle = append(idle, t)
			}
		}
	}
	for _, t := range idle {
		s.remove(t)
	}
	s.turn, s.probes = nil, nil
	s.ungroup()
	for _, d := range s.sites {
		d.ready, d.listed = [2][]*ticket{}, false
		s.find(d, p)
		s.drop(d)
	}
	for _, t := range idle {
		switch {
		case p.Agents[t.site.agent] != nil:
			s.activate(t.entry, t.rcpts, t.bin, p, now)
		case t.bin != nil:
			s.putAll(t.rcpts)
		default:
			t.running = true
			s.enter(t, p)
			lost = append(lost, t)
		}
	}
	for _, d := range s.sites {
		s.list(d, p, now)
	}
	for _, b := range s.bins {
		b.known = false
		s.consider(b)
	}
	return lost
}

// ripen lists what may be tried or read now, and returns when to look again.
func (s *schedule) ripen(now time.Time, p *Policy) (next time.Time) {
	next = s.openGates(p, now)
	for len(s.paused) > 0 && !s.paused[0].until.After(now) {
		d := heap.Pop(&s.paused).(*destination)
		s.list(d, p, now)
		s.considerSite(d.site)
		s.drop(d)
	}
	for len(s.looks) > 0 && !s.looks[0].look.After(now) {
		b := heap.Pop(&s.looks).(*bin)
		if s.wants(b, p, now) > 0 {
			b.listed = true
			s.toRead = append(s.toRead, b)
			continue
		}
		// What ends its wait has it looked at; this is for what is not foreseen.
		b.look = now.Add(time.Minute)
		heap.Push(&s.looks, b)
	}
	if len(s.looks) > 0 {
		next = earlier(next, s.looks[0].look)
	}
	if len(s.paused) > 0 {
		next = earlier(next, s.paused[0].until)
	}
	return next
}

// list puts a site into the rotation if it can have an attempt. Who cannot is
// listed by what ends that: an attempt that ends, a pause that is over, a
// policy that has the agent. So nothing is looked at in vain.
func (s *schedule) list(d *destination, p *Policy, now time.Time) {
	if p == nil || d.listed || d.waiting || d.idle() || !d.open(now) {
		return
	}
	if _, known := p.Agents[d.site.agent]; !known {
		return
	}
	if s.astray(d, now) || !s.admit(d, now) {
		return
	}
	d.listed = true
	if d.failures > 0 {
		s.probes = append(s.probes, d)
	} else {
		s.turn = append(s.turn, d)
	}
}

// next takes a ticket that may be tried now, nil if there is none.
func (s *schedule) next(p *Policy, now time.Time) *ticket {
	for {
		t := s.pick(p, now)
		if t != nil || len(s.roomy) == 0 {
			return t
		}
		s.fill(p, now)
	}
}

// pick takes a ticket of those listed: one of each site in turn, so that
// none waits for another's backlog. Probes of dead sites have a tenth of all
// attempts for themselves and no more than a quarter, so that many of them do
// not stand in the way.
func (s *schedule) pick(p *Policy, now time.Time) *ticket {
	if s.running >= p.Schedule.Concurrency {
		return nil
	}
	if s.probing < max(1, p.Schedule.Concurrency/10) {
		if t := s.take(&s.probes, p, now); t != nil {
			return t
		}
	}
	if t := s.take(&s.turn, p, now); t != nil {
		return t
	}
	if s.probing >= p.Schedule.Concurrency/4 {
		return nil
	}
	return s.take(&s.probes, p, now)
}

func (s *schedule) take(turn *[]*destination, p *Policy, now time.Time) *ticket {
	for len(*turn) > 0 {
		d := (*turn)[0]
		(*turn)[0] = nil
		*turn = (*turn)[1:]
		d.listed = false
		if !d.open(now) {
			s.release(d.group)
			continue
		}
		if d.peek() != nil && !s.admit(d, now) {
			continue
		}
		t := d.pop()
		if t == nil {
			s.release(d.group)
			s.drop(d)
			continue
		}
		d.running++
		s.running++
		if d.group != nil {
			d.group.began(len(t.rcpts), now)
		}
		if d.failures > 0 {
			d.probing++
			s.probing++
		}
		t.running, t.terms = true, d.terms
		s.list(d, p, now)
		return t
	}
	return nil
}

// ended notes that an attempt is over and whether anybody was there. If nobody
// was, what is ready for the site leaves the active set. It returns what is not
// in the store's bins yet.
func (s *schedule) ended(t *ticket, there presence, p *Policy, began, now time.Time) (park []*ticket) {
	d := s.sites[t.site]
	s.leave(d)
	if last := t.rcpts[0].Last.Reply; there != present && last != nil {
		d.reason = last.Error()
	}
	s.finish(t)
	switch {
	case there == present:
		d.succeeded(now)
	case there == full && d.full(now):
	case !d.refused(now):
		d.failed(began, now)
		park = s.empty(d)
	}
	s.rest(d)
	s.considerSite(d.site)
	s.relisted(d, p, now)
	return park
}

// rest has a site that is left alone looked at when that ends.
func (s *schedule) rest(d *destination) {
	switch {
	case d.pause >= 0:
		heap.Fix(&s.paused, d.pause)
	case !d.until.IsZero():
		heap.Push(&s.paused, d)
	}
}

// leave notes that a site has an attempt less.
func (s *schedule) leave(d *destination) {
	d.running--
	s.running--
	if d.group != nil {
		d.group.running--
		s.release(d.group)
	}
	if d.probing > 0 {
		d.probing--
		s.probing--
	}
}

// empty takes what is ready for a site out of the active set. What is in a bin
// is read again when its time has come; what is not is returned, to be put there.
func (s *schedule) empty(d *destination) (park []*ticket) {
	for t := d.pop(); t != nil; t = d.pop() {
		if t.bin == nil {
			t.running = true
			park = append(park, t)
			continue
		}
		s.remove(t)
		s.putAll(t.rcpts)
	}
	return park
}

// returned notes that no attempt was made after all.
func (s *schedule) returned(t *ticket, p *Policy, now time.Time) {
	d := s.sites[t.site]
	s.leave(d)
	s.finish(t)
	s.considerSite(t.site)
	s.relisted(d, p, now)
}

// relisted lists a site, and those of its group, after an attempt.
func (s *schedule) relisted(d *destination, p *Policy, now time.Time) {
	if d.group != nil {
		s.feed(d.group, p, now)
	}
	s.fill(p, now)
	s.list(d, p, now)
	s.drop(d)
}

// finish forgets a ticket that was begun.
func (s *schedule) finish(t *ticket) {
	t.running = false
	s.remove(t)
	s.consider(t.bin)
}

// drop forgets a site that nothing is known of, or whose mail has gone.
func (s *schedule) drop(d *destination) {
	if !d.idle() || d.running > 0 || d.pause >= 0 || d.active > 0 || s.sites[d.site] != d {
		return
	}
	if d.remembers() {
		for id := range binsOf(d.site) {
			if s.bins[id] != nil {
				return
			}
		}
	}
	s.quit(d)
	delete(s.sites, d.site)
}
