package pattern

import (
	"net/netip"
	"testing"
)

func TestNetworks(t *testing.T) {
	n, err := ParseNetworks([]string{"192.0.2.1", "198.51.100.77/24", "2001:db8::/32", "::ffff:203.0.113.9", "private_ranges"})
	if err != nil {
		t.Fatal(err)
	}
	for ip, want := range map[string]bool{
		"192.0.2.1": true, "192.0.2.2": false, "::ffff:192.0.2.1": true, "198.51.100.1": true, "2001:db8::1%eth0": true,
		"2001:db9::1": false, "203.0.113.9": true, "10.1.1.1": true, "::1": true, "fd12::1": true,
	} {
		if n.Contain(netip.MustParseAddr(ip)) != want {
			t.Errorf("%s: want %v", ip, want)
		}
	}
	if n.Contain(netip.Addr{}) {
		t.Error("an address that is none is in a network")
	}
	for _, bad := range []string{"x", "", "1.2.3.4/40", "::ffff:1.2.3.4/120", "1.2.3.0/", "private"} {
		if _, err := ParseNetworks([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
