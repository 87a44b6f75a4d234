package nexthop

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"sync"
)

// A domain's hosts may lead back to us by another name. We are found out by our
// address, or by the name with which the host greets us: behind a NAT nobody here
// knows the address that the world has for us. Then neither this host is tried nor
// those that are not better than it: they would send the mail back to us (RFC 5321,
// section 5.1).

// groups are the hosts that are equally good, best first. Hosts of our own choice
// are as good as they stand.
func groups(hosts []Host) iter.Seq[[]Host] {
	return func(yield func([]Host) bool) {
		hosts := hosts[:min(len(hosts), maxHosts)]
		for len(hosts) > 0 {
			n := 1
			for n < len(hosts) && hosts[0].finder != nil && hosts[n].rank == hosts[0].rank {
				n++
			}
			if !yield(hosts[:n]) {
				return
			}
			hosts = hosts[n:]
		}
	}
}

// A place is where a host is.
type place struct {
	addrs []string
	err   error
	ours  bool
}

func (a *attempt) places(ctx context.Context, hosts []Host) []place {
	places := make([]place, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			addrs, err := addresses(ctx, a.s.Resolver, h)
			places[i] = place{addrs, err, slices.ContainsFunc(addrs, h.ours)}
		})
	}
	wg.Wait()
	return places
}

// ours reports whether we listen at an address of a host that must not be us.
func (h Host) ours(addr string) bool {
	if h.finder == nil || h.finder.Listens == nil {
		return false
	}
	ap, err := netip.ParseAddrPort(addr)
	return err == nil && h.finder.Listens(ap)
}

// named reports whether a host that must not be us has our name.
func (h Host) named(name string) bool {
	return h.finder != nil && canonical(name) == h.finder.Hostname
}
