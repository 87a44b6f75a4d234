package mail

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for _, tc := range []struct {
		in, local, domain string
		err               error
	}{
		{"alice@example.test", "alice", "example.test", nil},
		{"Alice@EXAMPLE.test", "Alice", "example.test", nil},
		{`"a b"@example.test`, "a b", "example.test", nil},
		{`"a\"b\\c"@example.test`, `a"b\c`, "example.test", nil},
		{`"victim@remote"@example.test`, "victim@remote", "example.test", nil},
		{"victim%remote@example.test", "victim%remote", "example.test", nil},
		{"a@[127.0.0.1]", "a", "[127.0.0.1]", nil},
		{"a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]", nil},
		{"a@[IPv6:2001:DB8:0::1]", "a", "[IPv6:2001:db8::1]", nil},
		{"ü@bücher.test", "ü", "xn--bcher-kva.test", nil},
		{"a@XN--BCHER-KVA.test", "a", "xn--bcher-kva.test", nil},
		{"u\u0308@example.test", "ü", "example.test", nil},
		{strings.Repeat("a", 64) + "@b.test", strings.Repeat("a", 64), "b.test", nil},

		{"", "", "", ErrSyntax},
		{"alice", "", "", ErrSyntax},
		{"@example.test", "", "", ErrSyntax},
		{"a@", "", "", ErrSyntax},
		{"a@b@example.test", "", "", ErrSyntax},
		{"a@example.test.", "", "", ErrSyntax},
		{".a@example.test", "", "", ErrSyntax},
		{"a..b@example.test", "", "", ErrSyntax},
		{"a b@example.test", "", "", ErrSyntax},
		{"a\x00b@example.test", "", "", ErrSyntax},
		{"\"a\tb\"@example.test", "", "", ErrSyntax},
		{"\"a\\\rb\"@example.test", "", "", ErrSyntax},
		{`""@example.test`, "", "", ErrSyntax},
		{`"a@example.test`, "", "", ErrSyntax},
		{";sleep 9;", "", "", ErrSyntax},
		{"a@-b.test", "", "", ErrSyntax},
		{"a@[::1]", "", "", ErrSyntax},
		{"a@[IPv6:1.2.3.4]", "", "", ErrSyntax},
		{"a@[127.0.0.1", "", "", ErrSyntax},
		{strings.Repeat("a", 65) + "@b.test", "", "", ErrLength},
		{"a@" + strings.Repeat("b.", 150) + "test", "", "", ErrLength},
		{"\xff@b.test", "", "", ErrNotUTF8},
		{"a\u202eb@b.test", "", "", ErrScript},
		{"a@pаypal.test", "", "", ErrScript}, // Cyrillic а
	} {
		got, err := ParseAddress(tc.in)
		if !errors.Is(err, tc.err) || got != (Address{tc.local, tc.domain}) {
			t.Errorf("%q: got %q, %v; want %q@%q, %v", tc.in, got, err, tc.local, tc.domain, tc.err)
		}
	}
}

// FuzzParseAddress checks that what was parsed is written so that it parses to
// the same again, and that nothing can end a command line or a parameter.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@b.test", `"a b"@c.test`, `"\"> X=1"@c.test`, "ü@ü.test", "a@[IPv6:::1]", `a@[1.2.3.4]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if out := a.String(); strings.ContainsAny(out, "\r\n\x00") {
			t.Fatalf("%q is written with a control character: %q", s, out)
		}
		b, err := ParseAddress(a.String())
		if errors.Is(err, ErrLength) {
			return // quoting can lengthen it
		}
		if err != nil || a != b {
			t.Fatalf("%q -> %q -> %q, %v", s, a, b, err)
		}
	})
}

func TestReplyFor(t *testing.T) {
	r := Refuse(550, "5.7.1", "no %s", "relaying")
	if got := ReplyFor(fmt.Errorf("wrapped: %w", r)); got != r {
		t.Errorf("got %v", got)
	}
	if got := ReplyFor(errors.New("open /secret: permission denied")); got.Code != 451 || strings.Contains(got.Text, "secret") {
		t.Errorf("got %v", got)
	}
}

func TestClaim(t *testing.T) {
	r := NewRecipient(Address{"a", "b.test"})
	if r.Claimed() || !r.Claim("x") || r.Claim("y") || r.Discard() || r.Agent != "x" {
		t.Errorf("first claim must hold: %+v", r)
	}
}

func TestTag(t *testing.T) {
	for in, want := range map[string][2]string{"a+b": {"a", "b"}, "a": {"a", ""}, "+a": {"+a", ""}, "a+": {"a", ""}, "a+b+c": {"a", "b+c"}} {
		if b, tag := (Address{in, "x.test"}).Tag("+"); b != want[0] || tag != want[1] {
			t.Errorf("%s: got %s, %s", in, b, tag)
		}
	}
}

func FuzzParseDomain(f *testing.F) {
	for _, s := range []string{"a.test", "ü.test", "xn--tda.test", "[127.0.0.1]", "[IPv6:::1]", "a..b", "-a.test", "A.TEST."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDomain(s)
		if err != nil {
			return
		}
		if len(d) > 255 || strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Fatalf("%q is %q", s, d)
		}
		if again, err := ParseDomain(d); err != nil || again != d {
			t.Fatalf("%q -> %q -> %q, %v", s, d, again, err)
		}
	})
}
