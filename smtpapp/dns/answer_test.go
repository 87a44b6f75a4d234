package dns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
)

func rr(t testing.TB, s string) miekg.RR {
	t.Helper()
	r, err := miekg.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func message(t testing.TB, rcode int, ad bool, answer []string, ns ...string) *miekg.Msg {
	m := new(miekg.Msg)
	m.Rcode, m.AuthenticatedData = rcode, ad
	for _, s := range answer {
		m.Answer = append(m.Answer, rr(t, s))
	}
	for _, s := range ns {
		m.Ns = append(m.Ns, rr(t, s))
	}
	return m
}

func TestChain(t *testing.T) {
	const soa = "test. 600 IN SOA ns.test. root.test. 1 2 3 4 120"
	for _, tc := range []struct {
		what    string
		msg     *miekg.Msg
		done    bool
		reason  string
		records int
		ttl     time.Duration
	}{
		{"records", message(t, 0, true, []string{"A.test. 30 IN A 192.0.2.1", "a.test. 20 IN A 192.0.2.2"}), true, "", 2, 20 * time.Second},
		{"others' records", message(t, 0, true, []string{"b.test. 30 IN A 192.0.2.1", "a.test. 30 IN AAAA ::1", "a.test. 30 CH A 192.0.2.1"}), true, "", 0, 0},
		{"chain", message(t, 0, true, []string{"b.test. 30 IN A 192.0.2.1", "a.test. 10 IN CNAME B.test."}), true, "", 1, 10 * time.Second},
		{"unfinished", message(t, 0, true, []string{"a.test. 10 IN CNAME b.test."}), false, "", 0, 10 * time.Second},
		{"no such name", message(t, miekg.RcodeNameError, true, nil, soa), true, "", 0, 120 * time.Second},
		{"no data at the end", message(t, 0, true, []string{"a.test. 10 IN CNAME b.test."}, soa), true, "", 0, 10 * time.Second},
		{"no such name, no SOA", message(t, miekg.RcodeNameError, true, nil), true, "", 0, 0},
		{"loop", message(t, 0, true, []string{"a.test. 10 IN CNAME b.test.", "b.test. 10 IN CNAME a.test."}), true, reasonChain, 0, 10 * time.Second},
		{"a day", message(t, 0, true, []string{"a.test. 86400 IN A 192.0.2.1"}), true, "", 1, time.Hour},
		{"no for a day", message(t, 0, true, nil, "test. 86400 IN SOA ns.test. root.test. 1 2 3 4 86400"), true, "", 0, 5 * time.Minute},
		{"now", message(t, 0, true, []string{"a.test. 0 IN A 192.0.2.1"}), true, "", 1, 0},
	} {
		ch := newChain(question{"a.test.", miekg.TypeA})
		done, reason := ch.read(tc.msg)
		if done != tc.done || reason != tc.reason || len(ch.answer.records) != tc.records || ch.ttl != tc.ttl {
			t.Errorf("%s: got %v, %q, %d records, %v", tc.what, done, reason, len(ch.answer.records), ch.ttl)
		}
	}
}

func TestAuthentic(t *testing.T) {
	ch := newChain(question{"a.test.", miekg.TypeA})
	ch.read(message(t, 0, true, []string{"a.test. 10 IN CNAME b.test."}))
	if !ch.answer.authentic {
		t.Error("the AD bit was lost")
	}
	ch.read(message(t, 0, false, []string{"b.test. 10 IN A 192.0.2.1"}))
	if ch.finish(time.Now()).authentic {
		t.Error("an answer is only as authentic as all of its parts")
	}
}

func TestTrim(t *testing.T) {
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("a.test. 30 IN MX %d h%d.test.", 500-i, i))
	}
	ch := newChain(question{"a.test.", miekg.TypeMX})
	ch.read(message(t, 0, false, many))
	got := ch.answer.records
	if len(got) != maxRecords || got[0].(*miekg.MX).Preference != 1 || got[99].(*miekg.MX).Preference != 100 {
		t.Errorf("kept %d, from %v on", len(got), got[0])
	}
}

