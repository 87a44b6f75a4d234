package sqldb

import "sync"

// A use is that of a user's secret.
type use struct{ user, secret string }

// maxUses is how many uses may wait; more are not noted.
const maxUses = 10000

// A recorder writes uses down one after the other. Its goroutine is there while
// there is something to write.
type recorder struct {
	write func(use) error

	mu      sync.Mutex
	waiting map[use]bool
	running bool
	stopped bool
	done    sync.WaitGroup
}

// add has a use written soon.
func (r *recorder) add(u use) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || len(r.waiting) >= maxUses {
		return
	}
	if r.waiting == nil {
		r.waiting = map[use]bool{}
	}
	r.waiting[u] = true
	if !r.running {
		r.running = true
		r.done.Go(r.run)
	}
}

func (r *recorder) run() {
	for {
		u, ok := r.next()
		if !ok {
			return
		}
		if err := r.write(u); err != nil {
			r.giveUp()
		}
	}
}

func (r *recorder) next() (use, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for u := range r.waiting {
		delete(r.waiting, u)
		return u, true
	}
	r.running = false
	return use{}, false
}

// giveUp forgets what waits if nothing more is to come.
func (r *recorder) giveUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		clear(r.waiting)
	}
}

// stop takes no more uses, and waits for the last to be written. They are lost if
// they are many or one fails, since nobody waits for a database that is down.
func (r *recorder) stop() {
	r.mu.Lock()
	r.stopped = true
	if len(r.waiting) > maxLast {
		clear(r.waiting)
	}
	r.mu.Unlock()
	r.done.Wait()
}

// maxLast is how many uses are still written when the configuration ends.
const maxLast = 10
