package reports

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

const aggregate = `<?xml version="1.0"?><feedback><report_metadata><org_name>o</org_name><report_id>1</report_id><date_range><begin>1</begin><end>2</end></date_range></report_metadata>
<policy_published><domain>a.test</domain><p>reject</p></policy_published>
<record><row><source_ip>192.0.2.1</source_ip><count>3</count><policy_evaluated><disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf></policy_evaluated></row><identifiers><header_from>a.test</header_from></identifiers></record>
<record><row><source_ip>192.0.2.2</source_ip><count>-5</count><policy_evaluated><disposition>evil"} 1</disposition><dkim>x</dkim><spf>x</spf></policy_evaluated></row><identifiers><header_from>a.test</header_from></identifiers></record></feedback>`

const tlsReport = `{"organization-name":"o","report-id":"2","date-range":{"start-datetime":"2016-04-01T00:00:00Z","end-datetime":"2016-04-01T23:59:59Z"},
"policies":[{"policy":{"policy-type":"sts","policy-domain":"a.test"},"summary":{"total-successful-session-count":5,"total-failure-session-count":2}}]}`

func content(t *testing.T, kind, body string) *message.Message {
	t.Helper()
	m, err := message.Parse([]byte("Content-Type: " + kind + "\r\n\r\n" + strings.ReplaceAll(body, "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func transaction() *session.Transaction {
	r := mail.NewRecipient(mail.Address{Local: "dmarc", Domain: "a.test"})
	r.Claim("local")
	return &session.Transaction{ID: "t1", Session: new(session.Session), Envelope: &mail.Envelope{Recipients: []*mail.Recipient{r}}}
}

func TestReads(t *testing.T) {
	reg := prometheus.NewRegistry()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), &env.Env{Metrics: reg})})
	defer cancel()
	h := &Handler{Discard: true}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	h.log = slog.New(slog.NewJSONHandler(&log, nil))
	for name, tc := range map[string]struct {
		m         *message.Message
		want      string
		discarded bool
		lines     int
	}{
		"dmarc":     {content(t, "text/xml", aggregate), "pass", true, 2},
		"tls":       {content(t, "application/tlsrpt+json", tlsReport), "pass", true, 1},
		"feedback":  {content(t, "message/feedback-report", "Feedback-Type: abuse\n\n"), "pass", true, 1},
		"none":      {content(t, "text/plain", "Hello\n"), "none", false, 0},
		"malformed": {content(t, "text/xml", "<feedback>"), "fail", false, 1},
	} {
		log.Reset()
		tx := transaction()
		if err := h.HandleMessage(t.Context(), tx, tc.m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r := tx.Results[0]; r.Method != "reports" || r.Value != tc.want || !r.Private {
			t.Errorf("%s: %+v", name, r)
		}
		if r := tx.Envelope.Recipients[0]; r.Discarded != tc.discarded || tc.discarded == (r.Agent == "local") {
			t.Errorf("%s: %+v", name, r)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if log.Len() == 0 {
			lines = nil
		}
		for _, l := range lines {
			if !json.Valid([]byte(l)) {
				t.Errorf("%s: not JSON: %s", name, l)
			}
		}
		if len(lines) != tc.lines {
			t.Errorf("%s: %d lines: %s", name, len(lines), log.String())
		}
		if name == "dmarc" && !strings.Contains(log.String(), `"record":{"row":{"source_ip":"192.0.2.1","count":3,`) {
			t.Error(log.String())
		}
	}
	for want, n := range map[string]float64{
		"caddy_smtp_reported_dmarc_messages_total reject fail fail": 3,
		"caddy_smtp_reported_tls_sessions_total sts failure":        2,
		"caddy_smtp_reported_tls_sessions_total sts success":        5,
		"caddy_smtp_reports_received_total feedback pass":           1,
		"caddy_smtp_reports_received_total unknown fail":            1,
	} {
		if got := gather(t, reg)[want]; got < n {
			t.Errorf("%s: %v, want %v", want, got, n)
		}
	}
	for name := range gather(t, reg) {
		if strings.Contains(name, "evil") {
			t.Error(name)
		}
	}
}

// gather returns the counters by name and the values of their labels, in the
// order of the help text.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range fams {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			key := f.GetName()
			for _, n := range []string{"kind", "policy", "disposition", "dkim", "spf", "result"} {
				if v, ok := labels[n]; ok {
					key += " " + v
				}
			}
			out[key] = m.GetCounter().GetValue()
		}
	}
	return out
}

func TestKeeps(t *testing.T) {
	h := &Handler{log: slog.New(slog.DiscardHandler), metrics: theMetrics()}
	tx := transaction()
	if err := h.HandleMessage(t.Context(), tx, content(t, "text/xml", aggregate)); err != nil || tx.Envelope.Recipients[0].Discarded {
		t.Errorf("%v, %+v", err, tx.Envelope.Recipients[0])
	}
	if !h.OnlyAnnotates() || among("x", "y") != "other" {
		t.Error("it refuses")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, ok := range map[string]bool{"reports": true, "reports {\ndiscard\n}": true, "reports x": false, "reports {\nx\n}": false} {
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
}
