package inline

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestLookup(t *testing.T) {
	tb := &Table{Entries: map[string][]string{"Alice": {"a", "b"}, "bob": nil}}
	if err := tb.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"alice": "a b", "ALICE": "a b", "Bob": "", "carol": "none"} {
		v, ok, err := tb.Lookup(context.Background(), key)
		got := strings.Join(v, " ")
		if !ok {
			got = "none"
		}
		if got != want || err != nil {
			t.Errorf("%s: %q %v", key, got, err)
		}
	}
	tb = &Table{CaseSensitive: true, Entries: map[string][]string{"A": nil, "a": nil}}
	if err := tb.Provision(caddy.Context{}); err != nil {
		t.Error(err)
	}
	if _, ok, _ := tb.Lookup(context.Background(), "A"); !ok {
		t.Error("no A")
	}
	if err := (&Table{Entries: tb.Entries}).Provision(caddy.Context{}); err == nil {
		t.Error("A and a are one key")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"inline {\na b c\nd\n}":           `{"entries":{"a":["b","c"],"d":[]}}`,
		"inline case_sensitive {\na b\n}": `{"entries":{"a":["b"]},"case_sensitive":true}`,
		"inline other {\na b\n}":          "wrong argument count or unexpected line ending after 'other', at Testfile:1",
		"inline":                          "the table has no entries, at Testfile:1",
		"inline {\na b\na c\n}":           "key 'a' is given twice, at Testfile:3",
	} {
		tb := new(Table)
		if err := tb.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		b, _ := json.Marshal(tb)
		if string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
		var again Table
		if err := caddy.StrictUnmarshalJSON(b, &again); err != nil {
			t.Error(err)
		}
	}
}

// TestSpellings: U-labels and A-labels are equal, and so are characters of one
// and of two code points.
func TestSpellings(t *testing.T) {
	tb := &Table{Entries: map[string][]string{"ü@bücher.test": {"1"}, "@bu\u0308cher.test": {"2"}, "XN--BCHER-KVA.test": {"3"}}}
	if err := tb.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"u\u0308@xn--bcher-kva.test": "1", "@xn--bcher-kva.test": "2", "bücher.test": "3"} {
		if v, ok, err := tb.Lookup(t.Context(), key); !ok || err != nil || v[0] != want {
			t.Errorf("%q: %q, %v", key, v, err)
		}
	}
	twice := &Table{Entries: map[string][]string{"a@bücher.test": nil, "a@xn--bcher-kva.test": nil}}
	if err := twice.Provision(caddy.Context{}); err == nil {
		t.Error("the same key twice")
	}
}
