package session

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// TestLMTPAnswersEach: a message handler that refuses some recipients refuses
// those alone, strangers' too, and an alias with one of them.
func TestLMTPAnswersEach(t *testing.T) {
	no := func(code int, enh string) Handler {
		return h("no", onMessage(func(*Transaction, *message.Message) error { return mail.Refuse(code, enh, "no") }))
	}
	alias := h("alias", onRcpt(func(tx *Transaction, r *mail.Recipient) error {
		if to, ok := strings.CutPrefix(r.Address.Local, "both-"); ok {
			tx.Expand(r, mail.Address{Local: to, Domain: "good.test"}, mail.Address{Local: to, Domain: "later.test"})
		}
		return nil
	}))
	for name, tc := range map[string]struct {
		to      []string
		replies []string
		taken   []string
	}{
		"one":       {[]string{"x@good.test"}, []string{"250 2.0.0"}, []string{"x@good.test"}},
		"in order":  {[]string{"x@bad.test", "x@good.test", "x@later.test"}, []string{"550 5.7.1", "250 2.0.0", "450 4.7.1"}, []string{"x@good.test"}},
		"none":      {[]string{"x@bad.test", "y@bad.test"}, []string{"550 5.7.1", "550 5.7.1"}, nil},
		"repeated":  {[]string{"x@good.test", "x@good.test"}, []string{"250 2.0.0", "250 2.0.0"}, []string{"x@good.test"}},
		"an alias":  {[]string{"both-x@a.test", "y@good.test"}, []string{"450 4.7.1", "250 2.0.0"}, []string{"y@good.test"}},
		"and twice": {[]string{"both-x@a.test", "x@good.test"}, []string{"450 4.7.1", "250 2.0.0"}, []string{"x@good.test"}},
	} {
		s, q := newTest(t, false, line(nil, alias), line(domain("bad.test"), no(550, "5.7.1")), line(domain("later.test"), no(450, "4.7.1")), line(nil, h("deliver", claims{"a", true})))
		s.cfg.LMTP = true
		if err := s.stageMail(t.Context(), &mail.Envelope{From: mail.Address{Local: "s", Domain: "from.test"}}); err != nil {
			t.Fatal(err)
		}
		for _, to := range tc.to {
			if err := s.stageRcpt(t.Context(), mail.NewRecipient(address(t, to))); err != nil {
				t.Fatalf("%s: %s: %v", name, to, err)
			}
		}
		m, err := message.Parse([]byte(hello))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for r := s.stageMessage(t.Context(), m); r != nil; r = r.Next {
			got = append(got, r.Error()[:9])
		}
		if !slices.Equal(got, tc.replies) || !slices.Equal(q.to(), tc.taken) {
			t.Errorf("%s: replies %q, want %q; taken %q, want %q", name, got, tc.replies, q.to(), tc.taken)
		}
		for _, o := range q.objects {
			if v := o.Content.Header.Get("Received"); !strings.Contains(v, "with LMTP id") {
				t.Errorf("%s: Received: %s", name, v)
			}
		}
	}
}

func address(t *testing.T, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
