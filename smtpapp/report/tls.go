package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// A TLS is a report on TLS connections (RFC 8460, section 4.4).
type TLS struct {
	OrgName  string      `json:"organization-name"`
	Range    TLSRange    `json:"date-range"`
	Contact  string      `json:"contact-info,omitempty"`
	ReportID string      `json:"report-id"`
	Policies []TLSPolicy `json:"policies"`
}

// A TLSRange is the time of a report.
type TLSRange struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

// A TLSPolicy is what happened under one policy.
type TLSPolicy struct {
	Policy struct {
		Type   string   `json:"policy-type"`
		String []string `json:"policy-string,omitempty"`
		Domain string   `json:"policy-domain,omitempty"`
		MXHost oneOrAll `json:"mx-host,omitempty"`
	} `json:"policy"`
	Summary struct {
		Successful int64 `json:"total-successful-session-count"`
		Failed     int64 `json:"total-failure-session-count"`
	} `json:"summary"`
	Failures []TLSFailure `json:"failure-details,omitempty"`
}

// A TLSFailure is sessions that failed in one way.
type TLSFailure struct {
	Result        string `json:"result-type"`
	SendingIP     string `json:"sending-mta-ip,omitempty"`
	ReceivingMX   string `json:"receiving-mx-hostname,omitempty"`
	ReceivingHelo string `json:"receiving-mx-helo,omitempty"`
	ReceivingIP   string `json:"receiving-ip,omitempty"`
	Failed        int64  `json:"failed-session-count"`
	Information   string `json:"additional-information,omitempty"`
	Reason        string `json:"failure-reason-code,omitempty"`
}

// oneOrAll is a list that some write as a string.
type oneOrAll []string

// UnmarshalJSON reads a list or a string.
func (o *oneOrAll) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*o = oneOrAll{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(o))
}

// Limits of JSON, all of which is in memory.
const (
	maxJSON     = 8 << 20
	maxPolicies = 10_000
	maxFailures = 50_000
	// maxCommas bounds how many values there are in all, before any becomes a
	// struct of a hundred times its size. Of real ones, each has 30 octets.
	maxCommas = 1 << 18
)

// ReadTLS reads a TLS report in JSON.
func ReadTLS(r io.Reader) (*TLS, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		if errors.Is(err, ErrLimit) {
			return nil, ErrLimit
		}
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(b) > maxJSON || bytes.Count(b, []byte(",")) > maxCommas {
		return nil, ErrLimit
	}
	t := new(TLS)
	if err := json.Unmarshal(b, t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	failures := 0
	for _, p := range t.Policies {
		failures += len(p.Failures)
	}
	if len(t.Policies) > maxPolicies || failures > maxFailures {
		return nil, ErrLimit
	}
	if len(t.Policies) == 0 || t.OrgName == "" && t.ReportID == "" {
		return nil, fmt.Errorf("%w: not a TLS report", ErrFormat)
	}
	names(&t.OrgName, &t.ReportID)
	return t, nil
}
