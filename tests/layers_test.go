package tests

import (
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/caddymail/caddy-smtp/"

// aboveTheLine is what may know of Caddy; see docs/design.md.
var aboveTheLine = []string{"caddyfile", "cmd/caddy", "smtpapp", "smtpapp/caddyopt", "smtpapp/placeholder", "tests"}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var ps []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); err == io.EOF {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

// TestLayers: arrows point down, and none goes sideways among handlers.
func TestLayers(t *testing.T) {
	seen := 0
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		handler := strings.HasPrefix(name, "handlers/")
		if strings.HasPrefix(name, "smtpapp/") && !slices.Contains(aboveTheLine, name) {
			seen++
			for _, d := range p.Deps {
				if strings.HasPrefix(d, "github.com/caddyserver/caddy/") {
					t.Errorf("%s depends on %s", name, d)
					break
				}
			}
		}
		for _, i := range p.Imports {
			i, ours := strings.CutPrefix(i, module)
			switch {
			case !ours:
			case handler && i == "smtpapp":
				t.Errorf("%s imports smtpapp", name)
			case handler && strings.HasPrefix(i, "handlers/"):
				t.Errorf("%s imports %s", name, i)
			case strings.HasPrefix(name, "smtpapp") && (i == "caddyfile" || strings.HasPrefix(i, "handlers/")):
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
	if seen < 9 {
		t.Errorf("only %d packages below the line were seen", seen)
	}
}

// TestLoggersArePlain: every logger that may come to write what strangers say is
// one that package plainlog has made safe for it.
func TestLoggersArePlain(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := strings.Count(string(b), "Slogger()"); n != len(plainLogger.FindAll(b, -1)) {
			t.Errorf("%s: plainlog.New(ctx.Slogger()) is wanted", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var plainLogger = regexp.MustCompile(`plainlog\.New\((a\.)?ctx\.Slogger\(\)\)`)
