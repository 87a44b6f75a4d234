package smtpapp

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// metrics are of the process, so that counters survive a reload. Labels are
// names of the configuration and classes of results, never addresses.
type metrics struct {
	sessions   *prometheus.CounterVec
	refused    *prometheus.CounterVec
	messages   *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	duration   *prometheus.HistogramVec

	quarantined *prometheus.CounterVec
}

var theMetrics = sync.OnceValue(func() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "smtp", Name: name, Help: help}, labels)
	}
	return &metrics{
		sessions:    counter("sessions_total", "Sessions that have ended.", "server"),
		refused:     counter("refused_connections_total", "Connections that a limit of their number refused.", "server"),
		messages:    counter("messages_total", "Messages by the class of the reply to their content.", "server", "class"),
		deliveries:  counter("deliveries_total", "Recipients by the outcome of an attempt.", "agent", "action"),
		quarantined: counter("quarantined_total", "Queued messages that were held since their delivery ended the process time and again, or since they are damaged.", "cause"),
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
	for _, c := range []prometheus.Collector{m.sessions, m.refused, m.messages, m.deliveries, m.duration, m.quarantined} {
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

// connectionRefused counts the connections that a server refused.
func (m *metrics) connectionRefused(server string) func() {
	return m.refused.WithLabelValues(server).Inc
}

type serverMetrics struct {
	*metrics
	server string
}

func (m serverMetrics) SessionEnded(*session.Session) { m.sessions.WithLabelValues(m.server).Inc() }

func (m serverMetrics) MessageEnded(_ *session.Transaction, r *mail.Reply) {
	m.messages.WithLabelValues(m.server, strconv.Itoa(r.Code/100)+"xx").Inc()
}

// deliveries hears of what the queue does.
type deliveries struct {
	*metrics
	env *env.Env
}

// Quarantined counts an entry that waits for an operator now, and tells who
// subscribes to that (the event smtp_quarantined).
func (d deliveries) Quarantined(id, agent, cause string) {
	d.quarantined.WithLabelValues(cause).Inc()
	d.env.Emit("smtp_quarantined", map[string]any{"id": id, "agent": agent, "cause": cause})
}

// AttemptEnded counts what the queue did.
func (m *metrics) AttemptEnded(agent string, action queue.Action, took time.Duration) {
	m.deliveries.WithLabelValues(agent, action.String()).Inc()
	m.duration.WithLabelValues(agent).Observe(took.Seconds())
}
