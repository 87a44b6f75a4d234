package queue_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestGathering: of recipients at many destinations that fail within seconds, each is
// reported once, in few DSNs, also when an operator is after these meanwhile; where
// they fail together there is one.
func TestGathering(t *testing.T) {
	for name, within := range map[string]time.Duration{"together": 4 * time.Second, "apart": time.Minute, "at once": time.Nanosecond} {
		for _, meddle := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, an operator: %t", name, meddle), func(t *testing.T) {
				play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
					s.does(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
						if d.Envelope.From.IsNull() {
							time.Sleep(rand.N(time.Second))
							return queue.Status{Action: queue.Delivered}
						}
						time.Sleep(rand.N(within))
						return queue.Status{Action: queue.Failed, Reply: mail.Refuse(550, "5.1.1", "who")}
					})
					const n = 30
					var to []string
					for i := range n {
						to = append(to, fmt.Sprintf("x%[1]d@d%[1]d.test a", i))
					}
					s.accept(object(t, content, to...))
					for range 100 {
						time.Sleep(rand.N(200 * time.Millisecond))
						if meddle {
							_, _ = s.Operate(t.Context(), queue.Operation{Deed: queue.Retry}, queue.Filter{Sender: "<>"}, nil)
						}
					}
					pass(time.Hour)
					told := s.reports()
					all := strings.Join(told, "\n")
					for i := range n {
						if got := strings.Count(all, fmt.Sprintf("Final-Recipient: rfc822;x%[1]d@d%[1]d.test\r\n", i)); got != 1 {
							t.Errorf("x%d was reported %d times", i, got)
						}
					}
					if !meddle && (name != "apart" && len(told) != 1 || len(told) > 15) {
						t.Errorf("there were %d DSNs", len(told))
					}
					if left := s.size(); left != 0 {
						t.Errorf("%d are left", left)
					}
				})
			})
		}
	}
}
