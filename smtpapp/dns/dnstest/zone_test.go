package dnstest_test

import (
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	miekg "github.com/miekg/dns"
)

// TestServe asks without any of our own resolver.
func TestServe(t *testing.T) {
	zone := &dnstest.Zone{
		Host:      map[string][]string{"a.test": {"192.0.2.1", "2001:db8::1"}},
		PTR:       map[string][]string{"2001:db8::1": {"a.test"}},
		CNAME:     map[string]string{"c.test": "a.test"},
		Fail:      map[string]bool{"fail.test": true},
		Authentic: map[string]bool{"a.test": true},
		TTL:       90e9,
	}
	addr := dnstest.Serve(t, zone)
	reverse, _ := miekg.ReverseAddr("2001:db8::1")
	for _, tc := range []struct {
		name  string
		typ   uint16
		rcode int
		n     int
		ad    bool
	}{
		{"A.test.", miekg.TypeA, miekg.RcodeSuccess, 1, true},
		{"a.test.", miekg.TypeAAAA, miekg.RcodeSuccess, 1, true},
		{"a.test.", miekg.TypeMX, miekg.RcodeSuccess, 0, true},
		{"c.test.", miekg.TypeA, miekg.RcodeSuccess, 1, false},
		{reverse, miekg.TypePTR, miekg.RcodeSuccess, 1, false},
		{"b.test.", miekg.TypeA, miekg.RcodeNameError, 0, false},
		{"fail.test.", miekg.TypeA, miekg.RcodeServerFailure, 0, false},
	} {
		for _, network := range []string{"udp", "tcp"} {
			c := miekg.Client{Net: network}
			msg, _, err := c.Exchange(new(miekg.Msg).SetQuestion(tc.name, tc.typ), addr)
			if err != nil {
				t.Fatal(err)
			}
			if msg.Rcode != tc.rcode || len(msg.Answer) != tc.n || msg.AuthenticatedData != tc.ad {
				t.Errorf("%s %s %d: got %v", network, tc.name, tc.typ, msg)
			}
			if tc.n > 0 && msg.Answer[0].Header().Ttl != 90 {
				t.Errorf("%s: TTL %d", tc.name, msg.Answer[0].Header().Ttl)
			}
		}
	}
}
