package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// A Feedback is a report on one message (RFC 5965, section 3, and RFC 6591).
type Feedback struct {
	Type            string   `json:"feedback_type"`
	UserAgent       string   `json:"user_agent,omitempty"`
	Version         string   `json:"version,omitempty"`
	ArrivalDate     string   `json:"arrival_date,omitempty"`
	Incidents       string   `json:"incidents,omitempty"`
	EnvelopeID      string   `json:"original_envelope_id,omitempty"`
	MailFrom        string   `json:"original_mail_from,omitempty"`
	RcptTo          []string `json:"original_rcpt_to,omitempty"`
	ReportedDomains []string `json:"reported_domains,omitempty"`
	ReportedURIs    []string `json:"reported_uris,omitempty"`
	ReportingMTA    string   `json:"reporting_mta,omitempty"`
	SourceIP        string   `json:"source_ip,omitempty"`
	AuthResults     []string `json:"authentication_results,omitempty"`
	AuthFailure     string   `json:"auth_failure,omitempty"`
	DeliveryResult  string   `json:"delivery_result,omitempty"`
	Alignment       string   `json:"identity_alignment,omitempty"`
	DKIMDomain      string   `json:"dkim_domain,omitempty"`
	DKIMSelector    string   `json:"dkim_selector,omitempty"`
	DKIMIdentity    string   `json:"dkim_identity,omitempty"`
	SPFDNS          string   `json:"spf_dns,omitempty"`
}

// Limits of a feedback report.
const (
	maxFeedback = 256 << 10
	maxValues   = 100
)

// ReadFeedback reads the part of a feedback report that is for machines.
func ReadFeedback(r io.Reader) (*Feedback, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFeedback+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(b) > maxFeedback {
		return nil, ErrLimit
	}
	text := strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n")
	h, _, err := message.ParseHeader([]byte(strings.TrimLeft(text, "\r\n")))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	f := &Feedback{
		Type: strings.ToLower(h.Get("Feedback-Type")), UserAgent: h.Get("User-Agent"), Version: h.Get("Version"),
		ArrivalDate: h.Get("Arrival-Date"), Incidents: h.Get("Incidents"), EnvelopeID: h.Get("Original-Envelope-Id"),
		MailFrom: angled(h.Get("Original-Mail-From")), RcptTo: values(h, "Original-Rcpt-To"),
		ReportedDomains: values(h, "Reported-Domain"), ReportedURIs: values(h, "Reported-URI"),
		ReportingMTA: h.Get("Reporting-MTA"), AuthResults: values(h, "Authentication-Results"),
		AuthFailure: strings.ToLower(h.Get("Auth-Failure")), DeliveryResult: strings.ToLower(h.Get("Delivery-Result")),
		Alignment: strings.ToLower(h.Get("Identity-Alignment")), DKIMDomain: h.Get("DKIM-Domain"), DKIMSelector: h.Get("DKIM-Selector"),
		DKIMIdentity: h.Get("DKIM-Identity"), SPFDNS: h.Get("SPF-DNS"),
	}
	f.SourceIP, _, _ = strings.Cut(h.Get("Source-IP"), " ")
	for i, to := range f.RcptTo {
		f.RcptTo[i] = angled(to)
	}
	if f.Type == "" {
		return nil, fmt.Errorf("%w: no feedback type", ErrFormat)
	}
	return f, nil
}

func values(h *message.Header, name string) []string {
	vs := h.Values(name)
	return vs[:min(len(vs), maxValues)]
}

func angled(s string) string { return strings.TrimSuffix(strings.TrimPrefix(s, "<"), ">") }
