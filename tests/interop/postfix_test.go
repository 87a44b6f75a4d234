//go:build linux

package interop

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A postfix is an instance of its own, apart from the system's.
type postfix struct {
	t     testing.TB
	dir   string
	addr  string // its smtpd
	proc  *process
	group group // where it runs, if that matters
}

// newPostfix writes the configuration of an instance that listens on addr.
// What settings say, with DIR for its folder, comes behind what all instances
// have.
func newPostfix(t testing.TB, addr string, settings ...string) *postfix {
	t.Helper()
	need(t, "postfix", "postconf")
	needRoot(t, "postfix")
	p := &postfix{t: t, dir: openDir(t), addr: addr}
	for _, d := range []string{"conf", "queue", "data", "mail"} {
		if err := os.Mkdir(filepath.Join(p.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	chown(t, filepath.Join(p.dir, "data"), "postfix")
	chown(t, filepath.Join(p.dir, "mail"), "nobody")
	daemons := strings.TrimSpace(run(t, "", "postconf", "-dh", "daemon_directory"))
	main := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
command_directory = /usr/sbin
daemon_directory = %[2]s
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
myhostname = postfix.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
local_recipient_maps =
biff = no
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_client_connection_count_limit = 0
default_process_limit = 100
in_flow_delay = 0
minimal_backoff_time = 2s
maximal_backoff_time = 2s
queue_run_delay = 2s
%[3]s
`, p.dir, daemons, strings.ReplaceAll(strings.Join(settings, "\n"), "DIR", p.dir))
	conf := filepath.Join(p.dir, "conf")
	if err := os.WriteFile(filepath.Join(conf, "main.cf"), []byte(main), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, "master.cf"), []byte(addr+master), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(p.dir, "maillog"))
			t.Logf("postfix logged:\n%s", last(string(log), 60))
		}
	})
	return p
}

// master has no chroot, which would need files of the system's in the queue.
const master = `   inet n  - n - 100 smtpd
pickup     unix  n  - n 60 1 pickup
cleanup    unix  n  - n - 0 cleanup
qmgr       unix  n  - n 300 1 qmgr
tlsmgr     unix  -  - n 1000? 1 tlsmgr
rewrite    unix  -  - n - - trivial-rewrite
bounce     unix  -  - n - 0 bounce
defer      unix  -  - n - 0 bounce
trace      unix  -  - n - 0 bounce
verify     unix  -  - n - 1 verify
flush      unix  n  - n 1000? 0 flush
proxymap   unix  -  - n - - proxymap
proxywrite unix  -  - n - 1 proxymap
smtp       unix  -  - n - - smtp
relay      unix  -  - n - - smtp
showq      unix  n  - n - - showq
error      unix  -  - n - - error
retry      unix  -  - n - - error
discard    unix  -  - n - - discard
local      unix  -  n n - - local
virtual    unix  -  n n - - virtual
lmtp       unix  -  - n - - lmtp
anvil      unix  -  - n - 1 anvil
scache     unix  -  - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
`

// start runs it in a PID namespace, whose first process Postfix wants to be
// in the foreground.
func (p *postfix) start() {
	p.t.Helper()
	os.Remove(filepath.Join(p.dir, "queue/pid/master.pid"))
	p.proc = start(p.t, "postfix", p.group.enter(contained("postfix", "-c", filepath.Join(p.dir, "conf"), "start-fg")))
	p.proc.serves(p.t, "tcp", p.addr)
}

func (p *postfix) box(user string) string { return filepath.Join(p.dir, "mail", user) }

func chown(t testing.TB, path, name string) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

// receiving are settings of an instance that has mailboxes for user and second
// at far.test, and nobody else.
var receiving = []string{
	"virtual_mailbox_domains = far.test",
	"virtual_mailbox_base = DIR/mail",
	"virtual_mailbox_maps = inline:{ user@far.test=user/ second@far.test=second/ }",
	"virtual_uid_maps = static:65534",
	"virtual_gid_maps = static:65534",
	"virtual_mailbox_limit = 0",
}

var messageID = regexp.MustCompile(`(?mi)^Message-Id: *(<[^>]+>)`)

// accounted waits for n messages in a Maildir and wants each to be another,
// also when no more comes.
func accounted(t testing.TB, dir string, n int) {
	t.Helper()
	seen := map[string]int{}
	for _, m := range arrive(t, dir, n) {
		id := messageID.FindStringSubmatch(m)
		if id == nil {
			t.Fatalf("a message without Message-Id:\n%s", last(m, 40))
		}
		seen[id[1]]++
	}
	if len(seen) != n {
		t.Errorf("of %d messages %d are different", n, len(seen))
	}
}

// TestSMTPSource: every message of many sessions at once is there, and once.
func TestSMTPSource(t *testing.T) {
	need(t, "smtp-source")
	h := newHost(t)
	h.serve(takes, "mx")
	for user, args := range map[string][]string{
		"each":  {"-s", "50", "-m", "2000"},       // a session for each message
		"many":  {"-s", "50", "-m", "2000", "-d"}, // 50 sessions
		"large": {"-s", "20", "-m", "60", "-l", "300000"},
	} {
		run(t, "", "smtp-source", append(args, "-M", "source.test", "-f", "sender@source.test", "-t", user+"@example.test", h.addr("mx"))...)
	}
	accounted(t, h.inbox("each"), 2000)
	accounted(t, h.inbox("many"), 2000)
	accounted(t, h.inbox("large"), 60)
	wait(t, "the queue to be empty", func() bool { return !strings.Contains(h.queued(), "example.test") })
}

// TestPostfixSends: a Postfix whose smarthost is our server.
func TestPostfixSends(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	from := newPostfix(t, h.addr("postfix"),
		"relayhost = [127.0.0.1]:"+h.port("mx"),
		"smtp_tls_security_level = may",
		"smtp_tls_loglevel = 1",
		"smtp_destination_concurrency_limit = 20",
		"bounce_queue_lifetime = 1d")
	h.serve(takes+`
	server strict ADDR(strict) {
		tls internal
		@known rcpt alice@example.test
		deliver @known boxes
	}`, "mx", "strict")
	root := h.root("mx")
	from.start()

	send(t, from.addr, "carol@postfix.test", login, "over TLS")
	contains(t, got(t, h.inbox("alice"), "over TLS").text, "from postfix.test", "with ESMTPS ", "Return-Path: <carol@postfix.test>", "\n.dot\n")

	if err := trySend(from.addr, "carol@postfix.test", []string{"a@example.test", "b@example.test", "c@example.test"}, "to three"); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"a", "b", "c"} {
		got(t, h.inbox(user), "to three")
	}

	need(t, "smtp-source")
	run(t, "", "smtp-source", "-s", "20", "-m", "300", "-l", "5000", "-M", "source.test", "-f", "carol@postfix.test", "-t", "load@example.test", from.addr)
	accounted(t, h.inbox("load"), 300)

	// With the certificate verified, as a sender under MTA-STS or a policy does it.
	t.Run("verified", func(t *testing.T) {
		from := newPostfix(t, h.addr("verifying"),
			"relayhost = [127.0.0.1]:"+h.port("strict"),
			"smtp_tls_security_level = secure",
			"smtp_tls_secure_cert_match = mx.example.test",
			"smtp_tls_CAfile = "+root,
			"virtual_mailbox_domains = postfix.test",
			"virtual_mailbox_base = DIR/mail",
			"virtual_mailbox_maps = static:carol/",
			"virtual_uid_maps = static:65534",
			"virtual_gid_maps = static:65534")
		from.start()
		send(t, from.addr, "carol@postfix.test", login, "verified")
		contains(t, got(t, h.inbox("alice"), "verified").text, "with ESMTPS ")
		// What we refuse, Postfix reports with our words.
		send(t, from.addr, "carol@postfix.test", "nobody@example.test", "refused")
		contains(t, arrive(t, from.box("carol"), 1)[0], "Action: failed", "Status: 5.", "Remote-MTA: dns; 127.0.0.1")
	})
}
