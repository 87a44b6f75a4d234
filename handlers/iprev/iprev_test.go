package iprev

import (
	"net"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/refusal"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestHandler(t *testing.T) {
	zone := &dnstest.Zone{
		PTR:  map[string][]string{"192.0.2.1": {"mail.test"}, "192.0.2.2": {"mail.test"}},
		Host: map[string][]string{"mail.test": {"192.0.2.1"}}, Fail: map[string]bool{"192.0.2.4": true},
	}
	for _, tc := range []struct {
		last         byte
		value, reply string
	}{{1, "pass", ""}, {2, "fail", "550 5.7.25 reverse DNS of 192.0.2.2: fail"}, {3, "permerror", ""}, {4, "temperror", "451 4.7.25 reverse DNS of 192.0.2.4: temperror"}} {
		for _, strict := range []bool{false, true} {
			h := Handler{resolver: zone}
			if strict {
				h.Options = refusal.Options{Reject: []string{"fail"}, Defer: []string{"temperror"}}
			}
			tx := &session.Transaction{Session: &session.Session{Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, tc.last)}}, Envelope: new(mail.Envelope)}
			err, got := h.HandleMail(t.Context(), tx), ""
			if err != nil {
				got = mail.ReplyFor(err).Error()
			}
			if r := tx.Results[0]; r.Value != tc.value || r.Props[0].Name != "iprev" || strict && got != tc.reply || !strict && got != "" {
				t.Errorf("%d: %+v, %q", tc.last, r, got)
			}
		}
	}
	tx := &session.Transaction{Session: &session.Session{User: "alice", Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)}}, Envelope: new(mail.Envelope)}
	if err := (&Handler{resolver: zone}).HandleMail(t.Context(), tx); err != nil || len(tx.Results) > 0 {
		t.Error("our own user is checked")
	}
}
