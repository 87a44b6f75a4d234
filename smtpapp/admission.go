package smtpapp

import (
	"net/netip"
	"sync"

	"github.com/caddymail/caddy-smtp/smtpapp/admission"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// gates count the clients of the process, whatever configuration they came
// under: of each server by its name, and of all servers.
var gates = struct {
	mu      sync.Mutex
	all     admission.Gate
	servers map[string]*admission.Gate
}{servers: map[string]*admission.Gate{}}

func gateOf(server string) *admission.Gate {
	gates.mu.Lock()
	defer gates.mu.Unlock()
	if gates.servers[server] == nil {
		gates.servers[server] = new(admission.Gate)
	}
	return gates.servers[server]
}

// A door is session.Admission for one server of one configuration.
type door struct {
	gate    *admission.Gate
	limits  admission.Limits
	all     admission.Limits
	exempt  func(netip.Addr) bool
	refused func()
}

// Enter lets a client in if the server has room for it, and the process.
func (d *door) Enter(ip netip.Addr) (func(), *mail.Reply) {
	leaveServer, no := d.gate.Enter(ip, d.exempt(ip), &d.limits)
	if no != nil {
		d.refused()
		return nil, no
	}
	leaveAll, no := gates.all.Enter(ip, true, &d.all)
	if no != nil {
		leaveServer()
		d.refused()
		return nil, no
	}
	return func() { leaveServer(); leaveAll() }, nil
}

// Message counts a message of a client.
func (d *door) Message(ip netip.Addr) *mail.Reply {
	return d.gate.Message(ip, d.exempt(ip), &d.limits)
}

// Crowded reports that the server or the process is nearly full.
func (d *door) Crowded() bool { return d.gate.Crowded(&d.limits) || gates.all.Crowded(&d.all) }

// roomFor is how many clients there can be at a time, of as many as are wanted
// (0 is any number), in a process that may have so many files open (0 is
// unknown). Each client is one; a quarter, and 64 at least, are for the queue, for
// what arrives and for next hops, so that the clients that are in get through.
func roomFor(wanted, files int) int {
	if files == 0 {
		return wanted
	}
	room := max(files-max(files/4, 64), 1)
	if wanted == 0 {
		return room
	}
	return min(wanted, room)
}
