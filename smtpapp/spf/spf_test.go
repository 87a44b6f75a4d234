package spf

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/spf/spftest"
)

// TestSuites are the published suites, all of them.
func TestSuites(t *testing.T) {
	n := 0
	for _, tc := range spftest.Cases(t) {
		n++
		c := Client{tc.Host, tc.Helo}
		var got Result
		if tc.MailFrom == "" {
			got = CheckHELO(context.Background(), tc.Zone, c)
		} else {
			i := strings.LastIndexByte(tc.MailFrom, '@')
			got = Check(context.Background(), tc.Zone, c, tc.MailFrom[:max(i, 0)], tc.MailFrom[i+1:])
		}
		if !slices.Contains(tc.Want, got.Value) {
			t.Errorf("%s: %s for %s: got %s (%s), want %v", tc.Name, tc.MailFrom, tc.Host, got.Value, got.Reason, tc.Want)
		}
	}
	if n < 190 {
		t.Errorf("%d cases only", n)
	}
	t.Logf("%d cases", n)
}

func zone(txt map[string]string) *dnstest.Zone {
	z := &dnstest.Zone{TXT: map[string][]string{}, Host: map[string][]string{}, MX: map[string][]net.MX{}, PTR: map[string][]string{}}
	for name, s := range txt {
		z.TXT[name] = []string{s}
	}
	return z
}

var client = Client{netip.MustParseAddr("192.0.2.1"), "mail.client.test"}

// TestLimits: no policy makes us ask more than RFC 7208, section 4.6.4, allows.
func TestLimits(t *testing.T) {
	terms := func(n int, s string) string { return strings.Repeat(" "+s, n) }
	z := zone(map[string]string{
		"a.test":      "v=spf1 a a a a a a a a a a -all",
		"a11.test":    "v=spf1 a a a a a a a a a a a -all",
		"void2.test":  "v=spf1 a:x.void.test exists:y.void.test -all",
		"void3.test":  "v=spf1 a:x.void.test mx:y.void.test exists:z.void.test -all",
		"loop.test":   "v=spf1 include:loop.test -all",
		"to.test":     "v=spf1 redirect=to.test",
		"mx10.test":   "v=spf1 mx -all",
		"mx11.test":   "v=spf1 mx -all",
		"macros.test": "v=spf1" + terms(1000, "exists:%{l}"+strings.Repeat("%{s}", 3)+".a.test") + " -all",
		"long.test":   "v=spf1" + terms(5000, "ip4:192.0.2.99") + " -all",
		"ptr.test":    "v=spf1 ptr exists:%{p}.x.test -all",
	})
	for _, h := range []string{"a.test", "a11.test"} {
		z.Host[h] = []string{"198.51.100.1"}
	}
	for i := range 11 {
		host := "h" + string(rune('a'+i)) + ".test"
		z.Host[host] = []string{"198.51.100.1", "2001:db8::1"}
		z.MX["mx11.test"] = append(z.MX["mx11.test"], net.MX{Host: host})
		if i < 10 {
			z.MX["mx10.test"] = append(z.MX["mx10.test"], net.MX{Host: host})
		}
	}
	for i := range 50 {
		z.PTR["192.0.2.1"] = append(z.PTR["192.0.2.1"], "p"+string(rune('a'+i%26))+".test")
	}
	for domain, want := range map[string]struct {
		value string
		asked int
	}{
		"a.test": {Fail, 11}, "a11.test": {PermError, 11}, "void2.test": {Fail, 3}, "void3.test": {PermError, 4},
		"loop.test": {PermError, 11}, "to.test": {PermError, 11}, "mx10.test": {Fail, 12}, "mx11.test": {PermError, 2},
		"macros.test": {PermError, 4}, "long.test": {PermError, 1}, "ptr.test": {Fail, 13},
	} {
		before := len(z.Asked())
		got := Check(t.Context(), z, client, "user", domain)
		if asked := len(z.Asked()) - before; got.Value != want.value || asked > want.asked {
			t.Errorf("%s: got %s (%s) after %d questions, want %s after %d", domain, got.Value, got.Reason, asked, want.value, want.asked)
		}
	}
}

