// Package storetest says what a queue.Store has to do, as tests that every
// implementation runs, and has one that keeps everything in memory.
package storetest

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// Run runs the suite. fresh returns a store that is empty, as a function that
// opens it: for the first time, and again after Close.
func Run(t *testing.T, fresh func(t *testing.T) (open func() queue.Store)) {
	for name, test := range map[string]func(*suite){
		"Empty":         (*suite).empty,
		"RoundTrip":     (*suite).roundTrip,
		"Order":         (*suite).order,
		"Update":        (*suite).update,
		"Mark":          (*suite).mark,
		"Done":          (*suite).done,
		"SharedBody":    (*suite).sharedBody,
		"Spooled":       (*suite).spooled,
		"AllOrNothing":  (*suite).allOrNothing,
		"Closed":        (*suite).closed,
		"CommitAtClose": (*suite).commitAtClose,
		"Many":          (*suite).many,
		"Begin":         (*suite).begin,
		"Settled":       (*suite).settled,
		"Bins":          (*suite).bins,
		"Waiting":       (*suite).waiting,
		"WaitingWhole":  (*suite).waitingWhole,
		"Loose":         (*suite).loose,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{T: t, open: fresh(t)}
			s.Store = s.open()
			t.Cleanup(func() { _ = s.Store.Close() })
			test(s)
		})
	}
}

type suite struct {
	*testing.T
	queue.Store
	open func() queue.Store
}

// reopen is what a restart does.
func (s *suite) reopen() {
	s.Helper()
	if err := s.Store.Close(); err != nil {
		s.Fatal(err)
	}
	s.Store = s.open()
}

func (s *suite) commit(c *queue.Change) {
	s.Helper()
	if err := s.Commit(s.Context(), c); err != nil {
		s.Fatal(err)
	}
}

// Content returns a message of memory's size, unless n is large.
func text(s *suite, subject string, n int) *message.Message {
	s.Helper()
	m, err := message.Receive(strings.NewReader("Subject: "+subject+"\r\n\r\n"+strings.Repeat("0123456789\r\n", n)), message.Limits{}, s.Store)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = m.Body().Discard() })
	return m
}

// NewEntry returns an entry for recipients at example.test.
func NewEntry(id string, m *message.Message, local ...string) *queue.Entry {
	now := time.Now().Truncate(time.Microsecond)
	e := &queue.Entry{ID: id, Queued: now, Envelope: &mail.Envelope{From: mail.Address{Local: "s", Domain: "from.test"}}, Content: m}
	for i, l := range local {
		r := mail.NewRecipient(mail.Address{Local: l, Domain: "example.test"})
		r.Claim("agent")
		e.Recipients = append(e.Recipients, &queue.Recipient{Recipient: r, Entry: id, Index: i, Due: now})
	}
	return e
}

func (s *suite) ids(after string) (ids []string) {
	s.Helper()
	if err := s.Each(s.Context(), after, func(e *queue.Entry) bool {
		ids = append(ids, e.ID)
		return true
	}); err != nil {
		s.Fatal(err)
	}
	return ids
}

func (s *suite) read(id string) string {
	s.Helper()
	m, err := s.Content(s.Context(), id)
	if err != nil {
		s.Fatalf("%s: %v", id, err)
	}
	r, err := m.NewReader()
	if err != nil {
		s.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		s.Fatal(err)
	}
	return string(b)
}

func (s *suite) get(id string) *queue.Entry {
	s.Helper()
	e, err := s.Get(s.Context(), id)
	if err != nil {
		s.Fatalf("%s: %v", id, err)
	}
	return e
}

func (s *suite) gone(id string) {
	s.Helper()
	if _, err := s.Get(s.Context(), id); !errors.Is(err, queue.ErrNotFound) {
		s.Errorf("%s: got %v, want ErrNotFound", id, err)
	}
	if _, err := s.Content(s.Context(), id); !errors.Is(err, queue.ErrNotFound) {
		s.Errorf("content of %s: got %v, want ErrNotFound", id, err)
	}
}

