package authres

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestString(t *testing.T) {
	for _, tc := range []struct {
		name string
		f    Field
		want string
	}{
		{"nothing", Field{ID: "mx.test"}, "mx.test; none"},
		{"odd id", Field{ID: "mx; x", Version: 1}, `"mx; x" 1; none`},
		{"one", Field{ID: "mx.test", Results: []Result{{
			Method: "dkim", Value: "pass", Comment: "2048-bit (rsa)", Reason: "it's fine",
			Props: []Property{{"header", "d", "a.test"}, {"header", "b", "dzdVyOfA"}, {"header", "b", "ab/+="}, {"header", "a", "rsa-sha256"}, {"header", "i", "@a.test"}},
		}}}, `mx.test; dkim=pass (2048-bit \(rsa\)) reason="it's fine" header.d=a.test header.b=dzdVyOfA header.b="ab/+=" header.a=rsa-sha256 header.i=@a.test`},
		{"addresses", Field{ID: "mx.test", Results: []Result{{
			Method: "spf", Value: "pass",
			Props: []Property{{"smtp", "mailfrom", "a+b@x.test"}, {"smtp", "mailfrom", `"a b"@x.test`}, {"smtp", "mailfrom", "a=b@x.test"}, {"smtp", "mailfrom", "\u00fc@x.test"}, {"smtp", "helo", ""}, {"smtp", "helo", "[192.0.2.1]"}, {"smtp", "mailfrom", "a@b@c"}, {"policy", "iprev", "2001:db8::1"}},
		}}}, `mx.test; spf=pass smtp.mailfrom=a+b@x.test smtp.mailfrom="\"a b\"@x.test" smtp.mailfrom="a=b@x.test" smtp.mailfrom="ü@x.test" smtp.helo="" smtp.helo="[192.0.2.1]" smtp.mailfrom="a@b@c" policy.iprev="2001:db8::1"`},
		{"attacks", Field{ID: "mx.test", Results: []Result{
			{Method: "x;\r\nb", Value: "pa ss", Comment: "a) ; spf=pass (\r\n\\", Reason: "\"; spf=pass\r\nTo: x\x00\\", Props: []Property{{"sm.tp", "a=b", "x;\ty"}, {"", "a", "b"}, {"smtp", ";", "b"}}},
			{Method: "=", Value: "pass"}, {Method: "spf", Value: ";"},
		}}, `mx.test; xb=pass (a\) ; spf=pass \(  \\) reason="\"; spf=pass  To: x \\" smtp.ab="x; y"`},
		{"no UTF-8", Field{ID: "mx.test", Results: []Result{{Method: "spf", Value: "pass", Reason: "a\xffb\u0085c\u2028"}}}, `mx.test; spf=pass reason="a?b c "`},
	} {
		if got := tc.f.String(); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

func TestParse(t *testing.T) {
	for s, want := range map[string]Field{
		// RFC 8601, appendix B
		"example.org 1; none": {ID: "example.org", Version: 1},
		"example.com;\r\n spf=pass smtp.mailfrom=example.net": {ID: "example.com", Results: []Result{
			{Method: "spf", Value: "pass", Props: []Property{{"smtp", "mailfrom", "example.net"}}}}},
		"example.com;\r\n          auth=pass (cram-md5) smtp.auth=sender@example.net;\r\n          spf=pass smtp.mailfrom=example.net": {ID: "example.com", Results: []Result{
			{Method: "auth", Value: "pass", Props: []Property{{"smtp", "auth", "sender@example.net"}}},
			{Method: "spf", Value: "pass", Props: []Property{{"smtp", "mailfrom", "example.net"}}}}},
		"example.com;\r\n      dkim=pass reason=\"good signature\"\r\n        header.i=@mail-router.example.net;\r\n      dkim=fail reason=\"bad signature\"\r\n        header.i=@newyork.example.com": {ID: "example.com", Results: []Result{
			{Method: "dkim", Value: "pass", Reason: "good signature", Props: []Property{{"header", "i", "@mail-router.example.net"}}},
			{Method: "dkim", Value: "fail", Reason: "bad signature", Props: []Property{{"header", "i", "@newyork.example.com"}}}}},
		"foo.example.net (foobar) 1 (baz);\r\n    dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n    policy (A dot can go here) . (like that) expired\r\n    (this surprised me) = (as I wasn't expecting it) 1362471462": {ID: "foo.example.net", Version: 1, Results: []Result{
			{Method: "dkim", Value: "fail", Props: []Property{{"policy", "expired", "1362471462"}}}}},
		// and others
		`"mx;1"; SPF=Pass SMTP.MailFrom="a b"@X.test;`: {ID: "mx;1", Results: []Result{
			{Method: "spf", Value: "pass", Props: []Property{{"smtp", "mailfrom", `"a b"@X.test`}}}}},
		"a; dkim/2=pass header.d=x; spf=fail": {ID: "a", Results: []Result{{Method: "spf", Value: "fail"}}},
		"a 2; what=ever ???":                  {ID: "a", Version: 2},
		"a; dkim=pass header.b=ab/+== x-y.a_b=(c)\"q\\\"\r\n q\"": {ID: "a", Results: []Result{
			{Method: "dkim", Value: "pass", Props: []Property{{"header", "b", "ab/+=="}, {"x-y", "a_b", `q" q`}}}}},
		"a": {ID: "a"},
	} {
		got, err := Parse(s)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%q:\ngot  %+v %v\nwant %+v", s, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", ";", "; spf=pass", `"`, "(a", `""; none`, "a b; none", "a 0; none", "a;", "a; ;", "a; spf", "a; spf=", "a; =pass", "a; none; none", "a; none=",
		"a; spf=pass; none", "a; spf=pass x", "a; spf=pass x.", "a; spf=pass x.y", "a; spf=pass x.y=", "a; spf=pass (x", `a; spf=pass reason="x`, `a; spf=pass reason=`,
		`a; spf=pass reason="x\`, `a; spf=pass x.y="a`, "a; dkim/=pass", "spf=pass smtp.mailfrom=a.test", "a/b; none",
		"a" + strings.Repeat("; spf=pass", MaxResults+1),
	} {
		if f, err := Parse(s); !errors.Is(err, ErrSyntax) {
			t.Errorf("%.40q: got %+v, %v", s, f, err)
		}
	}
}

func TestParseARC(t *testing.T) {
	i, f, err := ParseARC("i=3; (x) mx.test; arc=none")
	if err != nil || i != 3 || f.ID != "mx.test" || f.Results[0].Method != "arc" {
		t.Errorf("got %d %+v %v", i, f, err)
	}
	for _, s := range []string{"mx.test; arc=none", "i=0; a; none", "i=51; a; none", "i=1 a; none", "i=; a; none", "i=99999999999999999999; a; none", "i=1;"} {
		if _, _, err := ParseARC(s); !errors.Is(err, ErrSyntax) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestClaims(t *testing.T) {
	for s, want := range map[string]bool{
		"mx.test; spf=pass":               true,
		"MX.Test; spf=pass":               true,
		" (a (nested\\)) comment)mx.test": true,
		"mx.test(comment); spf=pass":      true,
		"mx.test 1; spf=pass":             true,
		"mx.test\r\n\t; spf=pass":         true,
		`"mx.test"; spf=pass`:             true,
		`"mx\.te\st"; spf=pass`:           true,
		"\"mx.\r\n test\"; spf=pass":      false,
		"mx.test.; spf=pass":              true,
		"mx.\x00test; spf=pass":           true,
		"mx.test":                         true,
		"mx.test/x; spf=pass":             true,
		"mx.test spf=pass":                true,
		"(mx.test; spf=pass":              true, // whose it is nobody can tell
		`"mx.test; spf=pass`:              true,
		"":                                true,
		"; spf=pass":                      true,
		"mx.test.evil.test; spf=pass":     false,
		"other.test; spf=pass":            false,
		"(mx.test) other.test; spf=pass":  false,
		"spf=pass smtp.mailfrom=a.test":   false,
		"other.test; mx.test; spf=pass":   false,
	} {
		if got := Claims(s, "mx.test"); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
	if !Claims("\"m\u00fc.test\"; none", "xn--m-eha.test") || !Claims("XN--M-EHA.test; none", "m\u00fc.test") {
		t.Error("U-labels and A-labels are the same name")
	}
}

// TestLinear: what a header field can have at most is read at once.
func TestLinear(t *testing.T) {
	for _, s := range []string{"(", "a;", "a; spf=pass ", "\"\\", "a; spf=pass a.b=c ", "a(b) ", "i=1;"} {
		began := time.Now()
		long := strings.Repeat(s, 1<<20/len(s))
		_, _ = Parse(long)
		_, _, _ = ParseARC(long)
		_ = Claims(long, "mx.test")
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("%q: %v", s, d)
		}
	}
}

// FuzzParse: what is read can be written and read again, and no reader sees
// more in what is written than was put in.
func FuzzParse(f *testing.F) {
	f.Add("mx.test 1; dkim=pass (x) reason=\"a\" header.d=x header.b=\"a/=\"; spf=fail smtp.mailfrom=\"a b\"@c")
	f.Add("i=1; a; none")
	f.Fuzz(func(t *testing.T, s string) {
		_, _, _ = ParseARC(s)
		_ = Claims(s, "mx.test")
		a, err := Parse(s)
		if err != nil || a.Version > 1 {
			return
		}
		if !utf8.ValidString(s) || strings.ContainsFunc(s, isControl) || strings.ContainsRune(s, utf8.RuneError) {
			_, _ = Parse(a.String())
			return
		}
		b, err := Parse(a.String())
		if err != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%q: %q becomes %q (%v)\n%+v\n%+v", s, a, b, err, a, b)
		}
		if !Claims(a.String(), a.ID) {
			t.Errorf("%q does not claim %q", a, a.ID)
		}
	})
}

// FuzzString: whatever is in a result, the field has that one result.
func FuzzString(f *testing.F) {
	f.Add("mx", "fail", "c", "reason", "a@b")
	f.Add("mx@a", "fail", "c", "reason", "a@b")
	f.Add("m;x", "fa(il", "c)", "rea\"son", "a@b;\r\n")
	f.Fuzz(func(t *testing.T, id, value, comment, reason, prop string) {
		w := Field{ID: id, Results: []Result{{Method: "x", Value: value, Comment: comment, Reason: reason, Props: []Property{{"smtp", "mailfrom", prop}}}}}
		s := w.String()
		if strings.ContainsFunc(s, isControl) || !utf8.ValidString(s) {
			t.Errorf("%q", s)
		}
		if id == "" {
			return
		}
		r, err := Parse(s)
		if err != nil || len(r.Results) > 1 || len(r.Results) == 1 && (r.Results[0].Method != "x" || len(r.Results[0].Props) != 1) {
			t.Errorf("%q: %+v %v", s, r, err)
		}
	})
}
