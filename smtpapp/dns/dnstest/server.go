package dnstest

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	miekg "github.com/miekg/dns"
)

// Serve answers from zone on 127.0.0.1, over UDP and TCP, until the test ends.
// It returns the address and port. UDP answers that don't fit are truncated.
func Serve(t testing.TB, zone *Zone) (addr string) {
	t.Helper()
	pc, ln := listen(t)
	for _, s := range []*miekg.Server{{PacketConn: pc}, {Listener: ln}} {
		started, stopped := make(chan struct{}), make(chan struct{})
		s.Handler = miekg.HandlerFunc(zone.serve)
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(stopped)
			if err := s.ActivateAndServe(); err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-started:
		case <-stopped:
			t.FailNow()
		}
		t.Cleanup(func() {
			s.Shutdown()
			<-stopped
		})
	}
	return pc.LocalAddr().String()
}

// listen returns two sockets of the same port.
func listen(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	var err error
	for range 20 {
		var pc net.PacketConn
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			break
		}
		var ln net.Listener
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, ln
		}
		pc.Close()
	}
	t.Fatal(err)
	return nil, nil
}

func (z *Zone) serve(w miekg.ResponseWriter, req *miekg.Msg) {
	msg := new(miekg.Msg).SetReply(req)
	if len(req.Question) != 1 {
		msg.Rcode = miekg.RcodeFormatError
		w.WriteMsg(msg)
		return
	}
	q := req.Question[0]
	key := strings.ReplaceAll(q.Name, `\ `, " ")
	if q.Qtype == miekg.TypePTR {
		key = fromReverse(q.Name)
	}
	r := z.find(miekg.TypeToString[q.Qtype], key)
	if r.silent {
		return
	}
	msg.RecursionAvailable = true
	msg.AuthenticatedData = r.authentic
	head := miekg.RR_Header{Name: q.Name, Class: miekg.ClassINET, Ttl: z.ttl()}
	switch {
	case r.fail:
		msg.Rcode = miekg.RcodeServerFailure
	case !r.exists:
		msg.Rcode = miekg.RcodeNameError
	default:
		msg.Answer = r.records(q.Qtype, head)
	}
	if len(msg.Answer) == 0 && !r.fail {
		head.Name, head.Rrtype = ".", miekg.TypeSOA
		msg.Ns = []miekg.RR{&miekg.SOA{Hdr: head, Ns: "ns.invalid.", Mbox: "hostmaster.invalid.", Minttl: head.Ttl}}
	}
	if w.LocalAddr().Network() == "udp" {
		msg.Truncate(bufferOf(req))
	}
	w.WriteMsg(msg)
}

// records returns r's records of one type.
func (r result) records(typ uint16, head miekg.RR_Header) (rrs []miekg.RR) {
	head.Rrtype = typ
	if r.cname != "" {
		head.Rrtype = miekg.TypeCNAME
		return []miekg.RR{&miekg.CNAME{Hdr: head, Target: absolute(r.cname)}}
	}
	switch typ {
	case miekg.TypeA, miekg.TypeAAAA:
		for _, a := range r.addrs {
			if typ == miekg.TypeA && a.Is4() {
				rrs = append(rrs, &miekg.A{Hdr: head, A: a.AsSlice()})
			} else if typ == miekg.TypeAAAA && a.Is6() {
				rrs = append(rrs, &miekg.AAAA{Hdr: head, AAAA: a.AsSlice()})
			}
		}
	case miekg.TypeMX:
		for _, mx := range r.mx {
			rrs = append(rrs, &miekg.MX{Hdr: head, Mx: absolute(mx.Host), Preference: mx.Pref})
		}
	case miekg.TypeTXT:
		for _, s := range r.txt {
			rrs = append(rrs, &miekg.TXT{Hdr: head, Txt: txtStrings(s)})
		}
	case miekg.TypePTR:
		for _, n := range r.ptr {
			rrs = append(rrs, &miekg.PTR{Hdr: head, Ptr: absolute(n)})
		}
	}
	return rrs
}

func bufferOf(req *miekg.Msg) int {
	if opt := req.IsEdns0(); opt != nil {
		return int(opt.UDPSize())
	}
	return miekg.MinMsgSize
}

// txtStrings splits s into strings of at most 255 octets, escaped as the
// library wants them.
func txtStrings(s string) []string {
	var out []string
	for {
		n := min(len(s), 255)
		var b strings.Builder
		for _, c := range []byte(s[:n]) {
			if c == '\\' || c < ' ' || c > '~' {
				fmt.Fprintf(&b, `\%03d`, c)
			} else {
				b.WriteByte(c)
			}
		}
		out, s = append(out, b.String()), s[n:]
		if s == "" {
			return out
		}
	}
}

// fromReverse returns the address that a name of the reverse zone stands for,
// or the name.
func fromReverse(name string) string {
	low := strings.ToLower(name)
	if rest, ok := strings.CutSuffix(low, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) == 4 {
			return labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0]
		}
	}
	rest, ok := strings.CutSuffix(low, ".ip6.arpa.")
	labels := strings.Split(rest, ".")
	if !ok || len(labels) != 32 {
		return name
	}
	var a [16]byte
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 16, 4)
		if err != nil {
			return name
		}
		a[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(a).String()
}
