package ldap

import (
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"
)

// A directory is as much of one as the tests need.
type directory struct {
	t         *testing.T
	ln        net.Listener
	passwords map[string]string              // by DN
	entries   map[string]map[string][]string // of searches, by base and filter
	dns       map[string]string
	tls       *tls.Config

	mu    sync.Mutex
	said  []string // by clients
	conns map[net.Conn]bool
	codes map[string]uint16 // what operations end with instead
	reply func(net.Conn) bool
}

func newDirectory(t *testing.T) *directory {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{t: t, ln: ln, passwords: map[string]string{}, entries: map[string]map[string][]string{}, dns: map[string]string{}, conns: map[net.Conn]bool{}, codes: map[string]uint16{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.conns[c] = true
			d.mu.Unlock()
			wg.Go(func() { d.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); d.drop(); wg.Wait() })
	return d
}

func (d *directory) url() string { return "ldap://" + d.ln.Addr().String() }

// drop closes all connections.
func (d *directory) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		c.Close()
	}
	clear(d.conns)
}

func (d *directory) open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

func (d *directory) heard() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := strings.Join(d.said, "; ")
	d.said = nil
	return s
}

func (d *directory) serve(raw net.Conn) {
	defer func() {
		raw.Close()
		d.mu.Lock()
		delete(d.conns, raw)
		d.mu.Unlock()
	}()
	c := raw
	for {
		p, err := ber.ReadPacket(c)
		if err != nil || len(p.Children) < 2 {
			return
		}
		id, op := p.Children[0].Value.(int64), p.Children[1]
		d.mu.Lock()
		custom := d.reply
		d.mu.Unlock()
		if custom != nil && custom(c) {
			continue
		}
		switch op.Tag {
		case goldap.ApplicationBindRequest:
			c.Write(d.bind(id, op))
		case goldap.ApplicationSearchRequest:
			c.Write(d.search(id, op))
		case goldap.ApplicationExtendedRequest:
			c.Write(d.result(id, goldap.ApplicationExtendedResponse, "starttls", 0))
			tc := tls.Server(c, d.tls)
			if tc.Handshake() != nil {
				return
			}
			c = tc
		default:
			return
		}
	}
}

func (d *directory) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.said = append(d.said, s)
}

func (d *directory) result(id int64, tag ber.Tag, what string, code uint16) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, ok := d.codes[what]; ok {
		code = c
	}
	m := message(id)
	r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	r.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(code), ""))
	r.AppendChild(text(""))
	r.AppendChild(text(""))
	m.AppendChild(r)
	return m.Bytes()
}

func message(id int64) *ber.Packet {
	m := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
	m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	return m
}

func text(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func (d *directory) bind(id int64, op *ber.Packet) []byte {
	dn := op.Children[1].Data.String()
	d.note("bind " + dn)
	code := uint16(goldap.LDAPResultInvalidCredentials)
	if pw, ok := d.passwords[dn]; ok && pw == op.Children[2].Data.String() {
		code = 0
	}
	return d.result(id, goldap.ApplicationBindResponse, "bind", code)
}

func (d *directory) search(id int64, op *ber.Packet) []byte {
	filter, err := goldap.DecompileFilter(op.Children[6])
	if err != nil {
		d.t.Error(err)
	}
	key := op.Children[0].Data.String() + " " + filter
	d.note("search " + key)
	var out []byte
	for n := range strings.SplitSeq(d.dns[key], ";") {
		if n == "" {
			break
		}
		m := message(id)
		e := ber.Encode(ber.ClassApplication, ber.TypeConstructed, goldap.ApplicationSearchResultEntry, nil, "")
		e.AppendChild(text(n))
		list := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
		for name, values := range d.entries[n] {
			a := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSequence, nil, "")
			a.AppendChild(text(name))
			set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
			for _, v := range values {
				set.AppendChild(text(v))
			}
			a.AppendChild(set)
			list.AppendChild(a)
		}
		e.AppendChild(list)
		m.AppendChild(e)
		out = append(out, m.Bytes()...)
	}
	return append(out, d.result(id, goldap.ApplicationSearchResultDone, "search", 0)...)
}
