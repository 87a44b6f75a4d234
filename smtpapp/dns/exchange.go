package dns

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	miekg "github.com/miekg/dns"
)

// udpSize is what we announce by EDNS0: the largest answer that is safe from
// fragmentation (DNS flag day 2020).
const udpSize = 1232

// rounds is how often the list of servers is gone through while they are
// silent.
const rounds = 2

// lookup returns the records of one type at name, or a *net.DNSError.
func (c *Client) lookup(ctx context.Context, name string, typ uint16) (answer, error) {
	q, ok := newQuestion(name, typ)
	if !ok {
		return answer{}, notFound(name)
	}
	ctx, done := Bound(ctx)
	defer done()
	for {
		a, again, err := c.share(ctx, q)
		if again {
			continue
		}
		if shared, ok := errors.AsType[*net.DNSError](err); ok {
			e := *shared // others may have it too
			e.Name = name
			return answer{}, &e
		}
		if err != nil {
			return answer{}, err
		}
		switch {
		case a.noName:
			return answer{}, noName(name)
		case len(a.records) == 0:
			return answer{}, notFound(name)
		}
		return a, nil
	}
}

// share answers q from the cache, from a flight on its way, or by asking.
// again says that the flight was cut short by its leader's context.
func (c *Client) share(ctx context.Context, q question) (a answer, again bool, err error) {
	if a, ok := c.cache.load(q, time.Now()); ok {
		return a, false, nil
	}
	fl, leads := c.flights.join(q)
	if !leads {
		select {
		case <-fl.done:
			return fl.answer, fl.cut, fl.err
		case <-ctx.Done():
			return answer{}, false, unreachable(ctx.Err(), q.name, "")
		}
	}
	defer c.flights.land(q, fl)
	a, e := c.resolve(ctx, q)
	fl.answer, fl.cut = a, ctx.Err() != nil
	if e != nil {
		fl.err = e
		return answer{}, false, e
	}
	c.cache.store(q, a, time.Now())
	return a, false, nil
}

// resolve asks for q and for what its CNAMEs lead to.
func (c *Client) resolve(ctx context.Context, q question) (answer, *net.DNSError) {
	ch := newChain(q)
	for {
		msg, err := c.ask(ctx, ch.question)
		if err != nil {
			return answer{}, err
		}
		done, reason := ch.read(msg)
		if reason != "" {
			return answer{}, temporary(reason, q.name, "")
		}
		if done {
			return ch.finish(time.Now()), nil
		}
	}
}

// ask asks the servers in turn until one knows that there are records, or
// that there are none.
func (c *Client) ask(ctx context.Context, q question) (*miekg.Msg, *net.DNSError) {
	var last *net.DNSError
	for range rounds {
		silent := false
		for _, server := range c.servers {
			msg, err := c.try(ctx, server, q)
			switch {
			case ctx.Err() != nil:
				return nil, unreachable(ctx.Err(), q.name, server)
			case err != nil:
				silent = true
				last = unreachable(err, q.name, server)
			case msg.Rcode == miekg.RcodeSuccess, msg.Rcode == miekg.RcodeNameError:
				return msg, nil
			default:
				last = temporary(reasonServer, q.name, server)
			}
		}
		if !silent {
			break
		}
	}
	return nil, last
}

// try asks one server: over UDP, over TCP if the answer doesn't fit, without
// EDNS0 if the server doesn't understand it (RFC 6891, section 7).
func (c *Client) try(ctx context.Context, server string, q question) (*miekg.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req := new(miekg.Msg).SetQuestion(q.name, q.typ)
	req.AuthenticatedData = true // RFC 6840, section 5.7: tell us yours
	req.SetEdns0(udpSize, false)
	msg, err := roundTrip(ctx, "udp", server, req)
	if err == nil && (msg.Rcode == miekg.RcodeFormatError || msg.Rcode == miekg.RcodeNotImplemented) {
		req.Extra = nil
		msg, err = roundTrip(ctx, "udp", server, req)
	}
	if err == nil && msg.Truncated {
		msg, err = roundTrip(ctx, "tcp", server, req)
	}
	return msg, err
}

// roundTrip sends req and waits for the message that answers it.
func roundTrip(ctx context.Context, network, server string, req *miekg.Msg) (*miekg.Msg, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })()
	req.Id = miekg.Id()
	conn := &miekg.Conn{Conn: nc, UDPSize: 4096}
	if err := conn.WriteMsg(req); err != nil {
		return nil, err
	}
	for {
		raw, err := conn.ReadMsgHeader(nil)
		if err != nil && (network != "udp" || !errors.Is(err, miekg.ErrShortRead)) {
			return nil, err
		}
		msg := new(miekg.Msg)
		err = msg.Unpack(raw)
		if network == "udp" {
			// What doesn't belong to the question may be a stranger's
			// guess; the answer may still come.
			if err != nil && !msg.Truncated || !answers(msg, req) {
				continue
			}
			return msg, nil
		}
		if err != nil {
			return nil, err
		}
		if !answers(msg, req) {
			return nil, miekg.ErrId
		}
		msg.Truncated = false
		return msg, nil
	}
}

// answers reports whether msg is an answer to req.
func answers(msg, req *miekg.Msg) bool {
	if !msg.Response || msg.Id != req.Id || msg.Opcode != miekg.OpcodeQuery {
		return false
	}
	if len(msg.Question) == 0 { // as servers do that could not read it
		return msg.Rcode == miekg.RcodeFormatError || msg.Rcode == miekg.RcodeNotImplemented
	}
	a, b := msg.Question[0], req.Question[0]
	return len(msg.Question) == 1 && a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
