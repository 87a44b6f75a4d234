package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// epoch is a time that those of the tests are counted from, in seconds.
var epoch = time.Unix(1_800_000_000, 0)

func at(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }

// wait adds an entry whose recipients wait in a bin for times, and are to be
// told of as many seconds before 1000.
func (s *suite) wait(id string, bin int64, due ...int) *queue.Entry {
	s.Helper()
	var local []string
	for i := range due {
		local = append(local, fmt.Sprintf("r%d", i))
	}
	e := NewEntry(id, text(s, id, 1), local...)
	for i, d := range due {
		if e.Recipients[i].Bin = bin; bin != 0 {
			e.Recipients[i].Due, e.Recipients[i].Speak = at(d), at(1000-d)
		}
	}
	s.commit(&queue.Change{Add: []*queue.Entry{e}})
	return e
}

// find returns what w chooses, as ids with the indices of recipients, and the
// time of the next in seconds, -1 for none.
func (s *suite) find(w queue.Wait) (found string, next int) {
	s.Helper()
	es, n, err := s.Store.Waiting(s.Context(), w)
	if err != nil {
		s.Fatal(err)
	}
	var words []string
	for _, e := range es {
		word := e.ID
		for _, r := range e.Recipients {
			if r.Entry != e.ID || r.Bin != w.Bin {
				s.Errorf("%s: got a recipient of %s in bin %d", e.ID, r.Entry, r.Bin)
			}
			word += fmt.Sprint(r.Index)
		}
		words = append(words, word)
	}
	if n.IsZero() {
		return strings.Join(words, " "), -1
	}
	return strings.Join(words, " "), int(n.Sub(epoch) / time.Second)
}

// bins: each with its first and last times, whatever the number of recipients.
func (s *suite) bins() {
	s.wait("a", 30, 5, 9)
	s.wait("b", 20, 7)
	c := s.wait("c", 30, 3)
	s.wait("d", 0, 1)
	all := func() (text string) {
		s.Helper()
		for after := int64(0); ; {
			bs, err := s.Store.Bins(s.Context(), after)
			if err != nil {
				s.Fatal(err)
			}
			if len(bs) == 0 {
				return text
			}
			for _, b := range bs {
				if b.ID <= after {
					s.Fatalf("bin %d comes after %d", b.ID, after)
				}
				after = b.ID
				text += fmt.Sprintf("%d:%d-%d,%d ", b.ID, b.Due.Unix()-epoch.Unix(), b.Last.Unix()-epoch.Unix(), b.Speak.Unix()-epoch.Unix())
			}
		}
	}
	for range 2 {
		if got := all(); got != "20:7-7,993 30:3-9,991 " {
			s.Errorf("got %s", got)
		}
		s.reopen()
	}
	c.Recipients[0].Bin, c.Recipients[0].Due, c.Recipients[0].Speak = 40, at(50), at(60)
	s.commit(&queue.Change{Update: c.Recipients})
	if got := all(); got != "20:7-7,993 30:5-9,991 40:50-50,60 " {
		s.Errorf("moved: got %s", got)
	}
	c.Recipients[0].Bin = 0
	s.commit(&queue.Change{Update: c.Recipients})
	b, err := s.Get(s.Context(), "b")
	if err != nil {
		s.Fatal(err)
	}
	b.Recipients[0].Done = true
	s.commit(&queue.Change{Update: b.Recipients})
	if got := all(); got != "30:5-9,991 " {
		s.Errorf("taken out: got %s", got)
	}
}

// waiting comes in the order of its times, no more than wanted of it.
func (s *suite) waiting() {
	for i, due := range []int{40, 10, 30, 20, 50} {
		s.wait(string(rune('a'+i)), 6, due)
	}
	s.wait("x", 8, 15)
	for _, c := range []struct {
		w    queue.Wait
		want string
		next int
	}{
		{queue.Wait{Until: at(100), Limit: 10}, "b0 d0 c0 a0 e0", -1},
		{queue.Wait{Until: at(30), Limit: 10}, "b0 d0 c0", 40},
		{queue.Wait{Until: at(29), Limit: 10}, "b0 d0", 30},
		{queue.Wait{Until: at(9), Limit: 10}, "", 10},
		{queue.Wait{Until: at(100), Limit: 2}, "b0 d0", 30},
		{queue.Wait{Until: at(100), Limit: 5}, "b0 d0 c0 a0 e0", -1},
		{queue.Wait{From: at(20), Until: at(100), Limit: 2}, "c0 a0", 50},
		{queue.Wait{From: at(50), Until: at(100), Limit: 2}, "", -1},
		{queue.Wait{Speak: true, Until: at(970), Limit: 10}, "e0 a0 c0", 980},
		{queue.Wait{Speak: true, Until: at(2000), Limit: 1}, "e0", 960},
	} {
		c.w.Bin = 6
		if got, next := s.find(c.w); got != c.want || next != c.next {
			s.Errorf("%+v: got %q, next %d; want %q, %d", c.w, got, next, c.want, c.next)
		}
	}
	if got, next := s.find(queue.Wait{Bin: 7, Until: at(100), Limit: 10}); got != "" || next != -1 {
		s.Errorf("an empty bin has %q, %d", got, next)
	}
}

// waitingWhole: the chosen recipients of an entry come together, in their
// order, and those that are not do not.
func (s *suite) waitingWhole() {
	s.wait("a", 6, 30, 10, 20, 99)
	s.wait("b", 6, 15)
	if got, _ := s.find(queue.Wait{Bin: 6, Until: at(50), Limit: 2}); got != "a012 b0" {
		s.Errorf("got %q", got)
	}
	got, next := s.find(queue.Wait{Bin: 6, Until: at(50), Limit: 1})
	if got != "a012" || next < 15 || next > 20 {
		s.Errorf("got %q, next %d; want that of b, or no later than what is left of a", got, next)
	}
	e, err := s.Get(s.Context(), "a")
	if err != nil {
		s.Fatal(err)
	}
	e.Recipients[1].Held, e.Recipients[1].Bin = true, 0
	e.Recipients[2].Bin = 8
	s.commit(&queue.Change{Update: e.Recipients})
	if got, next := s.find(queue.Wait{Bin: 6, Until: at(50), Limit: 9}); got != "b0 a0" || next != 99 {
		s.Errorf("got %q, %d", got, next)
	}
}

// loose is what is in no bin and not held, by id, page by page.
func (s *suite) loose() {
	held := s.wait("a", 0, 1)
	s.wait("b", 0, 1, 1)
	s.wait("c", 0, 1)
	s.wait("d", 6, 1)
	mixed := s.wait("e", 0, 1, 1)
	s.wait("f", 0, 1)
	held.Recipients[0].Held = true
	mixed.Recipients[0].Bin, mixed.Recipients[0].Due, mixed.Recipients[0].Speak = 6, at(1), at(1)
	s.commit(&queue.Change{Update: slices.Concat(held.Recipients, mixed.Recipients)})
	if got, next := s.find(queue.Wait{Limit: 10}); got != "b01 c0 e1 f0" || next != -1 {
		s.Errorf("got %q, %d", got, next)
	}
	if got, _ := s.find(queue.Wait{Limit: 3}); got != "b01 c0" {
		s.Errorf("got %q", got)
	}
	if got, _ := s.find(queue.Wait{After: "c", Limit: 3}); got != "e1 f0" {
		s.Errorf("got %q", got)
	}
	if got, _ := s.find(queue.Wait{IDs: []string{"a", "b", "d", "e", "nothing"}, Limit: 10}); got != "b01 e1" {
		s.Errorf("got %q", got)
	}
}
