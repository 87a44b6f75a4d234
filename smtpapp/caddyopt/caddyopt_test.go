package caddyopt

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() { caddy.RegisterModule(new(guest)) }

// guest is a module that takes one argument and the option "wrong".
type guest struct {
	Word  string `json:"word,omitempty"`
	Wrong bool   `json:"wrong,omitempty"`
}

func (*guest) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddyopt_test.guests.word", New: func() caddy.Module { return new(guest) }}
}

func (g *guest) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if !d.NextArg() {
			return d.ArgErr()
		}
		g.Word += d.Val()
		if err := Block(d, Table{"wrong": Flag(&g.Wrong)}); err != nil {
			return err
		}
	}
	return nil
}

func (g *guest) Say() string { return g.Word }

type sayer interface{ Say() string }

type all struct {
	String   string
	Strings  []string
	Duration caddy.Duration
	Size     int64
	Int      int
	Flag     bool
	On       bool
	Unset    *bool
	Mode     string
	Module   json.RawMessage   `caddy:"namespace=caddyopt_test.guests inline_key=g"`
	Modules  []json.RawMessage `caddy:"namespace=caddyopt_test.guests inline_key=g"`
	Map      caddy.ModuleMap   `caddy:"namespace=caddyopt_test.guests"`
	Sets     []caddy.ModuleMap `caddy:"namespace=caddyopt_test.guests"`
}

func (a *all) read(d *caddyfile.Dispenser) error {
	d.Next()
	return Block(d, Table{
		"string": String(&a.String), "strings": Strings(&a.Strings), "duration": Duration(&a.Duration),
		"size": Size(&a.Size), "int": Int(&a.Int, 1), "flag": Flag(&a.Flag), "on": OnOff(&a.On),
		"unset": OnOffUnset(&a.Unset), "mode": Mode(&a.Mode),
		"module":  Module("caddyopt_test.guests", "g", &a.Module),
		"modules": Modules("caddyopt_test.guests", "g", &a.Modules),
		"block": func(d *caddyfile.Dispenser) error {
			return GuestBlock(d, "caddyopt_test.guests", "g", &a.Modules)
		},
		"end": End,
	})
}

