package file

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func provisioned(t *testing.T, tb *Table, text string) error {
	t.Helper()
	tb.Path = filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(tb.Path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	return tb.Provision(ctx)
}

func lookup(t *testing.T, tb *Table, key string) string {
	t.Helper()
	v, ok, err := tb.Lookup(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		return "none"
	}
	return strings.Join(v, "|")
}

const text = `# comment
root: alice@example.org, Bob
postmaster	root
Alice@Example.org:carol,
	dave  ,
	# about erin
	erin
list
"a b"@example.org: x
"with:colon": y
plain "z, w", v
pipe: "|/bin/\"x\""
spaced key with words
`

func TestLookup(t *testing.T) {
	tb := new(Table)
	if err := provisioned(t, tb, text); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"root": "alice@example.org|Bob", "ROOT": "alice@example.org|Bob", "postmaster": "root",
		"alice@example.org": "carol|dave|erin", "list": "", `"a b"@example.org`: "x", "with:colon": "y",
		"plain": "z, w|v", "pipe": `|/bin/"x"`, "spaced": "key with words", "#": "none", "": "none",
	} {
		if got := lookup(t, tb, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	tb = new(Table)
	if err := provisioned(t, tb, "ü@bücher.test: x\n@bücher.test y"); err != nil {
		t.Fatal(err)
	}
	if lookup(t, tb, "u\u0308@xn--bcher-kva.test") != "x" || lookup(t, tb, "@xn--bcher-kva.test") != "y" {
		t.Error("U-labels")
	}
	tb = &Table{CaseSensitive: true}
	if err := provisioned(t, tb, "A: x\na: y"); err != nil {
		t.Fatal(err)
	}
	if lookup(t, tb, "A") != "x" || lookup(t, tb, "a") != "y" {
		t.Error("case")
	}
}

func TestProvisionErrors(t *testing.T) {
	for in, want := range map[string]string{
		" a: b":        "line 1: continues nothing",
		"a: b\nA: c":   "line 2: key 'a' is there twice",
		": b":          "line 1: no key",
		`"a`:           "line 1: quote not closed",
		`a: "b" c, "d`: "line 1: quote not closed",
		"\xff":         "not UTF-8",
	} {
		if err := provisioned(t, new(Table), in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", in, err, want)
		}
	}
	if err := provisioned(t, &Table{MaxSize: 3}, "abcd"); err == nil || !strings.Contains(err.Error(), "over 3 octets") {
		t.Error(err)
	}
	for _, path := range []string{"", "/nonexistent/table", "{env.NOT_SET_ANYWHERE}"} {
		if err := (&Table{Path: path}).Provision(caddy.Context{}); err == nil {
			t.Error(path, "is taken")
		}
	}
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := new(Table)
		if err := provisioned(t, tb, "a: 1"); err != nil {
			t.Fatal(err)
		}
		for _, s := range []struct{ text, want string }{{"a: 2", "2"}, {" broken", "2"}, {"a: 3", "3"}} {
			if err := os.WriteFile(tb.Path, []byte(s.text), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if got := lookup(t, tb, "a"); got != s.want {
				t.Errorf("%s: %s", s.text, got)
			}
		}
	})
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"file /a": `{"path":"/a"}`,
		"file /a {\ncase_sensitive\nmax_size 1MiB\n}": `{"path":"/a","case_sensitive":true,"max_size":1048576}`,
		"file":            "wrong argument count or unexpected line ending after 'file', at Testfile:1",
		"file a b":        "wrong argument count",
		"file a {\nno\n}": "unrecognized option 'no', at Testfile:2",
	} {
		tb := new(Table)
		err := tb.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(tb)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if !strings.HasPrefix(string(got), want) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(text))
	f.Add([]byte("\"\r\""))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := new(Table).parse(b)
		if err != nil {
			return
		}
		for k, vs := range m {
			if strings.ContainsAny(k, "\r\n") {
				t.Errorf("%q", k)
			}
			for _, v := range vs {
				if strings.ContainsAny(v, "\r\n") {
					t.Errorf("%q", v)
				}
			}
		}
	})
}
