package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(new(fake)) }

// fake is a table of one key, which fails for the key "fail".
type fake struct {
	Key string `json:"key,omitempty"`
}

func (*fake) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.fake", New: func() caddy.Module { return new(fake) }}
}

func (f *fake) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if f.Key == "fail" {
		return nil, false, errors.New("down")
	}
	return []string{f.Key}, key == f.Key, nil
}

func (f *fake) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&f.Key) {
		return d.ArgErr()
	}
	return nil
}

func TestLookup(t *testing.T) {
	tb := new(Table)
	err := tb.UnmarshalCaddyfile(caddyfile.NewTestDispenser("chain {\nfake a\nfake b\nfake fail\nfake c\n}"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := tb.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"a": "[a] true <nil>", "b": "[b] true <nil>", "c": "[] false down"} {
		v, ok, err := tb.Lookup(context.Background(), key)
		if got := fmt.Sprint(v, ok, err); got != want {
			t.Errorf("%s: %s", key, got)
		}
	}
	if (&Table{}).Provision(ctx) == nil {
		t.Error("a chain of nothing is taken")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"chain {\nfake a\n}": `{"tables":[{"key":"a","table":"fake"}]}`,
		"chain x":            "wrong argument count or unexpected line ending after 'x', at Testfile:1",
		"chain":              "a chain of no tables, at Testfile:1",
		"chain {\nfake\n}":   "wrong argument count or unexpected line ending after 'fake', at Testfile:2",
		"chain {\nnone\n}":   "no module 'none' in smtp.tables; there are chain, fake, at Testfile:2",
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
