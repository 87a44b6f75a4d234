package session_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/caddymail/caddy-smtp/smtpapp/guard"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// watch is a session.Guard on a guard.Guard, as the app has one.
type watch struct {
	g      *guard.Guard
	policy guard.Policy
}

var errBanned = &mail.Reply{Code: 421, Enh: "4.7.0", Text: "too many failed logins", Close: true}

func (w *watch) Admit(s *session.Session) *mail.Reply {
	if w.g.Banned(&w.policy, s.RemoteIP()) {
		return errBanned
	}
	return nil
}

func (w *watch) Attempt(ctx context.Context, s *session.Session, user string) (func(session.Outcome) time.Duration, error) {
	a, no := w.g.Begin(ctx, &w.policy, s.RemoteIP(), user)
	switch {
	case no == nil:
	case no.Scope < guard.User:
		return nil, errBanned
	default:
		return nil, mail.Refuse(454, "4.7.0", "too many failed logins")
	}
	return func(o session.Outcome) time.Duration {
		v := [...]guard.Verdict{session.Void: guard.Void, session.Wrong: guard.Wrong, session.Right: guard.Right}[o.Verdict]
		d, _ := a.End(v, o.User)
		return d
	}, nil
}

// audit looks at all that the server says in scripts, to clients and to the log,
// for what must not be there: secrets, the host's own paths and error texts,
// and what would end a line or command a terminal.
type audit struct{ secrets []string }

// ownPaths are in every path that a test and its server may come across.
var ownPaths = func() []string {
	wd, _ := os.Getwd()
	return []string{filepath.Clean(os.TempDir()) + "/", wd, filepath.Join(runtime.GOROOT(), "src"), "/proc/", ".go:"}
}()

// errnos are the texts of the system's errors.
var errnos = func() (texts []string) {
	for n := syscall.Errno(1); n < 134; n++ {
		if s := n.Error(); !strings.HasPrefix(s, "errno ") && s != "success" {
			texts = append(texts, s)
		}
	}
	return texts
}()

// said notes what a client says that is to stay between the two.
func (a *audit) said(line, last string) {
	secret := ""
	switch f := strings.Fields(line); {
	case strings.HasPrefix(last, "334"):
		secret = line
	case len(f) == 3 && strings.EqualFold(f[0], "AUTH"):
		secret = f[2]
	}
	if len(secret) < 8 || len(a.secrets) > 100 {
		return
	}
	a.secrets = append(a.secrets, secret)
	b, err := base64.StdEncoding.DecodeString(secret)
	if parts := strings.Split(string(b), "\x00"); err == nil && len(parts) == 3 && len(parts[2]) >= 8 {
		a.secrets = append(a.secrets, parts[2])
	}
}

func (a *audit) reply(t *testing.T, text string) {
	t.Helper()
	for l := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n"), "\r\n") {
		a.text(t, "reply", l)
		if strings.ContainsFunc(l, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
			t.Errorf("reply %q", l)
		}
	}
}

// log looks at lines of JSON. What the encoder escapes does no harm, other
// controls may.
func (a *audit) log(t *testing.T, text string) {
	t.Helper()
	for l := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if l == "" {
			continue
		}
		var line map[string]any
		if err := json.Unmarshal([]byte(l), &line); err != nil {
			t.Errorf("log: %v: %q", err, l)
			continue
		}
		delete(line, "stack") // of a panic: it is ours
		for k, v := range line {
			s := fmt.Sprint(v)
			a.text(t, "log", s)
			if strings.ContainsFunc(s, harmful) || k == "msg" && strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("log: %s is %q", k, s)
			}
		}
	}
}

// harmful reports whether r, which no encoder of the log escapes, ends a line,
// commands a terminal, or reverses what follows it.
func harmful(r rune) bool {
	return r >= 0x7f && (unicode.IsControl(r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) || unicode.Is(unicode.Bidi_Control, r))
}

func (a *audit) text(t *testing.T, where, s string) {
	t.Helper()
	for _, path := range ownPaths {
		if strings.Contains(s, path) {
			t.Errorf("%s has a path: %q", where, s)
		}
	}
	for _, e := range errnos {
		if strings.Contains(s, e) {
			t.Errorf("%s has an error of the system: %q", where, s)
		}
	}
	for _, secret := range a.secrets {
		if strings.Contains(s, secret) {
			t.Errorf("%s has a secret: %q", where, s)
		}
	}
}
