package session

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// Proxies are the networks whose clients are proxies and filters of our own,
// which may speak for a client of theirs. The address is that of the
// connection, not one that a proxy has named. Both commands are Postfix's
// (XCLIENT_README and XFORWARD_README).
type Proxies struct {
	// XCLIENT makes the session one with the client that the proxy names, as if
	// it had connected itself.
	XCLIENT func(netip.Addr) bool
	// XFORWARD has the log tell where a message came from, and no more.
	XFORWARD func(netip.Addr) bool
}

func allowed(f func(netip.Addr) bool, peer net.Addr) bool { return f != nil && f(addrOf(peer)) }

// A forward is what XFORWARD said of the next message. It is for the log.
type forward map[string]string

const (
	maxXAttribute = 255 // octets of a value, decoded
	unavailable   = "[UNAVAILABLE]"
	xclientLine   = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
	xforwardLine  = "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
)

// attributes are the arguments of a command of these, decoded; "" is what the
// proxy does not know. Names that announced does not have are refused.
func attributes(arg, announced string) (map[string]string, *mail.Reply) {
	as := map[string]string{}
	for f := range strings.FieldsFuncSeq(arg, func(r rune) bool { return r == ' ' }) {
		name, value, ok := strings.Cut(f, "=")
		name = strings.ToUpper(name)
		if !ok || !strings.Contains(announced[strings.IndexByte(announced, ' '):]+" ", " "+name+" ") {
			return nil, mail.Refuse(501, "5.5.4", "malformed or unknown attribute")
		}
		if _, again := as[name]; again {
			return nil, errDuplicate
		}
		v, r := xtext(value, 3*maxXAttribute)
		if r != nil || len(v) > maxXAttribute {
			return nil, mail.Refuse(501, "5.5.4", "malformed value of %s", name)
		}
		if strings.EqualFold(v, unavailable) || strings.EqualFold(v, "[TEMPUNAVAIL]") {
			v = ""
		}
		as[name] = v
	}
	if len(as) == 0 {
		return nil, mail.Refuse(501, "5.5.4", "an attribute is wanted")
	}
	return as, nil
}

// xclient is XCLIENT. The session is then where it was at its greeting, which
// is the reply.
func (s *Session) xclient(arg string) (string, *mail.Reply) {
	if !allowed(s.cfg.Proxies.XCLIENT, s.peer) {
		return "", mail.Refuse(550, "5.7.1", "you may not speak for others")
	}
	as, r := attributes(arg, xclientLine)
	if r != nil {
		return "", r
	}
	remote, r := endpoint(s.Remote, as, "ADDR", "PORT")
	if r != nil {
		return "", r
	}
	local, r := endpoint(s.Local, as, "DESTADDR", "DESTPORT")
	if r != nil {
		return "", r
	}
	user, r := xlogin(as["LOGIN"])
	if r != nil {
		return "", r
	}
	if p := as["PROTO"]; p != "" && !strings.EqualFold(p, "SMTP") && !strings.EqualFold(p, "ESMTP") {
		return "", mail.Refuse(501, "5.5.4", "PROTO is SMTP or ESMTP")
	}
	if h := as["HELO"]; h != "" && !validHello(h) {
		return "", mail.Refuse(501, "5.5.4", "HELO is not a domain or an address literal")
	}
	s.forget()
	s.Results, s.base = nil, 0
	s.Remote, s.Local, s.announced = remote, local, announcement{true, as["NAME"], as["HELO"], as["PROTO"]}
	s.TLS = s.ownTLS(s.TLS)
	s.Log = s.Log.With("client", s.Remote.String())
	s.Log.Info("speaks for another", "name", as["NAME"], "user", user)
	if user != "" {
		s.Authenticated(&login.Identity{User: user}, "XCLIENT")
	}
	if no := s.enter(); no != nil {
		return "", no
	}
	return "", s.welcome()
}

// announcement is what a proxy has said of its client: XCLIENT's NAME, HELO and
// PROTO. What is there goes before what the proxy says in its own EHLO.
type announcement struct {
	made              bool
	name, helo, proto string
}

// SpokenFor reports whether a proxy speaks for the client, by XCLIENT. TLS ends
// at the proxy then, whatever the client has.
func (s *Session) SpokenFor() bool { return s.announced.made }

// ownTLS is a state of TLS without what is not the client's: a certificate that
// a proxy shows says who the proxy is.
func (s *Session) ownTLS(st *tls.ConnectionState) *tls.ConnectionState {
	if st == nil || !s.SpokenFor() {
		return st
	}
	own := *st
	own.PeerCertificates, own.VerifiedChains = nil, nil
	return &own
}

func xlogin(v string) (string, *mail.Reply) {
	if v == "" {
		return "", nil
	}
	user, err := login.Name(v)
	if err != nil {
		return "", mail.Refuse(501, "5.5.4", "LOGIN is not the name of a user")
	}
	return user, nil
}

// endpoint is was with what the attributes change of it. An address that the
// proxy does not know is that of nobody.
func endpoint(was net.Addr, as map[string]string, addr, port string) (net.Addr, *mail.Reply) {
	a, given := as[addr]
	p, portGiven := as[port]
	if !given && !portGiven {
		return was, nil
	}
	var ap netip.AddrPort
	if t, ok := was.(*net.TCPAddr); ok {
		ap = t.AddrPort()
	}
	ip, n := ap.Addr(), ap.Port()
	if given {
		ip, n = netip.Addr{}, 0
	}
	if a != "" {
		if len(a) > 5 && strings.EqualFold(a[:5], "IPV6:") {
			a = a[5:]
		}
		var err error
		if ip, err = netip.ParseAddr(a); err != nil {
			return nil, mail.Refuse(501, "5.5.4", "%s is not an IP address", addr)
		}
	}
	if p != "" {
		u, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return nil, mail.Refuse(501, "5.5.4", "%s is not a port", port)
		}
		n = uint16(u)
	}
	if !ip.IsValid() {
		return &net.UnixAddr{Net: "unix"}, nil
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip.Unmap(), n)), nil
}

// xforward is XFORWARD. What it says is for one message.
func (s *Session) xforward(arg string) (string, *mail.Reply) {
	if !allowed(s.cfg.Proxies.XFORWARD, s.peer) {
		return "", mail.Refuse(550, "5.7.1", "you may not speak for others")
	}
	as, r := attributes(arg, xforwardLine)
	if r != nil {
		return "", r
	}
	if s.forwarded == nil {
		s.forwarded = forward{}
	}
	for k, v := range as {
		s.forwarded[strings.ToLower(k)] = v
	}
	return "", &mail.Reply{Code: 250, Enh: "2.0.0", Text: "noted"}
}
