// Package reports reads the reports on mail that others send to us.
package reports

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/caddyopt"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/plainlog"
	"github.com/caddymail/caddy-smtp/smtpapp/report"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler reads the reports in messages: DMARC aggregate reports (RFC 9990, RFC
// 7489), TLS reports (RFC 8460) and feedback reports (RFC 5965), as XML or JSON,
// plain, gzipped or in a ZIP archive. What they say goes to metrics, and to the
// log as JSON: a line for each record of a DMARC report, each policy of a TLS
// report and each feedback report, from the logger smtp.handlers.reports, which
// Caddy's `log` option can send to a file of its own.
//
// Put it on a route of the addresses that reports go to. It refuses nothing, and
// messages go on to be delivered unless it discards them. The result is
// "reports": pass if there were any, fail if one could not be read, none
// otherwise; it is not written into the message. Whatever a report says is the
// word of whoever sent it: a DMARC check before it tells who that was.
type Handler struct {
	// Discard throws messages away whose reports were read. Default: false.
	Discard bool `json:"discard,omitempty"`

	log     *slog.Logger
	metrics *metrics
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.handlers.reports", New: func() caddy.Module { return new(Handler) }}
}

// Provision registers the metrics.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.log, h.metrics = plainlog.New(ctx.Slogger()), theMetrics()
	e := env.FromContext(ctx)
	return e.Register(h.metrics.reports, h.metrics.dmarc, h.metrics.tls)
}

// OnlyAnnotates says that it refuses nothing.
func (*Handler) OnlyAnnotates() bool { return true }

// reading bounds how many messages are read at once: a report can be large.
var reading = make(chan struct{}, 2)

// HandleMessage reads the reports.
func (h *Handler) HandleMessage(ctx context.Context, tx *session.Transaction, m *message.Message) error {
	select {
	case reading <- struct{}{}:
		defer func() { <-reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	rs, err := report.Find(m)
	if err != nil && !errors.Is(err, report.ErrFormat) && !errors.Is(err, report.ErrLimit) {
		return fmt.Errorf("reading content: %w", err)
	}
	res := session.Result{Method: "reports", Value: "none", Private: true, Detail: rs}
	switch {
	case err != nil:
		res.Value = "fail"
		h.metrics.reports.WithLabelValues("unknown", "fail").Inc()
		h.log.Warn("a report cannot be read", "transaction", tx.ID, "from", tx.Envelope.From.String(), "error", err)
	case rs.Len() > 0:
		res.Value = "pass"
	}
	h.record(tx.ID, rs)
	tx.Results = append(tx.Results, res)
	if h.Discard && res.Value == "pass" {
		for _, r := range tx.Envelope.Recipients {
			r.Agent, r.Discarded = "", true
		}
	}
	return nil
}

func (h *Handler) record(id string, rs *report.Reports) {
	for _, a := range rs.Aggregates {
		h.metrics.reports.WithLabelValues("dmarc", "pass").Inc()
		h.aggregate(h.log.With("transaction", id, "report_id", a.Metadata.ReportID, "reporter", a.Metadata.OrgName), a)
	}
	for _, t := range rs.TLS {
		h.metrics.reports.WithLabelValues("tls", "pass").Inc()
		h.tls(h.log.With("transaction", id, "report_id", t.ReportID, "reporter", t.OrgName), t)
	}
	for _, f := range rs.Feedback {
		h.metrics.reports.WithLabelValues("feedback", "pass").Inc()
		h.log.Info("feedback report", "transaction", id, "report", f)
	}
}

func (h *Handler) aggregate(log *slog.Logger, a *report.Aggregate) {
	log = log.With("begin", a.Metadata.Range.Begin, "end", a.Metadata.Range.End, "policy", a.Policy)
	for _, r := range a.Records {
		e := r.Row.Evaluated
		if n := r.Row.Count; n > 0 {
			h.metrics.dmarc.WithLabelValues(among(e.Disposition, "none", "pass", "quarantine", "reject"),
				among(e.DKIM, "pass", "fail"), among(e.SPF, "pass", "fail")).Add(float64(n))
		}
		log.Info("dmarc report", "record", r)
	}
}

func (h *Handler) tls(log *slog.Logger, t *report.TLS) {
	log = log.With("begin", t.Range.Start, "end", t.Range.End)
	for _, p := range t.Policies {
		kind := among(p.Policy.Type, "sts", "tlsa", "no-policy-found")
		for result, n := range map[string]int64{"success": p.Summary.Successful, "failure": p.Summary.Failed} {
			if n > 0 {
				h.metrics.tls.WithLabelValues(kind, result).Add(float64(n))
			}
		}
		log.Info("tls report", "policy", p)
	}
}

// among keeps labels to words that are known.
func among(s string, known ...string) string {
	for _, k := range known {
		if s == k {
			return s
		}
	}
	return "other"
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	reports {
//		discard
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return caddyopt.Block(d, caddyopt.Table{"discard": caddyopt.Flag(&h.Discard)})
}

// metrics are of the process, so that counters survive a reload. They count what
// strangers say.
type metrics struct {
	reports, dmarc, tls *prometheus.CounterVec
}

var theMetrics = sync.OnceValue(func() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "caddy", Subsystem: "smtp", Name: name, Help: help}, labels)
	}
	return &metrics{
		reports: counter("reports_received_total", "Reports received, by kind and whether they could be read.", "kind", "result"),
		dmarc:   counter("reported_dmarc_messages_total", "Messages in DMARC reports received.", "disposition", "dkim", "spf"),
		tls:     counter("reported_tls_sessions_total", "Sessions in TLS reports received.", "policy", "result"),
	}
})

var (
	_ session.MessageHandler = (*Handler)(nil)
	_ session.Annotator      = (*Handler)(nil)
	_ caddy.Provisioner      = (*Handler)(nil)
	_ caddyfile.Unmarshaler  = (*Handler)(nil)
)
