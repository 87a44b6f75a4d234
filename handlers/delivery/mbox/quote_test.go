package mbox

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

// quoted is what becomes of a message that is written in pieces.
func quoted(t testing.TB, how, in string, size int) string {
	t.Helper()
	var b bytes.Buffer
	q := newQuoter(&b, how)
	for rest := in; rest != ""; {
		n := min(size, len(rest))
		if k, err := q.Write([]byte(rest[:n])); k != n || err != nil {
			t.Fatal(k, err)
		}
		rest = rest[n:]
	}
	if err := q.finish(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestQuote(t *testing.T) {
	for in, want := range map[string][2]string{ // rd, o
		"a\n":                       {"a\n\n", "a\n\n"},
		"a":                         {"a\n\n", "a\n\n"},
		"a\n\n":                     {"a\n\n\n", "a\n\n\n"},
		"":                          {"\n", "\n"},
		"From x\n":                  {">From x\n\n", ">From x\n\n"},
		"From \n":                   {">From \n\n", ">From \n\n"},
		"From\n":                    {"From\n\n", "From\n\n"},
		"From:\n":                   {"From:\n\n", "From:\n\n"},
		">From x\n>>From y\n":       {">>From x\n>>>From y\n\n", ">From x\n>>From y\n\n"},
		">>\n>Fr\nFr\n> From\n":     {">>\n>Fr\nFr\n> From\n\n", ">>\n>Fr\nFr\n> From\n\n"},
		"a From b\nFFrom c\nF>From": {"a From b\nFFrom c\nF>From\n\n", "a From b\nFFrom c\nF>From\n\n"},
		"x\nFrom ":                  {"x\n>From \n\n", "x\n>From \n\n"},
		"x\n>>Fro":                  {"x\n>>Fro\n\n", "x\n>>Fro\n\n"},
		"Fro\rm \nFrom\t\n":         {"Fro\rm \nFrom\t\n\n", "Fro\rm \nFrom\t\n\n"},
	} {
		for size := 1; size <= len(in)+1; size++ {
			if got := quoted(t, quoteRD, in, size); got != want[0] {
				t.Errorf("rd, %q in pieces of %d: %q, want %q", in, size, got, want[0])
			}
			if got := quoted(t, quoteO, in, size); got != want[1] {
				t.Errorf("o, %q in pieces of %d: %q, want %q", in, size, got, want[1])
			}
		}
	}
}

var unquote = regexp.MustCompile(`(?m)^>(>*From )`)

// FuzzQuote: no line begins a message, and mboxrd can be undone.
func FuzzQuote(f *testing.F) {
	f.Add("From a\n>From b\n", 3)
	f.Add("\n\nFrom", 1)
	f.Fuzz(func(t *testing.T, in string, size int) {
		size = max(1, min(size, 100))
		for _, how := range []string{quoteRD, quoteO} {
			got := quoted(t, how, in, size)
			if strings.HasPrefix(got, from) || strings.Contains(got, "\n"+from) {
				t.Errorf("%s, %q: %q", how, in, got)
			}
			want := in
			if want != "" && !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			if back := unquote.ReplaceAllString(got, "$1"); how == quoteRD && back != want+"\n" {
				t.Errorf("%q comes back as %q", in, back)
			}
		}
	})
}
