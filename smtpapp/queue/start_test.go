package queue_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
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