func (s *suite) empty() {
	if got := s.ids(""); len(got) != 0 {
		s.Errorf("got %q", got)
	}
	s.gone("nobody")
	s.commit(&queue.Change{})
}

// roundTrip: every field comes back, in this process and in the next one.
func (s *suite) roundTrip() {
	e := NewEntry("a", text(s, "x", 1), "x", "y")
	t := time.Now().Add(time.Hour).Truncate(time.Microsecond).UTC()
	e.Envelope = &mail.Envelope{
		From: mail.Address{Local: "a b", Domain: "from.test"}, Size: 5, Body: mail.Body8Bit, UTF8: true, RequireTLS: true,
		Return: mail.ReturnHeaders, ID: "id+1", Auth: "<>", Priority: -3, Prioritized: true, DeliverBy: t, DeliverByReturn: true, DeliverByTold: true, DeliverByTrace: true, Final: true,
		HoldUntil: t, AuthUser: "u", ClientIP: "192.0.2.9", Hello: "h.test",
	}
	r := e.Recipients[0]
	r.Given = mail.Address{Local: "given", Domain: "example.test"}
	r.Notify, r.Original, r.RRVS, r.RRVSReject, r.Expanded = mail.NotifySuccess|mail.NotifyDelay, "rfc822;x@y", t, true, true
	r.Held, r.Reason, r.Due = true, "why", t
	s.commit(&queue.Change{Add: []*queue.Entry{e}})
	for range 2 {
		got := s.get("a")
		if !reflect.DeepEqual(got.Envelope, e.Envelope) {
			s.Errorf("envelope: got %+v, want %+v", got.Envelope, e.Envelope)
		}
		if !got.Queued.Equal(e.Queued) || len(got.Recipients) != 2 || got.Recipients[1].Index != 1 {
			s.Fatalf("got %+v", got)
		}
		g := got.Recipients[0]
		if !reflect.DeepEqual(g.Recipient, r.Recipient) || g.Entry != "a" || !g.Held || g.Reason != "why" || !g.Due.Equal(t) || g.Attempts != 0 || g.Done {
			s.Errorf("recipient: got %+v %+v, want %+v %+v", g, g.Recipient, r, r.Recipient)
		}
		if got := s.read("a"); got != "Subject: x\r\n\r\n0123456789\r\n" {
			s.Errorf("content: got %q", got)
		}
		s.reopen()
	}
}

// order: Each goes by id, from behind the one it is given, until it is told.
func (s *suite) order() {
	m := text(s, "x", 1)
	for _, id := range []string{"c", "a", "d-2", "d", "b"} {
		s.commit(&queue.Change{Add: []*queue.Entry{NewEntry(id, m, "x", "y")}})
	}
	if got := fmt.Sprint(s.ids(""), s.ids("b"), s.ids("bb"), s.ids("z")); got != "[a b c d d-2] [c d d-2] [c d d-2] []" {
		s.Errorf("got %s", got)
	}
	n := 0
	if err := s.Each(s.Context(), "", func(*queue.Entry) bool { n++; return n < 2 }); err != nil || n != 2 {
		s.Errorf("called %d times, want 2; %v", n, err)
	}
}

