package tests

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/crypto/bcrypt"
)

// TestSenderRules submits as oneself and as others, up to a quota that outlives
// a reload and a restart.
func TestSenderRules(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	config := func(more string) string {
		return fmt.Sprintf(`server submission ADDR(submission) {
			tls internal
			plaintext_auth
			auth inline {
				alice@example.test %s
			}
			sender_login {
				subaddress +
			}
			quota %s {
				messages 2/1d
			}
			strict_header
			%s
			discard
		}`, hash, "sender-rules", more)
	}
	login := func() *talker {
		k := greet(t, h.addr("submission"))
		k.say("235", "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00alice@example.test\x00secret")))
		return k
	}
	submit := func(k *talker, code, header string) string {
		k.say("250", "MAIL FROM:<alice@example.test>")
		k.say("250", "RCPT TO:<bob@example.test>")
		k.say("354", "DATA")
		return k.say(code, "%s\r\n\r\nhello\r\n.", header)
	}
	h.load(config(""))
	k := login()
	k.say("553", "MAIL FROM:<bob@example.test>")
	contains(t, submit(k, "550", "From: bob@example.test"), "5.7.1", "<bob@example.test> is not your address")
	contains(t, submit(k, "550", "From: alice@example.test\r\nFrom: bob@example.test"), "5.7.1", "more than one From field")
	contains(t, submit(k, "550", "From: alice@example.test\r\nSubject: a\r\nSubject: b"), "5.6.0", "more than one Subject field")
	submit(k, "250", "From: Alice <Alice@Example.Test>") // what was refused did not count
	submit(k, "250", "From: alice+lists@example.test")
	const full = "quota of 2 messages in 1d reached; try again in 2"
	contains(t, k.say("452", "MAIL FROM:<alice@example.test>"), "4.7.0", full)

	h.load(config("@none helo none\nreject @none"))
	contains(t, login().say("452", "MAIL FROM:<alice@example.test>"), full)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	h.load(config(""))
	contains(t, login().say("452", "MAIL FROM:<alice@example.test>"), full)
}

// TestImpersonation is promise P28 over the wire: of all the ways of sending as
// somebody else none passes, and no message is left in the queue. (The handler's
// own test says by which reply.)
func TestImpersonation(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	h.load(fmt.Sprintf(`server submission ADDR(submission) {
		tls internal
		plaintext_auth
		limits {
			messages none
			soft_errors none
			hard_errors none
		}
		auth inline {
			me@x.test %s
		}
		sender_login
		discard
	}`, hash))
	text, err := os.ReadFile("../handlers/senderlogin/testdata/impersonations.txt")
	if err != nil {
		t.Fatal(err)
	}
	k := greet(t, h.addr("submission"))
	k.say("235", "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00me@x.test\x00secret")))
	submit := func(header string) string {
		k.say("250", "MAIL FROM:<me@x.test> SMTPUTF8")
		k.say("250", "RCPT TO:<bob@x.test>")
		k.say("354", "DATA")
		return k.say("", "%s\r\n\r\nhello\r\n.", strings.ReplaceAll(header, "\n", "\r\n"))
	}
	n := 0
	for l := range strings.Lines(string(text)) {
		header, err := strconv.Unquote(strings.TrimSpace(l))
		if err != nil {
			continue // a comment
		}
		n++
		want := "550 5.7.1"
		if strings.Contains(header, "\x00") {
			want = "550 5.6.0" // the session has it first
		}
		if r := submit(header); !strings.HasPrefix(r, want) {
			t.Errorf("%q: %s", header, r)
		}
	}
	if n < 100 {
		t.Errorf("only %d ways", n)
	}
	for _, from := range []string{"victim@x.test", "me@y.test", "me+x@x.test", `"me@x.test"@y.test`} {
		k.say("553", "MAIL FROM:<%s>", from)
	}
	if r := submit("From: Me <me@x.test>\nSender: me@x.test"); !strings.HasPrefix(r, "250") {
		t.Error(r)
	}
}

// TestAgentByUser: what a user sends goes by an agent of his own, as a table
// says that can change at any time.
func TestAgentByUser(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	config := func(table string) string {
		return fmt.Sprintf(`agent normal maildir DIR/mail/normal {
			create
		}
		agent bulk maildir DIR/mail/bulk {
			create
		}
		server submission ADDR(submission) {
			tls internal
			plaintext_auth
			auth inline {
				alice %[1]s
				bob %[1]s
				carol %[1]s
			}
			relay {
				agent normal
				agent_by %s
			}
		}`, hash, table)
	}
	if err := h.try(config("inline {\nalice nowhere\n}"), ""); err == nil || !strings.Contains(err.Error(), "there is no agent nowhere") {
		t.Error("an agent that is not there:", err)
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "mail"), 0o700); err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(h.dir, "agents")
	if err := os.WriteFile(table, []byte("alice: bulk\ncarol: nowhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.load(config("file " + table))
	for user, code := range map[string]string{"alice": "250", "bob": "250", "carol": "451"} {
		k := greet(t, h.addr("submission"))
		k.say("235", "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00secret")))
		k.say("250", "MAIL FROM:<%s@example.test>", user)
		if k.say(code, "RCPT TO:<x@far.test>"); code == "250" {
			k.say("354", "DATA")
			k.say("250", "From: %s@example.test\r\n\r\nhello\r\n.", user)
		}
	}
	for agent, user := range map[string]string{"bulk": "alice", "normal": "bob"} {
		wait(t, "mail of "+user, func() bool { return len(mails(t, filepath.Join(h.dir, "mail", agent))) == 1 })
		contains(t, mails(t, filepath.Join(h.dir, "mail", agent))[0], "From: "+user)
	}
}
