package dmarc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		txt  string
		want string // p sp np, flags, and where reports go; "" for an error
	}{
		{"v=DMARC1; p=none", "none - -  u 100 0"},
		{"v=DMARC1;p=reject;sp=quarantine;np=reject;adkim=s;aspf=s;psd=n;t=y;pct=20;fo=1:d:s", "reject quarantine reject dst n 20 1:d:s"},
		{" v = DMARC1 ; P=Reject ; SP=None; ADKIM=S", "reject none - d u 100 0"},
		{"v=DMARC1; p=quarantine; adkim=x; aspf=; psd=maybe; t=1; pct=200; fo=xx; rf=iodef; ri=1; unknown=y; ;;", "quarantine - -  u 100 0"},
		{"v=DMARC1; p=quarantine; p=reject", "quarantine - -  u 100 0"},
		{"v=DMARC1", "none - -  u 100 0"}, // p= is recommended only
		{"v=DMARC1; psd=y", "none - -  y 100 0"},
		{"v=DMARC1; p=block; rua=mailto:r@a.test", "none - -  u 100 0 r@a.test"},
		{"v=DMARC1; p=reject; sp=block; rua=mailto:r@a.test", "none - -  u 100 0 r@a.test"},
		{"v=DMARC1; p=reject; np=; rua=mailto:r@a.test", "none - -  u 100 0 r@a.test"},
		{"v=DMARC1; rua=mailto:r@a.test", "none - -  u 100 0 r@a.test"},
		{"v=DMARC1; p=block", ""},
		{"v=DMARC1; p=reject; sp=x; rua=https://a.test", ""},
		{"v=DMARC1; p=none; rua=MAILTO:a@a.test!10m, mailto:b%2Bc@b.test!50k ,mailto:c@c.test!3,mailto:d@d.test!1g,mailto:e@e.test?subject=x",
			"none - -  u 100 0 a@a.test!10485760 b+c@b.test!51200 c@c.test!3 d@d.test!1073741824 e@e.test"},
		{"v=DMARC1; p=none; rua=mailto:a@a.test!0,mailto:b@b.test!x,mailto:c,mailto:,ftp:x@y.test,,a@b.test,mailto:a@[192.0.2.1],mailto:x%zz@y.test%",
			"none - -  u 100 0"},
		{"v=DMARC1; p=none; rua=" + strings.Repeat("mailto:a@a.test,", 100), "none - -  u 100 0" + strings.Repeat(" a@a.test", maxURIs)},
		{"p=reject; v=DMARC1", ""},
		{"v=dmarc1; p=reject", ""},
		{"v=DMARC11; p=reject", ""},
		{"V=DMARC1; p=reject", ""},
		{"v=spf1 -all", ""},
		{"", ""},
	} {
		r, err := Parse(tc.txt)
		if tc.want == "" {
			if !errors.Is(err, ErrRecord) {
				t.Errorf("%q: %+v, %v", tc.txt, r, err)
			}
			continue
		}
		if got := describe(r); err != nil || got != tc.want {
			t.Errorf("%q:\n got %s, %v\nwant %s", tc.txt, got, err, tc.want)
		}
	}
}

func describe(r *Record) string {
	if r == nil {
		return ""
	}
	or := func(p Policy) string {
		if p == "" {
			return "-"
		}
		return string(p)
	}
	flags := ""
	for c, on := range map[string]bool{"d": r.StrictDKIM, "s": r.StrictSPF, "t": r.Testing} {
		if on {
			flags += c
		}
	}
	b := []byte(flags)
	slices.Sort(b)
	s := fmt.Sprintf("%s %s %s %s %c %d %s", r.Policy, or(r.Subdomains), or(r.Nonexist), b, r.PSD, r.Percent, r.FailureOptions)
	for _, u := range r.Reports {
		s += " " + u.Address.String()
		if u.Max > 0 {
			s += fmt.Sprintf("!%d", u.Max)
		}
	}
	return s
}

// dmarcZone is records by domain.
func dmarcZone(records map[string]string) *dnstest.Zone {
	z := &dnstest.Zone{TXT: map[string][]string{}, Fail: map[string]bool{}, Host: map[string][]string{}}
	for d, txt := range records {
		z.TXT["_dmarc."+d] = strings.Split(txt, "\n")
	}
	return z
}