// update: what an attempt changes is stored, of that recipient alone.
func (s *suite) update() {
	e := NewEntry("a", text(s, "x", 1), "x", "y")
	s.commit(&queue.Change{Add: []*queue.Entry{e}})
	r := *e.Recipients[1]
	r.Attempts, r.Due, r.Noticed, r.Held = 3, r.Due.Add(time.Hour), true, true
	r.Last = queue.Status{Reply: mail.Refuse(451, "4.7.1", "line\nline"), RemoteMTA: "mx.test"}
	r.Reason = "why"
	r.History = []queue.Attempt{{At: e.Queued.UTC(), Took: time.Second, Agent: "x", Remote: "mx.test", Reply: "451 no\nno"}, {Agent: "y"}}
	s.commit(&queue.Change{Update: []*queue.Recipient{&r}})
	s.reopen()
	got := s.get("a").Recipients
	if g := got[1]; g.Attempts != 3 || !g.Due.Equal(r.Due) || !g.Noticed || !g.Held || g.Last.RemoteMTA != "mx.test" ||
		!reflect.DeepEqual(g.Last.Reply, r.Last.Reply) || g.Reason != "why" || !reflect.DeepEqual(g.History, r.History) {
		s.Errorf("got %+v", g)
	}
	if g := got[0]; g.Attempts != 0 || g.Noticed || g.Held || g.Last.Reply != nil || g.History != nil {
		s.Errorf("another one changed: %+v", g)
	}
}

// mark: an operator's wish and another agent are kept, beside what an attempt
// writes, and over it.
func (s *suite) mark() {
	e := NewEntry("a", text(s, "x", 1), "x", "y")
	s.commit(&queue.Change{Add: []*queue.Entry{e}})
	s.commit(&queue.Change{Mark: []queue.Mark{{Entry: "a", Wish: queue.WishHold, Agent: "other"}, {Entry: "gone"}, {Entry: "a", Index: 7}}})
	r := *e.Recipients[0]
	r.Attempts = 1
	s.commit(&queue.Change{Update: []*queue.Recipient{&r}})
	s.reopen()
	got := s.get("a").Recipients
	if g := got[0]; g.Wish != queue.WishHold || g.Agent != "other" || g.Attempts != 1 {
		s.Errorf("got %+v", g)
	}
	if g := got[1]; g.Wish != queue.NoWish || g.Agent != "agent" {
		s.Errorf("another one changed: %+v", g)
	}
	s.commit(&queue.Change{Mark: []queue.Mark{{Entry: "a"}}})
	if g := s.get("a").Recipients[0]; g.Wish != queue.NoWish || g.Agent != "other" {
		s.Errorf("got %+v", g)
	}
}

// done: recipients go one by one, and with the last one their entry. What is
// gone can be updated, to no effect, and its id is free.
func (s *suite) done() {
	e := NewEntry("a", text(s, "x", 1), "x", "y")
	s.commit(&queue.Change{Add: []*queue.Entry{e, NewEntry("b", e.Content, "x")}})
	finish := func(i int, done bool) {
		r := *e.Recipients[i]
		r.Done = done
		s.commit(&queue.Change{Update: []*queue.Recipient{&r}})
	}
	finish(0, true)
	if got := s.get("a").Recipients; len(got) != 1 || got[0].Index != 1 {
		s.Errorf("got %+v", got)
	}
	finish(0, false)
	if got := s.get("a").Recipients; len(got) != 1 {
		s.Errorf("a recipient has come back: %+v", got)
	}
	finish(1, true)
	s.gone("a")
	finish(1, true)
	finish(1, false)
	s.gone("a")
	s.get("b")
	s.commit(&queue.Change{Add: []*queue.Entry{NewEntry("a", text(s, "again", 1), "x")}})
	if got := s.read("a"); !strings.HasPrefix(got, "Subject: again") {
		s.Errorf("got %q", got)
	}
}

// sharedBody: forks share a body, which stays until the last of them is gone.
func (s *suite) sharedBody() {
	for _, n := range []int{1, 10_000} {
		id := fmt.Sprint(n)
		m := text(s, "one", n)
		fork := m.Fork()
		fork.Header.Prepend("X-Fork", "yes")
		a, b := NewEntry(id, m, "x"), NewEntry(id+"-2", fork, "y")
		s.commit(&queue.Change{Add: []*queue.Entry{a, b}})
		if err := m.Body().Discard(); err != nil {
			s.Error(err)
		}
		a.Recipients[0].Done = true
		s.commit(&queue.Change{Update: a.Recipients})
		s.gone(id)
		s.reopen()
		if got, want := s.read(id+"-2"), "X-Fork: yes\r\nSubject: one\r\n\r\n"+strings.Repeat("0123456789\r\n", n); got != want {
			s.Errorf("got %d octets, want %d", len(got), len(want))
		}
		b.Recipients[0].Done = true
		s.commit(&queue.Change{Update: b.Recipients})
		s.gone(id + "-2")
	}
}

