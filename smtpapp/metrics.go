package smtpapp

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// metrics are of the process, so that counters survive a reload. Labels are
// names of the configuration and classes of results, never addresses.
type metrics struct {
	sessions   *prometheus.CounterVec
	messages   *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	duration   *prometheus.HistogramVec
}

var theMetrics = sync.OnceValue(func() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "smtp", Name: name, Help: help}, labels)
	}
	return &metrics{
		sessions:   counter("sessions_total", "Sessions that have ended.", "server"),
		messages:   counter("messages_total", "Messages by the class of the reply to their content.", "server", "class"),
		deliveries: counter("deliveries_total", "Recipients by the outcome of an attempt.", "agent", "action"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "caddy", Subsystem: "smtp", Name: "attempt_seconds",
			Help: "How long attempts at delivery took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 10),
		}, []string{"agent"}),
	}
})

// registerMetrics adds the collectors to a configuration's registry, which is
// a new one each time.
func registerMetrics(reg prometheus.Registerer) *metrics {
	m := theMetrics()
	for _, c := range []prometheus.Collector{m.sessions, m.messages, m.deliveries, m.duration} {
		if err := reg.Register(c); err != nil {
			if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); !ok {
				panic(err) // two collectors of ours have one name
			}
		}
	}
	return m
}

// observer counts what a server's sessions do.
func (m *metrics) observer(server string) session.Observer { return serverMetrics{m, server} }

type serverMetrics struct {
	*metrics
	server string
}

func (m serverMetrics) SessionEnded(*session.Session) { m.sessions.WithLabelValues(m.server).Inc() }

func (m serverMetrics) MessageEnded(_ *session.Transaction, r *mail.Reply) {
	m.messages.WithLabelValues(m.server, strconv.Itoa(r.Code/100)+"xx").Inc()
}

// AttemptEnded counts what the queue did.
func (m *metrics) AttemptEnded(agent string, action queue.Action, took time.Duration) {
	m.deliveries.WithLabelValues(agent, action.String()).Inc()
	m.duration.WithLabelValues(agent).Observe(took.Seconds())
}