func TestBlock(t *testing.T) {
	var a all
	err := a.read(caddyfile.NewTestDispenser(`x {
		string one
		strings a b
		strings c
		duration 2m
		size 25MiB
		int 7
		flag
		on on
		unset off
		mode 0640
		module word hello {
			wrong
		}
		modules word one
		modules word two
		block {
			word three
		}
		end
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"String":"one","Strings":["a","b","c"],"Duration":120000000000,"Size":26214400,"Int":7,"Flag":true,"On":true,"Unset":false,` +
		`"Mode":"0640","Module":{"g":"word","word":"hello","wrong":true},` +
		`"Modules":[{"g":"word","word":"one"},{"g":"word","word":"two"},{"g":"word","word":"three"}],"Map":null,"Sets":null}`
	if got, _ := json.Marshal(a); string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if time.Duration(a.Duration) != 2*time.Minute {
		t.Error(a.Duration)
	}
}

func TestBlockErrors(t *testing.T) {
	for in, want := range map[string]string{
		"sting one":                    "unrecognized option 'sting', at Testfile:2",
		"string":                       "wrong argument count or unexpected line ending after 'string', at Testfile:2",
		"string a b":                   "wrong argument count",
		"string a\nstring b":           "option 'string' is given twice, at Testfile:3",
		"strings":                      "wrong argument count",
		"duration soon":                "option 'duration': time: invalid",
		"duration -1s":                 "negative",
		"size big":                     "'big' is not a size, at Testfile:2",
		"int 0":                        "'0' is not a number of 1 or more",
		"int x":                        "not a number",
		"flag x":                       "wrong argument count",
		"on maybe":                     "'maybe' is neither on nor off",
		"unset on\nunset on":           "given twice, at Testfile:3",
		"mode 999":                     "'999' is not a file mode",
		"mode 7777":                    "not a file mode",
		"module":                       "wrong argument count",
		"module other":                 "no module 'other' in caddyopt_test.guests; there are word, at Testfile:2",
		"module word a {\nnope\n}":     "unrecognized option 'nope', at Testfile:3",
		"module word a\nmodule word b": "option 'module' is given twice, at Testfile:3",
		"modules word":                 "wrong argument count",
		"end x":                        "wrong argument count",
		"end {\nx\n}":                  "unrecognized option 'x', at Testfile:3",
	} {
		err := new(all).read(caddyfile.NewTestDispenser("x {\n" + in + "\n}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
}

func TestBlockOther(t *testing.T) {
	var known bool
	var other []string
	d := caddyfile.NewTestDispenser("x {\nknown\na\nb\n}")
	d.Next()
	err := Block(d, Table{"known": Flag(&known), "": func(d *caddyfile.Dispenser) error { other = append(other, d.Val()); return nil }})
	if err != nil || !known || strings.Join(other, " ") != "a b" {
		t.Error(err, known, other)
	}
}

func TestParseMode(t *testing.T) {
	if m, err := ParseMode("", 0o700); m != 0o700 || err != nil {
		t.Error(m, err)
	}
	if m, err := ParseMode("0600", 0o700); m != 0o600 || err != nil {
		t.Error(m, err)
	}
}

func TestMatcherToken(t *testing.T) {
	for in, want := range map[string]string{
		"reject @a 550": "@a", "reject * 550": "*", "reject 550": "", "reject": "", "reject @": "",
	} {
		d := caddyfile.NewTestDispenser(in)
		d.Next()
		name, ok := MatcherToken(d)
		if name != want || ok != (want != "") {
			t.Errorf("%s: %q %v", in, name, ok)
		}
		if rest := d.RemainingArgs(); strings.Contains(in, "550") && (len(rest) != 1 || rest[0] != "550") {
			t.Errorf("%s: left %q", in, rest)
		}
	}
}

func TestMatcherSet(t *testing.T) {
	for in, want := range map[string]string{
		"@m word a":                  `{"word":{"word":"a"}}`,
		"@m {\nword a\nword b\n}":    `{"word":{"word":"ab"}}`,
		"@m nothing":                 "no module 'nothing' in caddyopt_test.guests; there are word, at Testfile:1",
		"@m {\nword a\nnothing x\n}": "no module 'nothing' in caddyopt_test.guests; there are word, at Testfile:3",
		"@m `a == b`":                "no module 'expression'",
		"@m {\nword\n}":              "wrong argument count or unexpected line ending after 'word', at Testfile:2",
	} {
		d := caddyfile.NewTestDispenser(in)
		d.Next()
		set, err := MatcherSet(d, "caddyopt_test.guests")
		got, _ := json.Marshal(set)
		if err != nil {
			got = []byte(err.Error())
		}
		if !strings.Contains(string(got), want) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestObject(t *testing.T) {
	if _, err := Object([]int{1}, "g", "x"); err == nil {
		t.Error("a list is no object")
	}
	if _, err := Object(func() {}, "g", "x"); err == nil {
		t.Error("a function has no JSON")
	}
	if b, err := Object(struct{ N int64 }{1<<60 + 1}, "g", "x"); err != nil || string(b) != `{"N":1152921504606846977,"g":"x"}` {
		t.Error(string(b), err)
	}
}

func TestLoad(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	one := func() json.RawMessage { return json.RawMessage(`{"g":"word","word":"hi"}`) }
	a := &all{Module: one(), Modules: []json.RawMessage{one(), one()},
		Map: caddy.ModuleMap{"word": json.RawMessage(`{"word":"hi"}`)}, Sets: []caddy.ModuleMap{{"word": json.RawMessage(`{"word":"hi"}`)}, {}}}
	m, err := LoadModule[sayer](ctx, a, "Module")
	ms, err2 := LoadModules[sayer](ctx, a, "Modules")
	mm, err3 := LoadMap[sayer](ctx, a, "Map")
	sets, err4 := LoadSets[sayer](ctx, a, "Sets")
	if err := errors.Join(err, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	if m.Say() != "hi" || len(ms) != 2 || mm["word"].Say() != "hi" || len(sets) != 2 || sets[0][0].Say() != "hi" {
		t.Error(m, ms, mm, sets)
	}
	if m, err := LoadModule[sayer](ctx, a, "Module"); m != nil || err != nil {
		t.Error("nothing to load:", m, err)
	}
}

func TestLoadErrors(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	raw := json.RawMessage(`{"g":"word"}`)
	a := &all{Module: raw, Modules: []json.RawMessage{raw}, Map: caddy.ModuleMap{"word": nil}, Sets: []caddy.ModuleMap{{"word": nil}}}
	_, err := LoadModule[error](ctx, a, "Module")
	_, err2 := LoadModules[error](ctx, a, "Modules")
	_, err3 := LoadMap[error](ctx, a, "Map")
	_, err4 := LoadSets[error](ctx, a, "Sets")
	_, err5 := LoadModule[sayer](ctx, a, "Nowhere")
	_, err6 := LoadModules[sayer](ctx, a, "Module")
	_, err7 := LoadModule[sayer](ctx, *a, "Module")
	_, err8 := LoadModule[sayer](ctx, &all{Module: json.RawMessage(`{"g":"other"}`)}, "Module")
	for i, err := range []error{err, err2, err3, err4, err5, err6, err7, err8} {
		if err == nil {
			t.Errorf("%d: no error", i+1)
		}
	}
}