// spooled: content that Create made a file for belongs to the store once it is
// committed, and can be read by several at once.
func (s *suite) spooled() {
	m := text(s, "large", 10_000)
	if m.Body().File() == nil {
		s.Fatal("it is not in a file")
	}
	s.commit(&queue.Change{Add: []*queue.Entry{NewEntry("a", m, "x")}})
	if err := m.Body().Discard(); err != nil {
		s.Error(err)
	}
	got, err := s.Content(s.Context(), "a")
	if err != nil {
		s.Fatal(err)
	}
	if got.Body().Sum() != m.Body().Sum() || got.Body().Size() != m.Body().Size() || got.Body().Stats() != m.Body().Stats() {
		s.Error("size, sum or lines differ")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			r, err := got.NewReader()
			if err != nil {
				s.Error(err)
				return
			}
			defer r.Close()
			if n, err := io.Copy(io.Discard, r); n != got.Size() || err != nil {
				s.Errorf("got %d of %d octets, %v", n, got.Size(), err)
			}
		})
	}
	wg.Wait()
}

// allOrNothing: an id that is taken spoils the whole change, and nothing else.
func (s *suite) allOrNothing() {
	first := NewEntry("a", text(s, "first", 1), "x")
	s.commit(&queue.Change{Add: []*queue.Entry{first}})
	for _, n := range []int{1, 10_000} {
		m := text(s, "second", n)
		r := *first.Recipients[0]
		r.Done = true
		c := &queue.Change{Add: []*queue.Entry{NewEntry("b", m, "x"), NewEntry("a", m, "x")}, Update: []*queue.Recipient{&r}}
		if err := s.Commit(s.Context(), c); err == nil {
			s.Fatal("an id was taken twice")
		}
		if err := m.Body().Discard(); err != nil {
			s.Error(err)
		}
		s.gone("b")
		if got := s.read("a"); !strings.HasPrefix(got, "Subject: first") {
			s.Errorf("got %q", got)
		}
		m = text(s, "third", n) // the id that came to nothing is free
		s.commit(&queue.Change{Add: []*queue.Entry{NewEntry("b", m, "x")}})
		done := s.get("b").Recipients
		done[0].Done = true
		s.commit(&queue.Change{Update: done})
	}
}

// closed: nothing is taken any more, and nobody waits for ever.
func (s *suite) closed() {
	m := text(s, "x", 1)
	if err := s.Store.Close(); err != nil {
		s.Fatal(err)
	}
	if err := s.Commit(s.Context(), &queue.Change{Add: []*queue.Entry{NewEntry("a", m, "x")}}); !errors.Is(err, queue.ErrClosed) {
		s.Errorf("got %v, want ErrClosed", err)
	}
	if err := s.Store.Close(); err != nil {
		s.Errorf("a second Close: %v", err)
	}
	s.Store = s.open()
	s.gone("a")
}

// commitAtClose: what is acknowledged while another closes the store is there.
func (s *suite) commitAtClose() {
	m := text(s, "x", 1)
	for round := range 20 {
		var wg sync.WaitGroup
		var acked sync.Map
		for i := range 20 {
			wg.Go(func() {
				id := fmt.Sprintf("%d-%d", round, i)
				switch err := s.Commit(s.Context(), &queue.Change{Add: []*queue.Entry{NewEntry(id, m, "x")}}); {
				case err == nil:
					acked.Store(id, true)
				case !errors.Is(err, queue.ErrClosed):
					s.Error(err)
				}
			})
		}
		if err := s.Store.Close(); err != nil {
			s.Error(err)
		}
		wg.Wait()
		s.Store = s.open()
		acked.Range(func(id, _ any) bool {
			s.get(id.(string))
			return true
		})
	}
}

