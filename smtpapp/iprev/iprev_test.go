package iprev

import (
	"net/netip"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

func TestCheck(t *testing.T) {
	z := &dnstest.Zone{
		PTR: map[string][]string{
			"192.0.2.1": {"a.test"}, "192.0.2.2": {"b.test", "Mail.Test"}, "192.0.2.3": {"gone.test"}, "192.0.2.4": {"nowhere.test"},
			"192.0.2.5": {"gone.test", "mail.test"}, "2001:db8::1": {"mail.test"}, "192.0.2.7": {"192.0.2.8"},
		},
		Host: map[string][]string{"a.test": {"198.51.100.1"}, "b.test": {"198.51.100.1"}, "mail.test": {"192.0.2.2", "192.0.2.5", "2001:db8::1"}},
		Fail: map[string]bool{"gone.test": true, "192.0.2.6": true},
	}
	for i := range 20 {
		z.PTR["192.0.2.9"] = append(z.PTR["192.0.2.9"], string(rune('a'+i))+".many.test")
	}
	for ip, want := range map[string]string{
		"192.0.2.1": "fail ", "192.0.2.2": "pass mail.test", "192.0.2.3": "temperror ", "192.0.2.4": "fail ", "192.0.2.5": "pass mail.test",
		"192.0.2.6": "temperror ", "2001:db8::1": "pass mail.test", "2001:db8::2": "permerror ", "192.0.2.99": "permerror ", "::ffff:192.0.2.2": "pass mail.test",
		"192.0.2.7": "fail ",
	} {
		if v, n := Check(t.Context(), z, netip.MustParseAddr(ip)); v+" "+n != want {
			t.Errorf("%s: got %s %s, want %s", ip, v, n, want)
		}
	}
	before := len(z.Asked())
	if v, _ := Check(t.Context(), z, netip.MustParseAddr("192.0.2.9")); v != Fail || len(z.Asked())-before > 11 {
		t.Errorf("%s after %d questions", v, len(z.Asked())-before)
	}
}
