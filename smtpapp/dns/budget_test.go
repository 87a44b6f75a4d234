package dns_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// TestBudget: what is silent can take no more time than there is, however often
// it is asked, and what was asked at the same time counts once.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zone := &dnstest.Zone{Silent: map[string]bool{"silent.test": true}, TXT: map[string][]string{"a.test": {"x"}}}
		b := dns.NewBudget(20 * time.Second)
		ctx := dns.WithBudget(t.Context(), b)
		ask := func(limit time.Duration) error {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			_, err := zone.LookupTXT(ctx, "silent.test")
			return err
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _ = ask(5 * time.Second) })
		}
		wg.Wait()
		if b.Left() != 15*time.Second {
			t.Errorf("%v are left", b.Left())
		}
		if _, err := zone.LookupTXT(ctx, "a.test"); err != nil || b.Left() != 15*time.Second {
			t.Errorf("%v, and %v are left", err, b.Left())
		}
		began := time.Now()
		for range 100 {
			e, ok := errors.AsType[*net.DNSError](ask(time.Minute))
			if !ok || !e.IsTemporary || e.IsNotFound {
				t.Fatalf("got %v", e)
			}
		}
		if d := time.Since(began); d != 15*time.Second {
			t.Errorf("it took %v", d)
		}
		if _, err := zone.LookupTXT(t.Context(), "a.test"); err != nil {
			t.Errorf("without a budget: %v", err)
		}
	})
}