func TestCache(t *testing.T) {
	var c cache
	c.max = 2
	now := time.Now()
	q := func(s string) question { return question{s, miekg.TypeA} }
	a := answer{expires: now.Add(time.Minute)}
	c.store(q("a"), a, now)
	c.store(q("b"), a, now)
	c.load(q("a"), now)
	c.store(q("c"), a, now) // b goes: a was used since
	c.store(q("c"), a, now)
	c.store(q("big"), answer{expires: a.expires, size: maxKept + 1}, now)
	c.store(q("short"), answer{expires: now}, now)
	for name, want := range map[string]bool{"a": true, "b": false, "c": true, "big": false, "short": false} {
		if _, ok := c.load(q(name), now); ok != want {
			t.Errorf("%s: kept is %v", name, ok)
		}
	}
	if _, ok := c.load(q("a"), now.Add(time.Minute)); ok || len(c.entries) != 1 || c.recent.Len() != 1 {
		t.Error("an expired answer was kept")
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`plain`: "plain", `a\"b`: `a"b`, `\\`: `\`, `\000\255x`: "\x00\xffx", `\12`: "12", `\`: `\`, "": ""} {
		if got := unescape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestQuotedQuestion(t *testing.T) {
	q, ok := newQuestion(`A"b@c.test`, miekg.TypeTXT)
	if !ok || q.name != `a\"b\@c.test.` {
		t.Errorf("got %q, %v", q.name, ok)
	}
}

func TestSystemServers(t *testing.T) {
	f := filepath.Join(t.TempDir(), "resolv.conf")
	os.WriteFile(f, []byte("search x.test\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n"), 0o600)
	if got := systemServers(f); !slices.Equal(got, []string{"192.0.2.1", "2001:db8::1"}) {
		t.Errorf("got %q", got)
	}
	if got := systemServers(f + "x"); len(got) != 2 || got[0] != "127.0.0.1" {
		t.Errorf("got %q", got)
	}
}

// TestHostile has a server that sends rubbish and others' answers before its
// own, and one that knows no EDNS0.
func TestHostile(t *testing.T) {
	for _, tc := range []struct {
		what  string
		reply func(req *miekg.Msg) [][]byte
		want  string // the TXT record, or the error
	}{
		{"strangers first", func(req *miekg.Msg) [][]byte {
			otherID, otherName, noReply := txt(req, "wrong"), txt(req, "wrong"), txt(req, "wrong")
			otherID.Id++
			otherName.Question[0].Name = "other.test."
			noReply.Response = false
			return [][]byte{{}, []byte("\x00\x01"), make([]byte, 12), pack(t, otherID), pack(t, otherName), pack(t, noReply), pack(t, txt(req, "right"))}
		}, "right"},
		{"no EDNS0", func(req *miekg.Msg) [][]byte {
			if req.IsEdns0() == nil {
				return [][]byte{pack(t, txt(req, "plain"))}
			}
			m := new(miekg.Msg).SetRcode(req, miekg.RcodeFormatError)
			m.Question = nil
			return [][]byte{pack(t, m)}
		}, "plain"},
		{"empty and fine", func(req *miekg.Msg) [][]byte {
			m := txt(req, "")
			m.Question = nil
			return [][]byte{pack(t, m)}
		}, "timeout"},
		{"refused", func(req *miekg.Msg) [][]byte {
			return [][]byte{pack(t, new(miekg.Msg).SetRcode(req, miekg.RcodeRefused))}
		}, reasonServer},
		{"truncated, no TCP", func(req *miekg.Msg) [][]byte {
			m := txt(req, "half")
			m.Truncated = true
			p := pack(t, m)
			return [][]byte{p[:len(p)-3]}
		}, "refused"},
	} {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go serveRaw(pc, tc.reply)
		c, err := New([]string{pc.LocalAddr().String()}, Timeout(150*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.LookupTXT(t.Context(), "x.test")
		text := fmt.Sprint(strings.Join(got, ""), err)
		if !strings.Contains(text, tc.want) {
			t.Errorf("%s: got %s", tc.what, text)
		}
		if e := (*net.DNSError)(nil); errors.As(err, &e) && !e.Temporary() {
			t.Errorf("%s: %v is not temporary", tc.what, err)
		}
		pc.Close()
	}
}

func txt(req *miekg.Msg, s string) *miekg.Msg {
	m := new(miekg.Msg).SetReply(req)
	m.Answer = []miekg.RR{&miekg.TXT{Hdr: miekg.RR_Header{Name: req.Question[0].Name, Rrtype: miekg.TypeTXT, Class: miekg.ClassINET, Ttl: 1}, Txt: []string{s}}}
	return m
}

func pack(t testing.TB, m *miekg.Msg) []byte {
	p, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return p
}

func serveRaw(pc net.PacketConn, reply func(*miekg.Msg) [][]byte) {
	buf := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		req := new(miekg.Msg)
		if req.Unpack(buf[:n]) != nil {
			continue
		}
		for _, p := range reply(req) {
			pc.WriteTo(p, from)
		}
	}
}

// FuzzAnswer feeds messages to the chain and the readers of records: nothing
// may panic, and what is kept has its bounds.
func FuzzAnswer(f *testing.F) {
	for _, m := range []*miekg.Msg{
		message(f, 0, true, []string{"a.test. 10 IN CNAME b.test.", "b.test. 10 IN MX 10 c.test.", "b.test. 1 IN TXT \"x\\000\""}),
		message(f, 3, false, nil, "test. 600 IN SOA ns.test. root.test. 1 2 3 4 120"),
	} {
		f.Add(pack(f, m), "a.test", miekg.TypeMX)
	}
	f.Fuzz(func(t *testing.T, raw []byte, name string, typ uint16) {
		m := new(miekg.Msg)
		q, ok := newQuestion(name, typ)
		if !ok || m.Unpack(raw) != nil {
			return
		}
		answers(m, new(miekg.Msg).SetQuestion(q.name, q.typ))
		ch := newChain(q)
		ch.read(m)
		if len(ch.answer.records) > maxRecords || ch.ttl < 0 || ch.ttl > maxTTL || ch.hops > maxChain+1 {
			t.Fatalf("out of bounds: %+v", ch)
		}
		for _, r := range ch.answer.records {
			switch r := r.(type) {
			case *miekg.TXT:
				unescape(strings.Join(r.Txt, ""))
			case *miekg.MX:
				plainName(r.Mx)
			default:
				if typ == miekg.TypeMX || typ == miekg.TypeTXT || typ == miekg.TypeA || typ == miekg.TypeAAAA || typ == miekg.TypePTR {
					switch r.(type) {
					case *miekg.A, *miekg.AAAA, *miekg.PTR:
					default:
						t.Fatalf("type %d is a %T", typ, r)
					}
				}
			}
		}
	})
}