// many: several writers and readers at once.
func (s *suite) many() {
	m := text(s, "x", 1)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				e := NewEntry(fmt.Sprintf("%02d-%02d", i, j), m, "x", "y")
				if err := s.Commit(s.Context(), &queue.Change{Add: []*queue.Entry{e}}); err != nil {
					s.Error(err)
				}
				e.Recipients[j%2].Done = true
				if err := s.Commit(s.Context(), &queue.Change{Update: e.Recipients[j%2 : j%2+1]}); err != nil {
					s.Error(err)
				}
				if err := s.Each(s.Context(), e.ID, func(*queue.Entry) bool { return false }); err != nil {
					s.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	if err := s.Each(s.Context(), "", func(e *queue.Entry) bool {
		n += len(e.Recipients)
		return true
	}); err != nil || n != 320 {
		s.Errorf("%d recipients are left, want 320; %v", n, err)
	}
}

// begin: attempts that end are none of those that ended with the process.
func (s *suite) begin() {
	for _, id := range []string{"a", "b", "c"} {
		s.commit(&queue.Change{Add: []*queue.Entry{NewEntry(id, text(s, id, 1), "x", "y")}})
	}
	starts := func(want string) {
		s.Helper()
		got := ""
		for _, id := range []string{"a", "b", "c"} {
			for _, r := range s.get(id).Recipients {
				got += fmt.Sprint(r.Starts)
			}
		}
		if got != want {
			s.Errorf("got %s starts, want %s", got, want)
		}
	}
	s.Begin("a")
	s.Begin("a") // for another site
	s.Begin("b").End()
	s.Begin("gone")
	s.Begin(strings.Repeat("long", 100)).End()
	due := s.get("a").Recipients[0].Due
	s.reopen()
	starts("110000")
	if !s.get("a").Recipients[0].Due.Equal(due) {
		s.Error("the first time, it has to wait")
	}
	s.Begin("b").End()
	s.Begin("c")
	s.Begin("a")
	s.reopen()
	starts("220011")
	if in := time.Until(s.get("a").Recipients[0].Due); in < -5*time.Second || in > time.Minute {
		s.Errorf("the second time, it is due in %v", in)
	}
	s.reopen()
	starts("220011")
	a := s.get("a")
	a.Recipients[0].Starts, a.Recipients[1].Held = 0, true
	s.commit(&queue.Change{Update: a.Recipients})
	s.Begin("a")
	s.reopen()
	starts("120011")
}

// settled: what is known to be done is, though the process ended before it was
// committed.
func (s *suite) settled() {
	s.commit(&queue.Change{Add: []*queue.Entry{
		NewEntry("a", text(s, "a", 10_000), "x", "y", "z"), NewEntry("b", text(s, "b", 10_000), "x"), NewEntry("c", text(s, "c", 1), "x"),
	}})
	s.Begin("a").Settled([]int{0, 2})
	s.Begin("b").Settled([]int{0})
	s.Begin("gone").Settled([]int{0, 7, 100_000})
	c := s.Begin("c")
	c.Settled(nil)
	c.Settled([]int{0})
	c.End()
	s.reopen()
	if got := s.get("a").Recipients; len(got) != 1 || got[0].Index != 1 || got[0].Starts != 1 {
		s.Errorf("got %+v", got)
	}
	s.gone("b")
	if got := s.get("c").Recipients; len(got) != 1 || got[0].Starts != 0 {
		s.Errorf("got %+v", got)
	}
	s.reopen()
	if got := s.get("a").Recipients; len(got) != 1 || got[0].Starts != 1 {
		s.Errorf("got %+v", got)
	}
}
