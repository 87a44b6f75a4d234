package plainlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"
)

func written(f func(log *slog.Logger)) string {
	var b bytes.Buffer
	f(New(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	return b.String()
}

// TestPlain: wherever a stranger's words stand, they are escaped, and what is
// harmless is left as it is.
func TestPlain(t *testing.T) {
	const evil = "a\u009b31m\u2028b\u202ec\x7f\xff\u0085ü\n"
	for name, f := range map[string]func(log *slog.Logger){
		"message": func(log *slog.Logger) { log.Info(evil) },
		"string":  func(log *slog.Logger) { log.Info("x", "k", evil) },
		"key":     func(log *slog.Logger) { log.Info("x", evil, 1) },
		"error":   func(log *slog.Logger) { log.Info("x", "k", errors.New(evil)) },
		"list":    func(log *slog.Logger) { log.Info("x", "k", []string{"a", evil}) },
		"group":   func(log *slog.Logger) { log.Info("x", slog.Group("g", "k", evil)) },
		"struct":  func(log *slog.Logger) { log.Info("x", "k", struct{ A string }{evil}) },
		"with":    func(log *slog.Logger) { log.With("k", evil).WithGroup("g").Info("x") },
		"valuer":  func(log *slog.Logger) { log.Info("x", "k", valuer(evil)) },
	} {
		got := written(f)
		if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") || strings.ContainsFunc(got[:len(got)-1], harmful) || !utf8.ValidString(got) {
			t.Errorf("%s: %q", name, got)
		}
		if !strings.Contains(got, `\\u009b31m`) || !strings.Contains(got, `\\u2028`) || !strings.Contains(got, `\\xff`) || !strings.Contains(got, "ü") {
			t.Errorf("%s lacks escapes: %s", name, got)
		}
	}
	got := written(func(log *slog.Logger) {
		log.Debug("all is well", "n", 7, "s", "täglich\n", "e", errors.New("no"), "nil", nil)
	})
	var line map[string]any
	if err := json.Unmarshal([]byte(got), &line); err != nil || line["n"] != 7.0 || line["s"] != "täglich\n" || line["e"] != "no" || line["nil"] != nil {
		t.Errorf("%v: %s", err, got)
	}
}

type valuer string

func (v valuer) LogValue() slog.Value { return slog.StringValue(string(v)) }

func FuzzText(f *testing.F) {
	f.Add("a\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := text(s, harmful)
		if strings.ContainsFunc(got, harmful) || !utf8.ValidString(got) || text(got, harmful) != got {
			t.Fatalf("%q becomes %q", s, got)
		}
	})
}
