//go:build linux

package interop

import (
	"encoding/base64"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	mime "github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/originator"
)

// pieces are what From fields are put together of.
var pieces = []string{
	"a@x.test", "victim@bank.test", "<a@x.test>", "<victim@bank.test>", "Alice ", "Alice", `"Alice, A." `, `"victim@bank.test" `, `"`, `\"`, `\`, ",", ", ", ";", ":", "g: ",
	"(c)", "(victim@bank.test)", "(", ")", "<", ">", "@", ".", " ", "\r\n ", "\t", "=?utf-8?q?victim=40bank.test?=", "=?utf-8?b?dmljdGltQGJhbmsudGVzdA==?= ", "<@r.test:a@x.test>",
	`"a b"@x.test`, `"a@b"@x.test`, "a@[192.0.2.1]", "[x]", "\x00", "\x07", "\u00fc", "\xff", "a @x.test", "a.@x.test", "\r\nFrom: ", "\r\nFrom : ", "\r\nSender: ", "\u202e", "'", "`", "|", "%",
}

// headers are header blocks that may have an author: from well formed to hardly
// a header, but the same each time.
func headers(n int) []string {
	r := rand.New(rand.NewPCG(5322, 6854))
	var hs []string
	for range n {
		h := "From: "
		if r.IntN(2) == 0 { // well formed, with one fault
			ok := [][]string{{"a@x.test"}, {"Alice ", "<a@x.test>"}, {`"Alice, A." `, "<a@x.test>"}, {"a@x.test", " ", "(c)"}}
			parts := slices.Clone(ok[r.IntN(len(ok))])
			h += strings.Join(slices.Insert(parts, r.IntN(len(parts)+1), pieces[r.IntN(len(pieces))]), "")
		} else {
			for range 1 + r.IntN(5) {
				h += pieces[r.IntN(len(pieces))]
			}
		}
		hs = append(hs, h+"\r\nSubject: s\r\n\r\n")
	}
	return hs
}

// TestReadersAgree: where we say that a message has one author, other programs
// see the same, or nobody. That is what a check of the author is worth. Of other
// messages they see different ones.
func TestReadersAgree(t *testing.T) {
	var raw []string
	var read []*originator.Originator
	clear := 0
	for _, h := range headers(15_000) {
		parsed, _, err := mime.ParseHeader([]byte(h))
		if err != nil {
			continue
		}
		o := originator.Read(parsed)
		raw, read = append(raw, base64.StdEncoding.EncodeToString([]byte(h))), append(read, o)
		if _, ok := o.Author(); ok {
			clear++
		}
	}
	if clear < len(raw)/20 || clear > len(raw)/2 {
		t.Fatalf("%d of %d headers have an author", clear, len(raw))
	}
	for name, reader := range map[string]func(t *testing.T) *exec.Cmd{
		"Python": func(t *testing.T) *exec.Cmd {
			need(t, "python3")
			return exec.Command("python3", "testdata/originators.py")
		},
		"Perl": func(t *testing.T) *exec.Cmd {
			needModule(t, "Mail::Address")
			return exec.Command("perl", "testdata/originators.pl")
		},
		"nodemailer": func(t *testing.T) *exec.Cmd {
			modules := nodeModules(t, "nodemailer")
			cmd := exec.Command("node", "testdata/originators.js")
			cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
			return cmd
		},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := reader(t)
			cmd.Stdin = strings.NewReader(strings.Join(raw, "\n") + "\n")
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
			if len(lines) != len(raw) {
				t.Fatalf("%d answers to %d headers", len(lines), len(raw))
			}
			silent, differ := 0, 0
			for i, line := range lines {
				author, ok := read[i].Author()
				for theirs := range strings.SplitSeq(line, "\t") {
					switch {
					case ok && (theirs == "" || theirs == "error"):
						silent++
					case ok && !sameAddress(theirs, author):
						h, _ := base64.StdEncoding.DecodeString(raw[i])
						t.Errorf("%q: %q, we %s", h, theirs, author)
					case !ok && len(read[i].From) == 1 && theirs != "" && theirs != "error" && !sameAddress(theirs, read[i].From[0].Address):
						differ++
					}
				}
			}
			t.Logf("agrees on %d headers, sees nobody in %d; sees others in %d of the rest", clear, silent, differ)
			if silent > clear/4 || differ < 100 {
				t.Error("which shows nothing")
			}
		})
	}
}

// sameAddress compares an address as somebody else writes it.
func sameAddress(theirs string, ours mail.Address) bool {
	a, err := mail.ParseAddress(theirs)
	return err == nil && a == ours
}