// TestDiscovery has the examples of RFC 9989, sections 4.10 and appendix B, and
// what else can be in a tree.
func TestDiscovery(t *testing.T) {
	for name, tc := range map[string]struct {
		zone                    map[string]string
		author, record, org     string
		psl, pslRecord, comment string
	}{
		"the author's own": {
			zone: map[string]string{"a.mail.example.com": "v=DMARC1; p=none", "example.com": "v=DMARC1; p=reject"}, author: "a.mail.example.com",
			record: "a.mail.example.com", org: "example.com", psl: "example.com", pslRecord: "a.mail.example.com",
		},
		"the fewest labels": {
			zone: map[string]string{"mail.example.com": "v=DMARC1; p=none", "example.com": "v=DMARC1; p=reject"}, author: "a.mail.example.com",
			record: "example.com", org: "example.com", psl: "example.com", pslRecord: "example.com",
		},
		"psd=n": {
			zone: map[string]string{"mail.example.com": "v=DMARC1; p=none; psd=n", "example.com": "v=DMARC1; p=reject"}, author: "a.mail.example.com",
			record: "mail.example.com", org: "mail.example.com", psl: "example.com", pslRecord: "example.com",
		},
		"psd=y above": {
			zone: map[string]string{"com": "v=DMARC1; p=none; psd=y"}, author: "a.mail.example.com",
			record: "com", org: "example.com", psl: "example.com",
		},
		"psd=y and a record below": {
			zone:   map[string]string{"com": "v=DMARC1; p=none; psd=y", "example.com": "v=DMARC1; p=reject"},
			author: "a.mail.example.com", record: "example.com", org: "example.com", psl: "example.com", pslRecord: "example.com",
		},
		"psd=y in the middle": {
			zone: map[string]string{"example.com": "v=DMARC1; p=none; psd=y"}, author: "a.mail.example.com",
			record: "example.com", org: "mail.example.com", psl: "example.com", pslRecord: "example.com",
		},
		"the author is a public suffix": {
			zone: map[string]string{"example.com": "v=DMARC1; p=none; psd=y"}, author: "example.com",
			record: "example.com", org: "example.com", psl: "example.com", pslRecord: "example.com",
		},
		"no record": {zone: nil, author: "mail.example.com", org: "mail.example.com", psl: "example.com"},
		"several are none": {
			zone: map[string]string{"example.com": "v=DMARC1; p=none\nv=DMARC1; p=reject"}, author: "example.com", org: "example.com", psl: "example.com",
		},
		"one and others": {
			zone: map[string]string{"example.com": "v=spf1 -all\nv=DMARC1; p=reject\nx"}, author: "example.com",
			record: "example.com", org: "example.com", psl: "example.com", pslRecord: "example.com",
		},
		"long": {
			zone:   map[string]string{"example.com": "v=DMARC1; p=reject", "f.g.h.i.j.mail.example.com": "v=DMARC1; p=none; psd=n"},
			author: "a.b.c.d.e.f.g.h.i.j.mail.example.com", record: "example.com", org: "example.com", psl: "example.com", pslRecord: "example.com",
		},
		"private suffix": {
			zone: map[string]string{"github.io": "v=DMARC1; p=reject"}, author: "a.b.github.io",
			record: "github.io", org: "github.io", psl: "b.github.io",
		},
	} {
		for _, m := range []Method{TreeWalk, PublicSuffix} {
			zone := dmarcZone(tc.zone)
			f := NewFinder(zone, m)
			record, org := tc.record, tc.org
			if m == PublicSuffix {
				record, org = tc.pslRecord, tc.psl
			}
			r, err := f.Record(t.Context(), tc.author)
			got := ""
			if r != nil {
				got = r.Domain
			}
			if err != nil || got != record {
				t.Errorf("%s, %s: record of %q, %v, want %q", name, m, got, err, record)
			}
			if got, err := f.Organisation(t.Context(), tc.author); err != nil || got != org {
				t.Errorf("%s, %s: organisation %s, %v, want %s", name, m, got, err, org)
			}
			if asked := zone.Asked(); len(asked) > 8 {
				t.Errorf("%s, %s: %d questions: %v", name, m, len(asked), asked)
			}
		}
	}
}

