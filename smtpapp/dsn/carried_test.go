package dsn

import (
	"strings"
	"testing"
	"time"
)

// TestWhatGoesWithIt: a notification is as urgent as its message, tells until when
// that was to be delivered, and does without TLS if the sender said so.
func TestWhatGoesWithIt(t *testing.T) {
	by := time.Date(2026, 1, 6, 10, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		field      string
		requireTLS bool
		want       string
	}{
		"TLS is optional":             {"TLS-Required: No\r\n", false, "No"},
		"in other letters":            {"tls-required:  NO \r\n", false, "No"},
		"REQUIRETLS says otherwise":   {"TLS-Required: No\r\n", true, ""},
		"another word":                {"TLS-Required: Yes\r\n", false, ""},
		"twice":                       {"TLS-Required: No\r\nTLS-Required: No\r\n", false, ""},
		"nothing was said of it":      {"", false, ""},
		"nothing but that it must be": {"", true, ""},
	} {
		r := report(t)
		for f := range strings.SplitAfterSeq(c.field, "\r\n") {
			if f == "" {
				continue
			}
			if err := r.Content.Header.PrependRaw(f); err != nil {
				t.Fatal(err)
			}
		}
		r.Envelope.RequireTLS, r.Envelope.DeliverBy = c.requireTLS, by
		r.Envelope.Priority, r.Envelope.Prioritized = -4, true
		o, h, parts := build(t, r)
		if got := h.Get("TLS-Required"); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
		if o.Envelope.Priority != -4 || !o.Envelope.Prioritized || !o.Envelope.DeliverBy.IsZero() {
			t.Errorf("%s: %+v", name, o.Envelope)
		}
		if want := "Deliver-By-Date: Tue, 6 Jan 2026 10:00:00 +0000\r\n"; !strings.Contains(parts[1].body, want) {
			t.Errorf("%s: got %s", name, parts[1].body)
		}
	}
}
