package tests

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
)

// TestOperatorsAtWork: whatever operators do to mail that is being delivered, all at
// once and with reloads in between, each message arrives once, but for what they have
// deleted, which arrives once at most.
func TestOperatorsAtWork(t *testing.T) {
	peer := clienttest.Start(t, clienttest.Options{}, clienttest.Rule{At: ".", Delay: 150 * time.Millisecond})
	h := newHost(t)
	config := fmt.Sprintf(`agent one relay %[1]s {
		tls off
	}
	agent two relay %[1]s {
		tls off
	}
	server in ADDR(in) {
		tls off
		deliver one
	}`, peer.Addr)
	h.load(config)

	stop := make(chan struct{})
	var work sync.WaitGroup
	var odd sync.Map
	again := func(pause time.Duration, f func()) {
		work.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(pause):
					f()
				}
			}
		})
	}
	for _, path := range []string{
		"/smtp/queue?do=retry&all=true", "/smtp/queue?do=hold&domain=held.test", "/smtp/queue?do=release&held=true", "/smtp/queue?do=delete&domain=gone.test",
		"/smtp/queue?do=reassign&to=two&agent=one", "/smtp/queue?do=reassign&to=one&agent=two", "/smtp/destinations?do=resume&all=true",
	} {
		again(20*time.Millisecond, func() {
			req, err := http.NewRequest(http.MethodPost, "http://"+h.admin+path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := adminClient.Do(req)
			if err != nil {
				return // a reload
			}
			defer resp.Body.Close()
			if resp.StatusCode >= 500 && resp.StatusCode != http.StatusServiceUnavailable {
				odd.Store(path, resp.Status)
			}
		})
	}
	again(250*time.Millisecond, func() {
		if err := h.try(config, ""); err != nil {
			t.Error(err)
		}
	})
	const n = 240
	domains := []string{"kept.test", "held.test", "gone.test"}
	for i := range n {
		greet(t, h.addr("in")).send("a@b.test", fmt.Sprintf("x%d@%s", i, domains[i%3]), "x")
	}
	time.Sleep(500 * time.Millisecond)
	close(stop)
	work.Wait()
	h.operate("?do=release&held=true")
	h.operate("?do=retry&all=true")
	wait(t, "the queue to become empty", func() bool { return len(h.queue("")) == 0 })
	odd.Range(func(path, status any) bool {
		t.Errorf("%s: %s", path, status)
		return true
	})
	count := map[string]int{}
	for _, m := range peer.Messages() {
		count[m.Recipients[0]]++
	}
	gone := 0
	for i := range n {
		to := fmt.Sprintf("x%d@%s", i, domains[i%3])
		if got := count[to]; got > 1 || got == 0 && !strings.HasSuffix(to, "gone.test") {
			t.Errorf("%s arrived %d times", to, got)
		} else if got == 0 {
			gone++
		}
	}
	t.Logf("%d were deleted in time", gone)
}