func TestWalkAsks(t *testing.T) {
	zone := dmarcZone(nil)
	if r, err := NewFinder(zone, TreeWalk).Record(t.Context(), "a.b.c.d.e.f.g.h.i.j.mail.example.com"); r != nil || err != nil {
		t.Fatal(r, err)
	}
	want := []string{
		"TXT _dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.com", "TXT _dmarc.g.h.i.j.mail.example.com", "TXT _dmarc.h.i.j.mail.example.com",
		"TXT _dmarc.i.j.mail.example.com", "TXT _dmarc.j.mail.example.com", "TXT _dmarc.mail.example.com", "TXT _dmarc.example.com", "TXT _dmarc.com",
	}
	if got := zone.Asked(); !slices.Equal(got, want) {
		t.Errorf("asked %v", got)
	}
	long := strings.Repeat("a234567890.", 23) + "test"
	if _, err := NewFinder(zone, TreeWalk).Record(t.Context(), long[len(long)-253:]); err != nil {
		t.Errorf("a name that is too long for a prefix: %v", err)
	}
}

func TestEvaluate(t *testing.T) {
	zone := dmarcZone(map[string]string{
		"reject.test":     "v=DMARC1; p=reject; sp=quarantine; np=none",
		"strict.test":     "v=DMARC1; p=reject; adkim=s; aspf=s",
		"testing.test":    "v=DMARC1; p=reject; t=y",
		"testing2.test":   "v=DMARC1; p=quarantine; t=y",
		"half.test":       "v=DMARC1; p=reject; pct=50",
		"wrong.test":      "v=DMARC1; p=block",
		"sub.psdn.test":   "v=DMARC1; p=reject; psd=n",
		"psdn.test":       "v=DMARC1; p=reject",
		"x.reject.test":   "v=DMARC1; p=none",
		"ok.failing.test": "v=DMARC1; p=reject",
	})
	zone.Host["there.reject.test"] = []string{"192.0.2.1"}
	zone.TXT["empty.reject.test"] = []string{"no host, but a name"}
	zone.Fail = map[string]bool{"_dmarc.fail.test": true, "_dmarc.failing.test": true, "dns.reject.test": true}
	for _, tc := range []struct {
		author    string
		spf, dkim string
		sample    int
		want      string // value, requested, applied, aligned
	}{
		{"nothing.test", "nothing.test", "", 0, "none none none "},
		{"reject.test", "", "", 0, "fail reject reject "},
		{"reject.test", "other.test", "reject.test.other.test", 0, "fail reject reject "},
		{"reject.test", "reject.test", "", 0, "pass reject none spf"},
		{"reject.test", "", "reject.test", 0, "pass reject none dkim"},
		{"reject.test", "bounce.reject.test", "mail.reject.test", 0, "pass reject none spf dkim"},
		{"reject.test", "notreject.test", "", 0, "fail reject reject "},
		{"there.reject.test", "", "reject.test", 0, "pass quarantine none dkim"},
		{"there.reject.test", "", "", 0, "fail quarantine quarantine "},
		{"empty.reject.test", "", "", 0, "fail quarantine quarantine "}, // a name without addresses exists
		{"gone.reject.test", "", "", 0, "fail none none "},
		{"dns.reject.test", "", "", 0, "temperror quarantine none "},
		{"dns.reject.test", "", "reject.test", 0, "pass quarantine none dkim"},
		{"x.reject.test", "", "other.reject.test", 0, "pass none none dkim"},
		{"strict.test", "mail.strict.test", "mail.strict.test", 0, "fail reject reject "},
		{"strict.test", "strict.test", "", 0, "pass reject none spf"},
		{"testing.test", "", "", 0, "fail reject quarantine "},
		{"testing2.test", "", "", 0, "fail quarantine none "},
		{"half.test", "", "", 49, "fail reject reject "},
		{"half.test", "", "", 50, "fail reject quarantine "},
		{"wrong.test", "", "", 0, "permerror none none "},
		{"fail.test", "", "", 0, "temperror none none "},
		{"ok.failing.test", "failing.test", "", 0, "temperror reject none "},
		{"ok.failing.test", "ok.failing.test", "", 0, "pass reject none spf"},
		{"psdn.test", "sub.psdn.test", "", 0, "fail reject reject "}, // another organisation
		{"sub.psdn.test", "a.sub.psdn.test", "psdn.test", 0, "pass reject none spf"},
	} {
		ids := Identifiers{SPF: strings.Fields(tc.spf), DKIM: strings.Fields(tc.dkim)}
		e := NewFinder(zone, TreeWalk).Evaluate(t.Context(), tc.author, ids, tc.sample)
		got := fmt.Sprintf("%s %s %s ", e.Value, e.Requested, e.Policy)
		if e.SPF {
			got += "spf"
		}
		if e.DKIM {
			got = strings.TrimSuffix(got+" dkim", " ")
			got = strings.Replace(got, "  ", " ", 1)
		}
		if got != tc.want {
			t.Errorf("%s by %q and %q: got %q, %v, want %q", tc.author, tc.spf, tc.dkim, got, e.Err, tc.want)
		}
	}
}

