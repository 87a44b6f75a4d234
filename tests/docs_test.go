package tests

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// validate provisions a configuration without running it.
func validate(t *testing.T, cfg []byte) error {
	t.Helper()
	var c caddy.Config
	if err := caddy.StrictUnmarshalJSON(caddy.RemoveMetaFields(cfg), &c); err != nil {
		return err
	}
	return caddy.Validate(&c)
}

// inExamples runs the test where relative paths of the examples mean something.
func inExamples(t *testing.T) {
	t.Helper()
	t.Chdir("..")
}

// TestExamples: each Caddyfile is formatted, loads, and is the same as the JSON
// beside it.
func TestExamples(t *testing.T) {
	inExamples(t)
	files, err := filepath.Glob("examples/*.caddyfile")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(caddyfile.Format(text), text) {
				t.Error("not formatted; run caddy fmt")
			}
			cfg, err := adapt(t, string(text))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(t, cfg); err != nil {
				t.Error(err)
			}
			beside := strings.TrimSuffix(file, ".caddyfile") + ".json"
			if os.Getenv("UPDATE") != "" {
				var b bytes.Buffer
				if err := json.Indent(&b, cfg, "", "\t"); err != nil {
					t.Fatal(err)
				}
				b.WriteByte('\n')
				if err := os.WriteFile(beside, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(beside)
			if err != nil {
				t.Fatal(err)
			}
			if !sameJSON(t, cfg, want) {
				t.Errorf("%s is not what it adapts to; run UPDATE=1 go test ./tests -run TestExamples", beside)
			}
		})
	}
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	xs, _ := json.Marshal(x)
	ys, _ := json.Marshal(y)
	return bytes.Equal(xs, ys)
}

var fence = regexp.MustCompile("(?s)```(\\w+)\n(.*?)```")

// TestDocs loads every Caddyfile that the documentation shows.
func TestDocs(t *testing.T) {
	inExamples(t)
	files, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range append(files, "README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fence.FindAllSubmatch(text, -1) {
			if string(m[1]) != "caddyfile" {
				continue
			}
			n++
			cfg, err := adapt(t, string(m[2]))
			if err == nil {
				err = validate(t, cfg)
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", file, err, m[2])
			}
		}
	}
	if n == 0 {
		t.Error("no Caddyfile was found")
	}
}

// TestContributing compiles and runs the handler that CONTRIBUTING shows.
func TestContributing(t *testing.T) {
	text, err := os.ReadFile("../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	var code [][]byte
	for _, m := range fence.FindAllSubmatch(text, -1) {
		if string(m[1]) == "go" {
			code = append(code, m[2])
		}
	}
	if len(code) != 2 {
		t.Fatalf("%d pieces of Go, want a handler and its test", len(code))
	}
	dir, err := os.MkdirTemp(".", "contributing") // of this module, to see its packages
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for i, name := range []string{"nomx.go", "nomx_test.go"} {
		if err := os.WriteFile(filepath.Join(dir, name), code[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "test", "./"+dir).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
