package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestServerOptions: options of a server show on its sessions.
func TestServerOptions(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(local, "tls internal", `tls internal
		strict_newlines
		limits {
			line_length 512
			field_size 1000
			soft_errors 1
			error_delay 2s
		}
		timeouts {
			greeting 2s
		}
		@slow rcpt bob@example.test
		tarpit @slow 2s`, 1))
	k := dial(t, h.addr("mx"))
	time.Sleep(500 * time.Millisecond)
	k.say("554 5.5.0", "EHLO too early") // within the two seconds

	k = dial(t, h.addr("mx"))
	began := time.Now()
	k.want("220")
	waited(t, "the greeting", began, 2*time.Second)
	k.say("250", "EHLO client.test")
	k.say("250", "MAIL FROM:<s@elsewhere.test>")
	k.say("250", "RCPT TO:<alice@example.test>")
	began = time.Now()
	k.say("250", "RCPT TO:<bob@example.test>")
	waited(t, "the reply of the tarpit", began, 2*time.Second)
	k.say("354", "DATA")
	k.say("554 5.6.0", "Subject: x\r\nX-Long: %s\r\n\r\n.", strings.Repeat(strings.Repeat("x", 70)+"\r\n ", 20))
	k.say("250", "MAIL FROM:<s@elsewhere.test>")
	k.say("250", "RCPT TO:<alice@example.test>")
	k.say("354", "DATA")
	fmt.Fprintf(k.conn, "Subject: x\r\n\r\na\nb\r\n.\r\n")
	k.want("550 5.5.2")

	k = dial(t, h.addr("mx"))
	k.want("220")
	k.say("500", "WHAT")
	began = time.Now()
	k.say("500", "WHAT")
	waited(t, "the reply to an error", began, 2*time.Second)
	k.say("500 5.5.2", "NOOP %s", strings.Repeat("x", 600))
}

func waited(t *testing.T, what string, began time.Time, d time.Duration) {
	t.Helper()
	if took := time.Since(began); took < d-100*time.Millisecond || took > d+10*time.Second {
		t.Errorf("%s came after %v, want %v", what, took, d)
	}
}

// TestServerOptionErrors: values that would not work are refused, and it is said
// why.
func TestServerOptionErrors(t *testing.T) {
	h := newHost(t)
	for option, want := range map[string]string{
		"limits {\nline_length 20000\n}":      "line_length: 20000 is not 512 to 16384 octets",
		"limits {\nline_length 100\n}":        "at Caddyfile:",
		"limits {\nauth_line_length 99999\n}": "auth_line_length: 99999 is not 512 to 16384 octets",
		"limits {\nerror_delay 2m\n}":         "error_delay: clients do not wait for 2m0s",
		"limits {\nexempt everybody\n}":       "exempt: 'everybody' is neither an address nor a network",
		"timeouts {\ngreeting 5m\n}":          "greeting: clients do not wait for 5m0s",
		"xclient proxy":                       "xclient: 'proxy' is neither an address nor a network",
		"xforward 10.0.0.0/99":                "xforward: '10.0.0.0/99' is neither an address nor a network",
		"lmtp\nlisten 127.0.0.1:25":           "LMTP is not for port 25",
	} {
		err := h.try(strings.Replace(local, "tls internal", "tls internal\n"+option, 1), "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", option, err, want)
		}
	}
}

// TestSubmission: what a client submits gets the fields that it lacks.
func TestSubmission(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(local, "tls internal", "tls internal\n\t\tsubmission", 1))
	k := greet(t, h.addr("mx"))
	k.say("550 5.1.8", "MAIL FROM:<root@localhost>")
	k.say("250", "MAIL FROM:<s@elsewhere.test>")
	k.say("550 5.1.2", "RCPT TO:<alice@intranet>")
	k.say("250", "RCPT TO:<alice@example.test>")
	k.say("354", "DATA")
	k.say("250", "Subject: bare\r\nBcc: bob@example.test\r\n\r\nhello\r\n.")
	got := h.inbox("alice", 1)[0]
	for _, want := range []string{"\nFrom: <s@elsewhere.test>", "\nDate: ", "\nMessage-ID: <"} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "Bcc:") {
		t.Errorf("has Bcc:\n%s", got)
	}
}

// TestFutureRelease: a message is delivered when its sender wants it to be.
func TestFutureRelease(t *testing.T) {
	h := newHost(t)
	h.load(strings.Replace(local, "tls internal", `tls internal
		plaintext_auth
		auth {
			inline {
				alice $2a$04$0JlfMz3Z819idSiDbcUqguRDVxSeueOrPfGB8HIF0dntX1m7yecAO
			}
		}`, 1))
	k := dial(t, h.addr("mx"))
	k.want("220")
	if r := k.say("250", "EHLO client.test"); !strings.Contains(r, "FUTURERELEASE 2592000 ") {
		t.Errorf("got %q", r)
	}
	k.say("235", "AUTH PLAIN AGFsaWNlAHF1aWNrc3RhcnQ=")
	began := time.Now()
	k.say("250", "MAIL FROM:<alice@example.test> HOLDFOR=3")
	k.say("250", "RCPT TO:<alice@example.test>")
	k.say("354", "DATA")
	k.say("250", "Subject: later\r\n\r\nhello\r\n.")
	h.inbox("alice", 1)
	waited(t, "the message", began, 3*time.Second)
}