// TestUnknown: while SPF or DKIM of the author's domain is not known, the
// message has not failed.
func TestUnknown(t *testing.T) {
	zone := dmarcZone(map[string]string{"a.test": "v=DMARC1; p=reject; adkim=s"})
	for want, ids := range map[string]Identifiers{
		"fail":       {UnknownSPF: []string{"b.test"}, UnknownDKIM: []string{"m.a.test"}},
		"temperror":  {UnknownSPF: []string{"m.a.test"}},
		"temperror ": {UnknownDKIM: []string{"a.test"}},
		"pass":       {UnknownDKIM: []string{"a.test"}, SPF: []string{"a.test"}},
	} {
		if e := NewFinder(zone, TreeWalk).Evaluate(t.Context(), "a.test", ids, 0); e.Value != strings.TrimSpace(want) || e.Policy == Reject != (want == "fail") {
			t.Errorf("%+v: %s, %s, want %s", ids, e.Value, e.Policy, want)
		}
	}
}

func TestWorse(t *testing.T) {
	order := []*Evaluation{
		{Value: Pass}, {Value: None}, {Value: PermError}, {Value: TempError}, {Value: Fail},
		{Value: Fail, Policy: Quarantine}, {Value: Fail, Policy: Reject},
	}
	for i, a := range order {
		for j, b := range order {
			if a.Worse(b) != (i > j) {
				t.Errorf("%+v and %+v", a, b)
			}
		}
	}
}

// TestManyIdentifiers: signatures of strangers cost no questions.
func TestManyIdentifiers(t *testing.T) {
	zone := dmarcZone(map[string]string{"a.test": "v=DMARC1; p=reject"})
	var ids Identifiers
	for i := range 100 {
		ids.DKIM = append(ids.DKIM, fmt.Sprintf("d%d.test", i))
	}
	if e := NewFinder(zone, TreeWalk).Evaluate(t.Context(), "a.test", ids, 0); e.Value != Fail {
		t.Error(e.Value)
	}
	if n := len(zone.Asked()); n > 3 {
		t.Errorf("%d questions", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("v=DMARC1; p=reject; sp=none; np=quarantine; rua=mailto:a%2Bb@c.test!10m,mailto:x@y.test; pct=10; t=y; psd=n; adkim=s; aspf=r; fo=1:d")
	f.Add("v=DMARC1;p=\x00;rua=mailto:%@!")
	f.Fuzz(func(t *testing.T, txt string) {
		r, err := Parse(txt)
		if err != nil {
			return
		}
		if r.Policy.level() == 0 && r.Policy != PolicyNone || r.Percent < 0 || r.Percent > 100 || len(r.Reports) > maxURIs || len(r.FailureOptions) > 7 {
			t.Errorf("%q: %+v", txt, r)
		}
		for _, u := range r.Reports {
			if u.Address.Domain == "" || u.Max < 0 {
				t.Errorf("%q: %+v", txt, u)
			}
		}
	})
}
