package pattern

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		p, s string
		want bool
	}{
		{"a", "A", true}, {"a", "ab", false}, {"a", "", false}, {"", "", true},
		{"*", "", true}, {"*", "x", true}, {"a*", "ab", true}, {"a*", "ba", false},
		{"*a", "ba", true}, {"*a*", "bab", true}, {"a*b*c", "a1b2c", true},
		{"a*b*c", "acb", false}, {"a*a", "a", false}, {"**", "x", true}, {"*.x", ".x", true},
		{"a*b*b", "ab", false},
	} {
		if got := Glob(c.p, c.s); got != c.want {
			t.Errorf("%q %q: %v", c.p, c.s, got)
		}
	}
}

func TestDomains(t *testing.T) {
	ds := []string{"Example.org", "*.bücher.example", "xn--mller-kva.example"}
	if err := Domains(ds); err != nil {
		t.Fatal(err)
	}
	for d, want := range map[string]bool{
		"example.org": true, "a.example.org": false, "müller.example": true,
		"bücher.example": false, "a.b.bücher.example": true, "org": false,
	} {
		n, err := mail.ParseDomain(d)
		if err != nil {
			t.Fatal(err)
		}
		if got := HasDomain(ds, n); got != want {
			t.Errorf("%s: %v", d, got)
		}
	}
	if HasDomain(ds, "") || HasDomain([]string{"*"}, "") || !HasDomain([]string{"*"}, "x.example") {
		t.Error("every domain is a domain, and none is not")
	}
	for _, bad := range []string{"", "a b", "*.", "a.*", "a@b"} {
		if Domains([]string{bad}) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		p, a string
		want bool
	}{
		{"a@example.org", "A@EXAMPLE.org", true}, {"a@example.org", "b@example.org", false},
		{"*@example.org", "x@example.org", true}, {"*@example.org", "x@sub.example.org", false},
		{"*@*.example.org", "x@sub.example.org", true}, {"a@*", "a@b.example", true},
		{"news-*@example.org", "news-7@example.org", true}, {"news-*@example.org", "news@example.org", false},
		{"postmaster", "Postmaster@x.example", true}, {"postmaster", "<postmaster>", true},
		{"<>", "<>", true}, {"<>", "a@b.example", false}, {"*@example.org", "<>", false}, {"*", "<>", false},
		{"*", "a@b.example", true}, {`"a b"@example.org`, `"a b"@example.org`, true},
		{`"a@c"@example.org`, `"a@c"@example.org`, true}, {"a@bücher.example", "a@xn--bcher-kva.example", true},
		{"*@example.org", `"x@y"@example.org`, true}, {"*@y", `"x@y"@example.org`, false},
	} {
		ps := []string{c.p}
		if err := Addresses(ps); err != nil {
			t.Fatal(err)
		}
		if got := HasAddress(ps, parse(t, c.a)); got != c.want {
			t.Errorf("%q %q: %v", c.p, c.a, got)
		}
		again := slices.Clone(ps)
		if strings.Contains(c.p, `"`) {
			continue
		}
		if err := Addresses(again); err != nil || !slices.Equal(ps, again) {
			t.Errorf("%q, prepared twice: %q %v", ps, again, err)
		}
	}
	for _, bad := range []string{"", "@example.org", "a@", "a b@example.org", "a@b c", "a@b*c.example", "<a@b.example>"} {
		if Addresses([]string{bad}) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func parse(t *testing.T, s string) mail.Address {
	switch s {
	case "<>":
		return mail.Address{}
	case "<postmaster>":
		return mail.Address{Local: "postmaster"}
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func FuzzGlob(f *testing.F) {
	f.Add("a*b", "axb")
	f.Fuzz(func(t *testing.T, p, s string) {
		lower, of := strings.ToLower(p), strings.ToLower(s)
		if !strings.Contains(p, "*") && Glob(p, s) != (lower == of) {
			t.Errorf("%q %q", p, s)
		}
		if !Glob("*"+s, s) || !Glob(s+"*", s) {
			t.Errorf("%q", s)
		}
	})
}