// TestErrors: what DNS does not tell now is temporary, what is wrong with a
// policy is not, and neither says more than that.
func TestErrors(t *testing.T) {
	z := zone(map[string]string{
		"bad.test": "v=spf1 foo", "a.test": "v=spf1 a:gone.test -all", "inc.test": "v=spf1 include:gone.test -all",
		"none.test": "v=spf1 include:nowhere.test", "mx.test": "v=spf1 mx:gone.test", "late.test": "v=spf1 ip4:192.0.2.1 a:gone.test foo",
	})
	z.Fail = map[string]bool{"gone.test": true}
	for domain, want := range map[string]string{
		"bad.test": PermError + ": syntax error in the policy", "none.test": PermError + ": the policy names a domain that has none",
		"late.test": PermError + ": syntax error in the policy", "gone.test": TempError + ": temporary failure of DNS", "a.test": TempError + ": temporary failure of DNS",
		"inc.test": TempError + ": temporary failure of DNS", "mx.test": TempError + ": temporary failure of DNS", "nowhere.test": "none: ",
	} {
		if got := Check(t.Context(), z, client, "user", domain); got.Value+": "+got.Reason != want {
			t.Errorf("%s: got %s: %s, want %s", domain, got.Value, got.Reason, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	z.Silent = map[string]bool{"silent.test": true}
	if got := Check(ctx, z, client, "user", "silent.test"); got.Value != TempError {
		t.Errorf("after the end of its time: %+v", got)
	}
}

func TestIdentities(t *testing.T) {
	z := zone(map[string]string{
		"mail.client.test": "v=spf1 exists:%{l}.%{d}.e.test -all", "from.test": "v=spf1 exists:%{l}.l.test ~all",
		"utf8.test": "v=spf1 exists:%{l}.l.test ip4:192.0.2.1", "9.9.9.9": "v=spf1 +all",
	})
	z.Host = map[string][]string{"postmaster.mail.client.test.e.test": {"127.0.0.2"}, "a.l.test": {"127.0.0.2"}}
	for _, tc := range []struct {
		from mail.Address
		want Result
	}{
		{mail.Address{}, Result{Pass, HELO, "mail.client.test", ""}},
		{mail.Address{Local: "a", Domain: "from.test"}, Result{Pass, MailFrom, "from.test", ""}},
		{mail.Address{Local: "a@evil.test", Domain: "from.test"}, Result{SoftFail, MailFrom, "from.test", ""}},
		{mail.Address{Local: "\u00fc", Domain: "utf8.test"}, Result{Pass, MailFrom, "utf8.test", ""}}, // RFC 8616, section 4
		{mail.Address{Local: "a", Domain: "[192.0.2.1]"}, Result{None, MailFrom, "[192.0.2.1]", ""}},
		{mail.Address{Local: "a", Domain: "9.9.9.9"}, Result{None, MailFrom, "9.9.9.9", ""}},
	} {
		if got := CheckMailFrom(t.Context(), z, client, tc.from); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.from, got, tc.want)
		}
	}
	for hello, want := range map[string]string{"[192.0.2.1]": None, "": None, "a..b": None, "mail.client.test.": Pass, strings.Repeat("x", 64) + ".test": None, "ho st.test": None} {
		if got := CheckHELO(t.Context(), z, Client{client.IP, hello}); got.Value != want || got.Identity != HELO {
			t.Errorf("HELO %q: %+v", hello, got)
		}
	}
	if got := CheckHELO(t.Context(), z, Client{netip.Addr{}, "mail.client.test"}); got.Value != None {
		t.Errorf("without an address: %+v", got)
	}
	if got := CheckHELO(t.Context(), z, Client{netip.MustParseAddr("::ffff:192.0.2.1"), "utf8.test"}); got.Value != Pass {
		t.Errorf("mapped address: %+v", got)
	}
}

// FuzzCheck: whatever a policy says, it has a result, and asks no more than it
// may: 10 terms, one of which can be 10 hosts of an mx and one 10 of a ptr each.
func FuzzCheck(f *testing.F) {
	for _, s := range []string{
		"a mx ptr -all", "include:b.test redirect=b.test", "exists:%{l1r+-}.%{D2}%%%_%-.b.test ?all", "ip4:192.0.2.0/24 ip6:2001:db8::/32 a:b.test/24//64", "exp=%{i}.b.test moo=%{h}",
	} {
		f.Add(s, "l-o+c")
	}
	f.Fuzz(func(t *testing.T, policy, local string) {
		z := zone(map[string]string{"a.test": "v=spf1 " + policy, "b.test": "v=spf1 " + policy})
		z.Host["b.test"], z.MX["a.test"], z.PTR["192.0.2.1"] = []string{"192.0.2.7"}, []net.MX{{Host: "b.test"}}, []string{"b.test"}
		got := Check(context.Background(), z, client, local, "a.test")
		if !slices.Contains(Values, got.Value) || (got.Reason != "") != (got.Value == TempError || got.Value == PermError) {
			t.Errorf("%q: %+v", policy, got)
		}
		if n := len(z.Asked()); n > 1+10*11+1+10 {
			t.Errorf("%q: %d questions", policy, n)
		}
	})
}
