package dns

import (
	"cmp"
	"slices"
	"strings"
	"time"

	miekg "github.com/miekg/dns"
)

// Bounds of what an answer may make us do and keep.
const (
	maxChain    = 8   // CNAMEs from the name asked for to its records
	maxRecords  = 100 // of one answer; the rest is dropped, of MX records the worst
	maxKept     = 4096
	maxTTL      = time.Hour
	maxNegative = 5 * time.Minute
)

// A question is a name in the form that answers have it in, and a type.
type question struct {
	name string
	typ  uint16
}

// newQuestion reports whether name is one that can be asked for. It may have a
// space, since macros of SPF have one.
func newQuestion(name string, typ uint16) (question, bool) {
	if name == "" || strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == '\\' }) >= 0 {
		return question{}, false
	}
	var wire [256]byte
	n, err := miekg.PackDomainName(miekg.CanonicalName(name), wire[:], 0, nil, false)
	if err != nil || n > 255 {
		return question{}, false
	}
	// There and back, so that quotes and the like are escaped as in answers.
	s, _, err := miekg.UnpackDomainName(wire[:n], 0)
	return question{s, typ}, err == nil
}

// An answer is what was found of a question.
type answer struct {
	records []miekg.RR // none: there are no such records
	// authentic is the AD bit of every message that the answer was put
	// together from (RFC 4035, section 3.2.3). It means what the servers
	// asked, and the way to them, are worth.
	authentic bool
	expires   time.Time // when to ask again; the zero Time is at once
	size      int       // octets it came in
	noName    bool      // not even the name is there
}

// A chain follows CNAME records from a question to its records.
type chain struct {
	question        // its name is where the chain has come to
	answer   answer // what was gathered on the way
	hops     int
	ttl      time.Duration
}

func newChain(q question) *chain {
	return &chain{question: q, answer: answer{authentic: true}, ttl: maxTTL}
}

// read takes in what msg says of the name that the chain has come to. It
// reports whether that ends the chain; if not, its new name is to be asked
// for. The error is reasonChain.
func (ch *chain) read(msg *miekg.Msg) (done bool, reason string) {
	ch.answer.authentic = ch.answer.authentic && msg.AuthenticatedData
	ch.answer.size += msg.Len()
	before := ch.hops
	for {
		cname := cnameOf(msg.Answer, ch.name)
		if cname == nil {
			break
		}
		if ch.hops++; ch.hops > maxChain {
			return true, reasonChain
		}
		ch.name = miekg.CanonicalName(cname.Target)
		ch.shorten(cname.Hdr.Ttl)
	}
	for _, rr := range msg.Answer {
		if h := rr.Header(); ch.owns(h) {
			ch.answer.records = append(ch.answer.records, rr)
			ch.shorten(h.Ttl)
		}
	}
	if len(ch.answer.records) > 0 {
		ch.trim()
		return true, ""
	}
	soa := soaOf(msg.Ns)
	if msg.Rcode == miekg.RcodeSuccess && soa == nil && ch.hops > before {
		return false, "" // the server left the rest of the chain to us
	}
	ch.answer.noName = msg.Rcode == miekg.RcodeNameError && ch.hops == 0
	// RFC 2308, section 5: without a SOA record, don't keep it.
	ch.ttl = min(ch.ttl, maxNegative)
	if soa == nil {
		ch.ttl = 0
	} else {
		ch.shorten(min(soa.Hdr.Ttl, soa.Minttl))
	}
	return true, ""
}

func (ch *chain) owns(h *miekg.RR_Header) bool {
	return h.Rrtype == ch.typ && h.Class == miekg.ClassINET && miekg.CanonicalName(h.Name) == ch.name
}

func (ch *chain) shorten(seconds uint32) {
	ch.ttl = min(ch.ttl, time.Duration(seconds)*time.Second)
}

// trim drops what is over maxRecords.
func (ch *chain) trim() {
	rrs := ch.answer.records
	if len(rrs) <= maxRecords {
		return
	}
	if ch.typ == miekg.TypeMX {
		slices.SortStableFunc(rrs, func(a, b miekg.RR) int {
			return cmp.Compare(a.(*miekg.MX).Preference, b.(*miekg.MX).Preference)
		})
	}
	ch.answer.records = slices.Clone(rrs[:maxRecords])
}

// finish returns the answer with the time at which it expires.
func (ch *chain) finish(now time.Time) answer {
	if ch.ttl > 0 {
		ch.answer.expires = now.Add(ch.ttl)
	}
	return ch.answer
}

func cnameOf(rrs []miekg.RR, owner string) *miekg.CNAME {
	for _, rr := range rrs {
		if c, ok := rr.(*miekg.CNAME); ok && miekg.CanonicalName(c.Hdr.Name) == owner {
			return c
		}
	}
	return nil
}

func soaOf(rrs []miekg.RR) *miekg.SOA {
	for _, rr := range rrs {
		if s, ok := rr.(*miekg.SOA); ok {
			return s
		}
	}
	return nil
}

// plainName reports whether a name from an answer is one of letters, digits,
// hyphens and underscores, and so safe to print and to connect to.
func plainName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// unescape undoes the escapes of a zone file's strings (RFC 1035, section 5.1),
// which is how the library hands out octets.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+1 < len(s) {
			i++
			c = s[i]
			if i+2 < len(s) && isDigit(c) && isDigit(s[i+1]) && isDigit(s[i+2]) {
				c = (c-'0')*100 + (s[i+1]-'0')*10 + s[i+2] - '0'
				i += 2
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
