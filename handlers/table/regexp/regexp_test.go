package regexp

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestLookup(t *testing.T) {
	tb := &Table{Entries: []*Entry{
		{Pattern: `(.+)@old\.example`, Values: []string{"$1@new.example", "${1}-copy@new.example", "$$1"}},
		{Pattern: `a|b`, Values: []string{"either"}},
		{Pattern: `(?P<x>c)`, Values: []string{"${x}"}},
		{Pattern: `d`},
	}}
	if err := tb.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"Ann@OLD.example": "Ann@new.example Ann-copy@new.example $1", "a": "either", "b": "either", "ab": "none", "xa": "none",
		"c": "c", "d": "", "x@old.example.org": "none", "$1@old.example": "$1@new.example $1-copy@new.example $1", "a\n": "none",
	} {
		v, ok, err := tb.Lookup(context.Background(), key)
		got := strings.Join(v, " ")
		if !ok {
			got = "none"
		}
		if got != want || err != nil {
			t.Errorf("%q: %q, want %q %v", key, got, want, err)
		}
	}
	tb.CaseSensitive = true
	if err := tb.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := tb.Lookup(context.Background(), "A"); ok {
		t.Error("case")
	}
	for _, p := range []string{"(", "a)|(b", "*"} {
		if err := (&Table{Entries: []*Entry{{Pattern: p}}}).Provision(caddy.Context{}); err == nil {
			t.Error(p, "is taken")
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		`regexp "(.*)@a" "$1@b" c`:            `{"entries":[{"pattern":"(.*)@a","values":["$1@b","c"]}]}`,
		"regexp {\na b\nc\ncase_sensitive\n}": `{"entries":[{"pattern":"a","values":["b"]},{"pattern":"c"}],"case_sensitive":true}`,
		"regexp":                              "wrong argument count or unexpected line ending after 'regexp', at Testfile:1",
		"regexp a {\nb\n}":                    "unrecognized option 'b', at Testfile:2",
	} {
		tb := new(Table)
		err := tb.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(tb)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// TestSpellings: an expression may have U-labels, though keys have A-labels.
func TestSpellings(t *testing.T) {
	tb := &Table{Entries: []*Entry{{Pattern: `(.+)@xn--bcher-kva\.test`, Values: []string{"a $1"}}, {Pattern: `(.+)@(grün|bücher)\.test`, Values: []string{"u $1 $2"}}}}
	if err := tb.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"ü@xn--bcher-kva.test": "a ü", "ü@XN--GRN-IOA.test": "u ü grün", "x@grün.test": "u x grün", "x@gru\u0308n.test": "u x grün"} {
		if v, ok, err := tb.Lookup(t.Context(), key); !ok || err != nil || v[0] != want {
			t.Errorf("%q: %q, %v", key, v, err)
		}
	}
}
