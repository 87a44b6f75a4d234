package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// timed is a message with a deliver-by time from now on.
func timed(t *testing.T, by time.Duration, more func(*mail.Envelope), to string) *message.Object {
	t.Helper()
	o := object(t, content, to+" a")
	o.Envelope.DeliverBy = time.Now().Add(by)
	if more != nil {
		more(o.Envelope)
	}
	return o
}

func returned(e *mail.Envelope) { e.DeliverByReturn = true }

// TestDeliverByReturn: RFC 2852's mode R ends the attempts at its time, not at
// the next retry, and no attempt comes after it. It outlives a restart.
func TestDeliverByReturn(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.accept(timed(t, 3*time.Minute, returned, "x@dead.test"))
		pass(time.Second)
		s.restart(queue.Schedule{})
		pass(3*time.Minute - 2*time.Second)
		tries := len(s.triesOf("x@dead.test"))
		if tries == 0 || len(s.reports()) != 0 {
			t.Fatalf("%d attempts, reports %q", tries, s.reports())
		}
		pass(2 * time.Second)
		if len(s.reports()) != 1 || s.size() != 0 {
			t.Fatalf("%d reports, %d left", len(s.reports()), s.size())
		}
		report := s.reports()[0]
		for _, want := range []string{"Action: failed", "Status: 5.4.7", "nobody there", "\r\nDeliver-By-Date: "} {
			if !strings.Contains(report, want) {
				t.Errorf("no %q in %s", want, report)
			}
		}
		if n := len(s.triesOf("x@dead.test")); n != tries {
			t.Errorf("%d attempts more", n-tries)
		}
	})
}

// TestDeliverByIsOver before a first attempt can be made.
func TestDeliverByIsOver(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.accept(timed(t, 0, returned, "x@a.test"))
		pass(time.Second)
		if len(s.triesOf("x@a.test")) != 0 || len(s.reports()) != 1 || s.size() != 0 {
			t.Errorf("%d attempts, reports %q", len(s.triesOf("x@a.test")), s.reports())
		}
	})
}

// TestDeliverByNotify: mode N tells the sender at its time, once, and goes on;
// neither sooner nor by the ordinary notice.
func TestDeliverByNotify(t *testing.T) {
	for by, notify := range map[time.Duration]mail.Notify{3 * time.Minute: 0, 6 * time.Hour: mail.NotifySuccess, 6 * 24 * time.Hour: 0} {
		play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
			o := timed(t, by, nil, "x@dead.test")
			o.Envelope.Recipients[0].Notify = notify
			s.accept(o)
			pass(min(by, 5*24*time.Hour) - time.Second)
			if len(s.reports()) != 0 {
				t.Fatalf("%v: a notice came before its time", by)
			}
			pass(15 * time.Minute) // the pause of a dead site is no longer
			n := 1
			if by > 5*24*time.Hour {
				n = 1 // the failure
			} else if r := s.reports(); len(r) != 1 || !strings.Contains(r[0], "Action: delayed") || !strings.Contains(r[0], "Status: 4.4.7") {
				t.Fatalf("%v: got %q", by, r)
			}
			pass(10 * time.Hour)
			if len(s.reports()) != n {
				t.Errorf("%v: got %d reports", by, len(s.reports()))
			}
			if tries := s.triesOf("x@dead.test"); len(tries) < 5 {
				t.Errorf("%v: %d attempts", by, len(tries))
			}
		})
	}
}

// TestDeliverByTold: who has heard of it elsewhere gets the ordinary notice, and
// who wants no notification gets none.
func TestDeliverByTold(t *testing.T) {
	play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
		s.accept(timed(t, -time.Minute, func(e *mail.Envelope) { e.DeliverByTold = true }, "x@dead.test"))
		o := timed(t, time.Minute, nil, "y@dead.test")
		o.Envelope.Recipients[0].Notify = mail.NotifyNever
		s.accept(o)
		pass(4*time.Hour - time.Minute)
		if len(s.reports()) != 0 {
			t.Fatalf("got %q", s.reports())
		}
		pass(5 * time.Hour)
		if r := s.reports(); len(r) != 1 || !strings.Contains(r[0], "Status: 4.4.1") {
			t.Errorf("got %q", r)
		}
	})
}

