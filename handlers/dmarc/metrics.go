package dmarc

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
)

// metrics are of the process, so that counters survive a reload.
type metrics struct {
	messages *prometheus.CounterVec
	reports  *prometheus.CounterVec
}

var theMetrics = sync.OnceValue(func() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "smtp", Name: name, Help: help}, labels)
	}
	return &metrics{
		messages: counter("dmarc_messages_total", "Messages by the result of DMARC and what was to be done.", "result", "disposition"),
		reports:  counter("dmarc_reports_total", "Aggregate reports for other domains by what became of them.", "outcome"),
	}
})

func (m *metrics) register(e *env.Env) error { return e.Register(m.messages, m.reports) }

func (m *metrics) count(v *verdict) {
	m.messages.WithLabelValues(v.worst.Value, string(v.disposition)).Inc()
}
