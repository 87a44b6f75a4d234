package smtpapp

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// listens reports whether one of our sockets is at an address of this host.
func listens(ap netip.AddrPort) bool {
	found := false
	sockets.Range(func(_, v any) bool {
		s, ok := v.(*socket)
		if !ok {
			return true
		}
		at, ok := s.ln.Addr().(*net.TCPAddr)
		if !ok || at.Port != int(ap.Port()) {
			return true
		}
		ip, _ := netip.AddrFromSlice(at.IP)
		ip = ip.Unmap()
		found = ip == ap.Addr().Unmap() || ip.IsUnspecified() && interfaces.has(ap.Addr().Unmap())
		return !found
	})
	return found
}

// interfaces are the addresses of this host.
var interfaces addresses

// addresses are looked up once a minute at most.
type addresses struct {
	mu  sync.Mutex
	at  time.Time
	ips map[netip.Addr]bool
}

func (a *addresses) has(ip netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.at) > time.Minute {
		a.at, a.ips = time.Now(), map[netip.Addr]bool{}
		nets, _ := net.InterfaceAddrs() // without them, only the name of a host gives it away
		for _, n := range nets {
			if p, err := netip.ParsePrefix(n.String()); err == nil {
				a.ips[p.Addr().Unmap()] = true
			}
		}
	}
	return a.ips[ip]
}
