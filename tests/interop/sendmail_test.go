//go:build linux

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// sendmailBinary is where .ci/install unpacks it: its package conflicts with
// Postfix's. It is the one other server that has DELIVERBY.
const sendmailBinary = "/opt/sendmail/usr/libexec/sendmail/sendmail"

// sendmailConfig has everything relayed: mail for old.test to one port, all else
// to another. FOLDER, LISTEN, OLD and ELSE are filled in.
const sendmailConfig = `V10/Berkeley
Cwsendmail.test
DnMAILER-DAEMON
Djsendmail.test
Troot
O DaemonPortOptions=Name=MTA,Addr=127.0.0.1,Port=LISTEN
O QueueDirectory=FOLDER/queue
O PidFile=FOLDER/pid
O ServiceSwitchFile=FOLDER/switch
O HostsFile=FOLDER/hosts
O DeliverByMin=60
O DeliveryMode=interactive
O PrivacyOptions=
O RefuseLA=0
O QueueLA=0
O DontProbeInterfaces=True
O DontInitGroups=True
Scanonify=3
R$* <> $*		$: < @ >
R$* < $* > $*		$: $2
R$+ @ $+		$: $1 < @ $2 >
Sparse=0
R$* < @ old.test > $*	$#old $@ [127.0.0.1] $: $1 < @ old.test >
R$* < @ $+ > $*		$#else $@ [127.0.0.1] $: $1 < @ $2 >
Sfinal=4
R<@>			$@
R$* < @ $* > $*	$1 @ $2 $3
Mlocal, P=/bin/false, F=lsDFMPn, A=false
Mprog, P=/bin/false, F=lsDFM, A=false
Mold, P=[IPC], F=mDFMuXa, E=\r\n, L=990, T=DNS/RFC822/SMTP, A=TCP $h OLD
Melse, P=[IPC], F=mDFMuXa, E=\r\n, L=990, T=DNS/RFC822/SMTP, A=TCP $h ELSE
`

// newSendmail starts one that keeps a record of what it says and hears.
func newSendmail(t *testing.T, h *host) (traffic func() string) {
	t.Helper()
	if _, err := os.Stat(sendmailBinary); err != nil {
		missing(t, "sendmail is not installed")
	}
	needRoot(t, "sendmail")
	dir := openDir(t)
	if err := os.Mkdir(filepath.Join(dir, "queue"), 0o700); err != nil {
		t.Fatal(err)
	}
	conf := strings.NewReplacer("FOLDER", dir, "LISTEN", h.port("sendmail"), "OLD", h.port("old"), "ELSE", h.port("mx")).Replace(sendmailConfig)
	for name, text := range map[string]string{
		"sendmail.cf": conf, "switch": "hosts\tfiles\naliases\tfiles\npasswd\tfiles\n", "hosts": "127.0.0.1 sendmail.test localhost\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// It waits for a minute where the host's name has no dot.
	cmd := contained("sh", "-ec", `hostname sendmail.test; exec "$2" -C "$1/sendmail.cf" -bD -X "$1/traffic"`, "sh", dir, sendmailBinary)
	cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWUTS
	start(t, "sendmail", cmd).serves(t, "tcp", h.addr("sendmail"))
	return func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "traffic"))
		return string(b)
	}
}

// TestSendmailDeliverBy: RFC 2852 with another implementation on both sides of us.
func TestSendmailDeliverBy(t *testing.T) {
	h := newHost(t)
	traffic := newSendmail(t, h)
	h.serve(fmt.Sprintf(`
		agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}
		server out ADDR(out) {
			tls off
			@ours rcpt_domain example.test
			deliver @ours local {
				users inline {
					alice@example.test
				}
			}
			relay %s {
				trust 127.0.0.1
				tls off
			}
		}
		server mx ADDR(mx) {
			tls off
			deliver local {
				users inline {
					alice@example.test
					bob@far.test
				}
			}
		}
		server old ADDR(old) {
			tls off
			deliver_by off
			deliver local {
				users inline {
					carol@old.test
				}
			}
		}`, h.addr("sendmail")), "out", "mx", "old")
	reports := 0
	// await waits for reports to alice, and returns the new one with a text.
	await := func(n int, about string) string {
		t.Helper()
		reports += n
		for _, r := range arrive(t, h.inbox("alice"), reports) {
			if strings.Contains(r, about) {
				return r
			}
		}
		t.Fatalf("none of %d reports has %q", reports, about)
		return ""
	}
	deliver := func(params, to, subject string) {
		t.Helper()
		run(t, `
import smtplib, sys
port, params, to, subject = sys.argv[1:]
s = smtplib.SMTP('127.0.0.1', port)
s.ehlo('client.test')
assert 'deliverby' in s.esmtp_features, s.esmtp_features
s.sendmail('alice@example.test', [to], 'Subject: %s\r\n\r\nhello\r\n' % subject, mail_options=params.split())
s.quit()
`, "python3", "-", h.port("out"), params, to, subject)
	}

	deliver("BY=600;RT AUTH=alice@example.test", "bob@far.test", "all know it")
	got(t, filepath.Join(h.dir, "mail/far.test/bob"), "all know it")
	contains(t, await(2, "Reporting-MTA: dns; mx.example.test"), "Action: relayed", "Deliver-By-Date: ")
	contains(t, await(0, "Reporting-MTA: dns; sendmail.test"), "Action: relayed", "Deliver-By-Date: ")
	said := traffic()
	for _, way := range []string{"<<< MAIL FROM:<alice@example.test> SIZE=", ">>> MAIL From:<alice@example.test>"} {
		_, line, ok := strings.Cut(said, way)
		if line, _, _ = strings.Cut(line, "\n"); !ok || !strings.Contains(line, " BY=") || !strings.Contains(line, ";RT") {
			t.Errorf("%s%s", way, line)
		}
	}
	contains(t, said, " AUTH=alice@example.test")

	deliver("BY=600;R", "carol@old.test", "the last does not")
	contains(t, await(1, "does not support Deliver By"), "Reporting-MTA: dns; sendmail.test", "Status: 5.4.7")

	deliver("BY=600;N", "carol@old.test", "the last need not")
	got(t, filepath.Join(h.dir, "mail/old.test/carol"), "the last need not")
	contains(t, await(1, "Deliver-By notify"), "Reporting-MTA: dns; sendmail.test")

	deliver("BY=30;R", "bob@far.test", "too short")
	contains(t, await(1, "needs more time"), "Reporting-MTA: dns; mx.example.test", "Status: 5.4.7", "Action: failed")
}
