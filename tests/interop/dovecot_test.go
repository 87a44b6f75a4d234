//go:build linux

package interop

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A dovecot is an instance of its own with an LMTP server over TCP and over a
// Unix socket, for known@example.test and no one else.
type dovecot struct {
	t                 testing.TB
	dir, addr, socket string
	proc              *process
}

func newDovecot(t testing.TB, addr string) *dovecot {
	t.Helper()
	need(t, "dovecot")
	needRoot(t, "dovecot")
	if _, err := os.Stat("/usr/lib/dovecot/lmtp"); err != nil {
		missing(t, "dovecot's LMTP is not installed")
	}
	d := &dovecot{t: t, dir: openDir(t), addr: addr}
	d.socket = d.dir + "/lmtp"
	if err := os.Mkdir(filepath.Join(d.dir, "mail"), 0o755); err != nil {
		t.Fatal(err)
	}
	chown(t, filepath.Join(d.dir, "mail"), "nobody")
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols = lmtp
ssl = no
hostname = store.test
mail_location = maildir:%[1]s/mail/%%n
auth_mechanisms = plain login
passdb {
	driver = passwd-file
	args = %[1]s/users
}
userdb {
	driver = passwd-file
	args = %[1]s/users
	default_fields = uid=nobody gid=nogroup home=%[1]s/mail
}
service lmtp {
	unix_listener %[1]s/lmtp {
		mode = 0666
	}
	inet_listener lmtp {
		address = %[2]s
		port = %[3]s
	}
}
service auth {
	unix_listener %[1]s/auth {
		mode = 0666
	}
}
`, d.dir, host, port)
	for name, text := range map[string]string{
		"dovecot.conf": conf,
		"users":        "known@example.test:{PLAIN}secret::::::\nother@example.test:{PLAIN}secret::::::\n",
	} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func (d *dovecot) start() {
	d.t.Helper()
	d.proc = start(d.t, "dovecot", contained("dovecot", "-F", "-c", filepath.Join(d.dir, "dovecot.conf")))
	d.proc.serves(d.t, "tcp", d.addr)
	d.proc.serves(d.t, "unix", d.socket)
	d.proc.serves(d.t, "unix", d.dir+"/auth")
}

func (d *dovecot) box(user string) string { return filepath.Join(d.dir, "mail", user) }

// TestDovecotStores: mailboxes are Dovecot's, reached by LMTP.
func TestDovecotStores(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := newDovecot(t, h.addr("lmtp"))
	d.start()
	h.serve(fmt.Sprintf(boxes+`
	server socket ADDR(socket) {
		tls internal
		@ours rcpt_domain example.test
		@sender rcpt alice@example.test
		deliver @sender boxes
		deliver @ours lmtp unix/%s
	}
	server tcp ADDR(tcp) {
		tls internal
		@ours rcpt_domain example.test
		@sender rcpt alice@example.test
		deliver @sender boxes
		deliver @ours lmtp %s
	}`, d.socket, d.addr), "socket", "tcp")
	for _, how := range []string{"socket", "tcp"} {
		t.Run(how, func(t *testing.T) {
			send(t, h.addr(how), login, "known@example.test", "to one by "+how)
			m := got(t, d.box("known"), "to one by "+how)
			contains(t, m.text, "Return-Path: <"+login+">", "Delivered-To: known@example.test", "\n.dot\n")
			if strings.Count(m.text, "Return-Path:") != 1 {
				t.Errorf("more than one Return-Path:\n%s", m.text)
			}

			// Who exists is Dovecot's to say, at RCPT.
			to := []string{"known@example.test", "other@example.test"}
			if err := trySend(h.addr(how), login, append(to, "unknown@example.test"), "to none"); err == nil || !strings.Contains(err.Error(), "5.1.1 no such mailbox") {
				t.Errorf("an unknown recipient: %v", err)
			}
			if err := trySend(h.addr(how), login, to, "to both by "+how); err != nil {
				t.Fatal(err)
			}
			got(t, d.box("known"), "to both by "+how)
			got(t, d.box("other"), "to both by "+how)
			if n := len(maildir(t, h.inbox("alice"))); n != 0 {
				t.Errorf("%d DSNs", n)
			}
			if n := len(maildir(t, d.box("known"))); n != 2*(map[string]int{"socket": 1, "tcp": 2}[how]) {
				t.Errorf("known has %d messages", n)
			}
		})
	}

	t.Run("many", func(t *testing.T) {
		need(t, "smtp-source")
		run(t, "", "smtp-source", "-s", "10", "-m", "200", "-l", "20000", "-M", "source.test", "-f", "sender@source.test", "-t", "other@example.test", h.addr("tcp"))
		wait(t, "200 messages", func() bool { return len(maildir(t, d.box("other"))) >= 200 })
	})

	// It is away for a while: whoever it has named is known to exist.
	t.Run("down", func(t *testing.T) {
		send(t, h.addr("tcp"), login, "known@example.test", "before")
		got(t, d.box("known"), "before")
		d.proc.stop()
		if err := trySend(h.addr("tcp"), login, []string{"new@example.test"}, "to whom?"); err == nil || !strings.Contains(err.Error(), "4.4.1 mailbox cannot be verified") {
			t.Errorf("nobody can tell: %v", err)
		}
		send(t, h.addr("tcp"), login, "known@example.test", "while it was down")
		wait(t, "it to be queued", func() bool { return strings.Contains(h.queued(), "known@example.test") })
		d.start()
		got(t, d.box("known"), "while it was down")
	})
}

// TestDovecotLogins: users are Dovecot's, asked over its socket for clients.
func TestDovecotLogins(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := newDovecot(t, h.addr("lmtp"))
	d.start()
	h.serve(boxes+sourced("asks", "dovecot unix/"+d.dir+"/auth"), "asks")
	right := attempt{"Known@Example.test", "secret", 235, "known@example.test//"}
	h.attempts("asks", right,
		attempt{"known@example.test", "wrong", 535, ""},
		attempt{"unknown@example.test", "secret", 535, ""},
		attempt{"other@example.test", "secret", 235, "other@example.test//"},
	)
	d.proc.stop()
	h.attempts("asks", attempt{"known@example.test", "secret", 454, ""})
	d.start()
	h.attempts("asks", right)
}
