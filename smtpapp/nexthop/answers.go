package nexthop

import (
	"container/list"
	"sync"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// How long answers hold, and how many are kept. Who was created a moment ago
// should soon get mail; who was deleted gets a little more of it.
const (
	yesHolds   = 5 * time.Minute
	noHolds    = 5 * time.Second
	maxAnswers = 10000
)

// Answers remember what Probe found. The zero value is ready for use.
type Answers struct {
	mu     sync.Mutex
	all    map[mail.Address]*list.Element // of *found
	recent list.List                      // last used first
}

// found is an answer about an address.
type found struct {
	to    mail.Address
	err   error
	until time.Time
}

// Load returns what is known of an address now.
func (a *Answers) Load(to mail.Address) (known bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	el, ok := a.all[to]
	if !ok {
		return false, nil
	}
	f := el.Value.(*found)
	if !time.Now().Before(f.until) {
		a.remove(el)
		return false, nil
	}
	a.recent.MoveToFront(el)
	return true, f.err
}

// Store remembers nil or a permanent Reply. What may pass at any time is no
// answer.
func (a *Answers) Store(to mail.Address, err error) {
	holds := yesHolds
	if err != nil {
		if holds = noHolds; !mail.ReplyFor(err).Permanent() {
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if el, ok := a.all[to]; ok {
		a.remove(el)
	}
	if a.all == nil {
		a.all = make(map[mail.Address]*list.Element)
	}
	for len(a.all) >= maxAnswers {
		a.remove(a.recent.Back())
	}
	a.all[to] = a.recent.PushFront(&found{to, err, time.Now().Add(holds)})
}

func (a *Answers) remove(el *list.Element) {
	delete(a.all, a.recent.Remove(el).(*found).to)
}
