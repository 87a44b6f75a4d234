package smtpapp

import (
	"net"
	"net/netip"
	"testing"
)

// TestListens: mail for an address of this host, at a port of ours, is mail for us.
func TestListens(t *testing.T) {
	open := func(addr string) (port uint16) {
		t.Helper()
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			t.Skip(addr, err) // there may be no IPv6
		}
		sockets.LoadOrStore(addr, &socket{ln: ln})
		t.Cleanup(func() { _, _ = sockets.Delete(addr) })
		return uint16(ln.Addr().(*net.TCPAddr).Port)
	}
	one, all := open("127.0.0.1:0"), open(":0")
	for _, tt := range []struct {
		ip   string
		port uint16
		want bool
	}{
		{"127.0.0.1", one, true}, {"127.0.0.2", one, false}, {"192.0.2.1", one, false}, {"::ffff:127.0.0.1", one, true},
		{"127.0.0.1", all, true}, {"192.0.2.1", all, false}, {"127.0.0.1", 1, false},
	} {
		if got := listens(netip.AddrPortFrom(netip.MustParseAddr(tt.ip), tt.port)); got != tt.want {
			t.Errorf("%s:%d: %t", tt.ip, tt.port, got)
		}
	}
}