// TestRelayedReports: who is told that a message was relayed.
func TestRelayedReports(t *testing.T) {
	type sent = func(*mail.Envelope)
	trace := func(e *mail.Envelope) { e.DeliverByReturn, e.DeliverByTrace = true, true }
	untimed := func(e *mail.Envelope) { e.DeliverBy = time.Time{} }
	for name, c := range map[string]struct {
		sent   sent
		notify mail.Notify
		status queue.Status
		want   bool
	}{
		"nothing asked":                    {untimed, 0, queue.Status{}, false},
		"success":                          {untimed, mail.NotifySuccess, queue.Status{}, true},
		"success, and the next host tells": {untimed, mail.NotifySuccess, queue.Status{Notifies: true}, false},
		"N to who keeps time":              {nil, 0, queue.Status{KeepsTime: true, Notifies: true}, false},
		"N to who does not":                {nil, 0, queue.Status{Notifies: true}, true},
		"N to who does not, for failures":  {nil, mail.NotifyFailure, queue.Status{}, true},
		"N to who does not, for nobody":    {nil, mail.NotifyNever, queue.Status{}, false},
		"R":                                {returned, 0, queue.Status{KeepsTime: true}, false},
		"trace":                            {trace, 0, queue.Status{KeepsTime: true, Notifies: true}, true},
		"trace, for nobody":                {trace, mail.NotifyNever, queue.Status{KeepsTime: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
				s.does(func(d *queue.Delivery, _ *mail.Recipient) queue.Status {
					if d.Envelope.From.IsNull() {
						return queue.Status{Action: queue.Delivered}
					}
					st := c.status
					st.Action = queue.Relayed
					return st
				})
				o := timed(t, time.Hour, c.sent, "x@a.test")
				o.Envelope.Recipients[0].Notify = c.notify
				s.accept(o)
				pass(time.Minute)
				if r := s.reports(); (len(r) == 1) != c.want || c.want && !strings.Contains(r[0], "Action: relayed") {
					t.Errorf("got %q", r)
				}
			})
		})
	}
}

// TestDeliverByOfDeadSite: where nothing is tried for a quarter of an hour, the
// sender hears in time all the same, over a restart too, and the others wait.
func TestDeliverByOfDeadSite(t *testing.T) {
	for _, mode := range []func(*mail.Envelope){returned, func(*mail.Envelope) {}} {
		for _, restart := range []bool{false, true} {
			play(t, queue.Schedule{}, func(t *testing.T, s *scene) {
				s.accept(object(t, content, "old@dead.test a"))
				pass(2 * time.Hour)
				o := timed(t, 2*time.Minute, mode, "x@dead.test")
				s.accept(o, timed(t, 2*time.Minute, mode, "y@dead.test"))
				s.accept(object(t, content, "z@dead.test a"))
				pass(time.Second)
				if restart {
					s.restart(queue.Schedule{})
				}
				pass(2*time.Minute - 2*time.Second)
				if len(s.reports()) != 0 {
					t.Fatalf("got %q", s.reports())
				}
				pass(time.Minute + 5*time.Second)
				r := strings.Join(s.reports(), "")
				want := "Status: 5.4.7"
				if !o.Envelope.DeliverByReturn {
					want = "Status: 4.4.7"
				}
				if len(s.reports()) != 2 || strings.Count(r, want) != 2 || strings.Contains(r, "z@") {
					t.Fatalf("got %d reports (restarted: %t):\n%s", len(s.reports()), restart, r)
				}
				if n := len(s.triesOf("x@dead.test")); n > 2 {
					t.Errorf("%d attempts", n)
				}
				pass(time.Hour)
				if len(s.reports()) != 2 {
					t.Errorf("%d reports", len(s.reports()))
				}
			})
		}
	}
}
