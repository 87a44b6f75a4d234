package queue_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/queue/storetest"
)

// TestStartsAtOnce: mail is taken while a long queue is being read, and a
// backlog at many sites costs what comes after it nothing to speak of.
func TestStartsAtOnce(t *testing.T) {
	n := 5_000
	if os.Getenv("CADDY_SMTP_SOAK") != "" {
		n = 100_000
	}
	dir := t.TempDir()
	q := open(t, dir)
	t.Logf("empty: %.0f accepted a second", acceptRate(q))
	dead := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{} })
	dead.told = make(chan string, n)
	dead.dest = func(r *mail.Recipient) string { return r.Address.Domain }
	q.Attach(policy(map[string]queue.Agent{"a": dead}, 4*time.Hour))
	began := time.Now()
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for i := range n / 5000 {
				id := queue.NewID()
				var os []*message.Object
				for j := range 100 {
					o := object(t, content, fmt.Sprintf("x@dead%d.test a", (w*1000+i*100+j)%10_000))
					o.ID = id
					os = append(os, o)
				}
				q.accept(os...)
			}
		})
	}
	wg.Wait()
	for range n {
		<-dead.told
	}
	t.Logf("%d deferred in %v: %.0f accepted a second", n, time.Since(began), acceptRate(q))
	q.close()

	began = time.Now()
	q = open(t, dir)
	p := policy(map[string]queue.Agent{"a": dead}, 4*time.Hour)
	q.Attach(p)
	q.accept(object(t, content, "x@good.test none"))
	if took := time.Since(began); took > time.Second {
		t.Errorf("the first message was taken after %v", took)
	}
	for q.Loading() {
		time.Sleep(10 * time.Millisecond)
	}
	loaded := time.Since(began)
	began = time.Now()
	q.Attach(policy(map[string]queue.Agent{"a": dead}, 4*time.Hour))
	t.Logf("loaded after %v; a reload takes %v; %.0f accepted a second", loaded, time.Since(began), acceptRate(q))
}

// acceptRate is how many messages of 4 KiB 50 clients get accepted in a second.
func acceptRate(q *fixture) float64 {
	var wg sync.WaitGroup
	began := time.Now()
	for range 50 {
		wg.Go(func() {
			for range 20 {
				q.accept(object(q.t, content+string(make([]byte, 4000)), "x@good.test none"))
			}
		})
	}
	wg.Wait()
	return 1000 / time.Since(began).Seconds()
}

// TestAcceptBesideDeferred: 100,000 deferred messages cost what comes after them
// nothing to speak of. The two queues are measured in turn, as machines are busy.
func TestAcceptBesideDeferred(t *testing.T) {
	n, rounds := 2_000, 3
	soak := os.Getenv("CADDY_SMTP_SOAK") != ""
	if soak {
		n, rounds = 100_000, 9
	}
	var queues [2]*fixture
	for i := range queues {
		queues[i] = open(t, t.TempDir())
		a := newAgent(delivered)
		a.told = make(chan string, 2000*rounds)
		a.dest = func(r *mail.Recipient) string { return r.Address.Domain }
		queues[i].Attach(policy(map[string]queue.Agent{"a": a}))
	}
	for i := range n / 100 {
		id := queue.NewID()
		var os []*message.Object
		for j := range 100 {
			o := object(t, content, fmt.Sprintf("x@dead%d.test a", (i*100+j)%10_000))
			o.ID, o.Envelope.HoldUntil = id, time.Now().Add(4*time.Hour)
			os = append(os, o)
		}
		queues[1].accept(os...)
	}
	var rates [2][]float64
	for range rounds {
		for i, q := range queues {
			rates[i] = append(rates[i], acceptRate(q))
		}
	}
	slices.Sort(rates[0])
	slices.Sort(rates[1])
	alone, beside := rates[0][rounds/2], rates[1][rounds/2]
	t.Logf("%.0f accepted a second, and %.0f beside %d deferred", alone, beside, n)
	if soak && beside < alone*0.8 { // 0.9 is the aim, and the rest noise
		t.Error("that is too few")
	}
}

// A slowScan is a store in which it takes long to find what is in no bin.
type slowScan struct {
	queue.Store
	began, release chan struct{}
}

func (s slowScan) Waiting(ctx context.Context, w queue.Wait) ([]*queue.Entry, time.Time, error) {
	if w.Bin == 0 && w.IDs == nil {
		select {
		case s.began <- struct{}{}:
		default:
		}
		<-s.release
	}
	return s.Store.Waiting(ctx, w)
}

// TestOperateWhileLoading: what the last process has left is looked for in all of
// the queue, and operators need not wait for that. What they do meanwhile holds.
func TestOperateWhileLoading(t *testing.T) {
	m := new(storetest.Memory).Open()
	c := new(queue.Change)
	for _, id := range []string{"1", "2", "3"} {
		c.Add = append(c.Add, storetest.NewEntry(id, object(t, content, "x@a.test a").Content, "x"))
	}
	if err := m.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	s := slowScan{m, make(chan struct{}, 1), make(chan struct{})}
	q, err := queue.Open(s, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close(t.Context())
	a := newAgent(func(*queue.Delivery, *mail.Recipient) queue.Status { return queue.Status{Action: queue.Delivered} })
	q.Attach(policy(map[string]queue.Agent{"agent": a}))
	<-s.began
	for id, deed := range map[string]queue.Deed{"1": queue.Hold, "2": queue.Delete} {
		done := make(chan error, 1)
		go func() {
			_, err := q.Operate(t.Context(), queue.Operation{Deed: deed}, queue.Filter{IDs: []string{id}}, nil)
			done <- err
		}()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s waits for the whole queue to be read", deed)
		}
	}
	close(s.release)
	var left []*queue.Entry
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && (q.Loading() || len(left) != 1); time.Sleep(10 * time.Millisecond) {
		if left, err = q.List(t.Context(), queue.Filter{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(left) != 1 || left[0].ID != "1" || !left[0].Recipients[0].Held {
		t.Errorf("got %+v", left)
	}
}
