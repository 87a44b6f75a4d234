package tests

import (
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

// A dkimKey is a key as the admin API shows it.
type dkimKey struct {
	Domain, Selector, State, Name, Record, DNS string
}

// keys asks for the keys of a domain, and DNS for them if check is set.
func (h *host) keys(domain string, check bool) (ks []dkimKey) {
	h.t.Helper()
	if code := h.get(fmt.Sprintf("/smtp/dkim?domain=%s&check=%t", domain, check), &ks); code != http.StatusOK {
		h.t.Fatalf("%d", code)
	}
	return ks
}

// publish puts the records of keys into a zone.
func publish(zone *dnstest.Zone, ks []dkimKey) {
	zone.Change(func(z *dnstest.Zone) {
		for _, k := range ks {
			z.TXT[k.Name] = []string{k.Record}
		}
	})
}

// signatures returns the selectors whose signatures of a message verify.
func signatures(t testing.TB, zone *dnstest.Zone, text string) string {
	t.Helper()
	_, text, _ = strings.Cut(text, "\nReceived:") // a Maildir has lines of its own above, and LF
	text = strings.ReplaceAll(strings.ReplaceAll("Received:"+text, "\r\n", "\n"), "\n", "\r\n")
	vs, err := msgauth.VerifyWithOptions(strings.NewReader(text), &msgauth.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		return zone.LookupTXT(t.Context(), name)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if v.Err != nil {
			t.Errorf("%s: %v in\n%s", v.Domain, v.Err, text)
		}
	}
	var out []string
	for _, m := range selector.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	if len(out) != len(vs) {
		t.Errorf("%d signatures, selectors %v", len(vs), out)
	}
	return strings.Join(out, " ")
}

var selector = regexp.MustCompile(`d=example\.test;\s+s=([er]\w+);`)

const signing = `
	resolver %s
	agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}
	server mx ADDR(mx) {
		tls internal
		sign example.test
		deliver local {
			users regexp .*@example[.]test yes
		}
	}
	server submission ADDR(submission) {
		tls internal
		auth {
			inline {
				alice@example.test $2a$04$0JlfMz3Z819idSiDbcUqguRDVxSeueOrPfGB8HIF0dntX1m7yecAO
			}
		}
		sign example.test *.example.test
		header Subject hello changed
		@local rcpt_domain example.test
		deliver @local local {
			users regexp .*@example[.]test yes
		}
		relay %s {
			tls off
		}
	}
`

func (h *host) alice() *talker {
	h.t.Helper()
	k := greet(h.t, h.addr("submission"))
	k.starttls(insecure("mx.example.test"))
	k.say("250", "EHLO client.test")
	k.say("235", "AUTH PLAIN %s", plain("alice@example.test", "quickstart"))
	return k
}

// TestSign: what a user submits arrives with signatures that verify, over what
// handlers have made of it, through a reload and a rotation; what a stranger
// says in the user's name does not.
func TestSign(t *testing.T) {
	zone := &dnstest.Zone{TXT: map[string][]string{}, TTL: time.Second}
	h := newHost(t)
	cfg := fmt.Sprintf(signing, dnstest.Serve(t, zone), refusingServer(t))
	h.load(cfg)
	k := h.alice()
	const letter = "From: Alice <alice@example.test>\r\nSubject: hello\r\n\r\nhello,  you \r\n\r\n\r\n."
	submit := func(k *talker, to string) {
		t.Helper()
		k.say("250", "MAIL FROM:<alice@example.test>")
		k.say("250", "RCPT TO:<%s>", to)
		k.say("354", "DATA")
		k.say("250", "%s", letter)
	}
	submit(k, "bob@example.test")
	first := h.inbox("bob", 1)[0]
	contains(t, first, "Subject: changed")
	ks := h.keys("example.test", false)
	if len(ks) != 2 || ks[0].State != "signing" || ks[1].State != "signing" {
		t.Fatalf("got %+v", ks)
	}
	publish(zone, ks)
	old := signatures(t, zone, first)
	if len(strings.Fields(old)) != 2 || !strings.HasPrefix(old, "r") {
		t.Errorf("signed with %s", old)
	}
	h.modes()

	// In the middle of a message, the configuration is replaced and the keys are.
	k.say("250", "MAIL FROM:<alice@example.test>")
	h.load(cfg)
	wait(t, "the old key in DNS", func() bool { return h.keys("example.test", true)[0].DNS == "published" })
	if code := h.post("/smtp/dkim/rotate?domain=example.test"); code != http.StatusOK {
		t.Fatalf("rotate: %d", code)
	}
	k.say("250", "RCPT TO:<carol@example.test>")
	k.say("354", "DATA")
	k.say("250", "%s", letter)
	if got := signatures(t, zone, h.inbox("carol", 1)[0]); got != old {
		t.Errorf("DNS lacks the new key, signed with %s", got)
	}
	publish(zone, h.keys("example.test", false))
	wait(t, "the new key", func() bool {
		signs := 0
		for _, k := range h.keys("example.test", true) {
			if k.State == "signing" && !strings.Contains(old, k.Selector) {
				signs++
			}
		}
		return signs == 2
	})
	submit(h.alice(), "dave@example.test")
	if got := signatures(t, zone, h.inbox("dave", 1)[0]); got == old || len(strings.Fields(got)) != 2 {
		t.Errorf("signed with %s", got)
	}
	signatures(t, zone, first) // still good

	// A stranger gets no signature, though the handler is there.
	s := greet(t, h.addr("mx"))
	s.say("250", "MAIL FROM:<alice@example.test>")
	s.say("250", "RCPT TO:<erin@example.test>")
	s.say("354", "DATA")
	s.say("250", "%s", letter)
	if got := h.inbox("erin", 1)[0]; strings.Contains(got, "DKIM-Signature") {
		t.Errorf("a stranger's message is signed:\n%s", got)
	}

	// A DSN of ours, from postmaster@mx.example.test, is signed.
	submit(h.alice(), "nobody@elsewhere.test")
	dsn := h.inbox("alice", 1)[0]
	contains(t, dsn, "d=example.test", "multipart/report")
	if head, _, _ := strings.Cut(dsn, "\n\n"); strings.Count(head, "DKIM-Signature") != 2 {
		t.Errorf("the DSN has not two signatures:\n%s", head)
	}
}

// TestSignedOnTheWire: what the next hop gets of messages of odd shapes, one of
// which was in a file, has signatures that verify. The client is trusted by its
// network here.
func TestSignedOnTheWire(t *testing.T) {
	zone := &dnstest.Zone{TXT: map[string][]string{}}
	h, to := newHost(t), newSink(t)
	h.load(fmt.Sprintf(`
		resolver %s
		server out ADDR(out) {
			tls off
			sign example.test
			relay %s {
				tls off
				trust 127.0.0.0/8
			}
		}`, dnstest.Serve(t, zone), to.addr))
	wait(t, "keys", func() bool { return len(h.keys("example.test", false)) == 2 })
	publish(zone, h.keys("example.test", false))
	k := greet(t, h.addr("out"))
	for name, body := range map[string]string{
		"dots": ".\n..\n.x\n", "nothing": "", "lines": "\n\nx\n\n\n", "white space": " a\t\tb  c \n \n\t\n",
		"long lines": strings.Repeat("x", 998) + "\n" + strings.Repeat("y z ", 249) + "\n",
		"much":       strings.Repeat("It is a line  of very many, \n.\n", 60_000),
	} {
		k.say("250", "MAIL FROM:<alice@example.test>")
		k.say("250", "RCPT TO:<x@far.test>")
		k.say("354", "DATA")
		body = strings.ReplaceAll(strings.ReplaceAll("\n"+body, "\n.", "\n.."), "\n", "\r\n")
		k.say("250", "From: alice@example.test\r\nSubject: %s\r\n%s.", name, body)
		got := strings.ReplaceAll("\n"+to.next(t), "\n.", "\n")
		if n := len(strings.Fields(signatures(t, zone, strings.TrimSuffix(got, "\r\n")))); n != 2 {
			t.Errorf("%s: %d signatures", name, n)
		}
	}
}

// modes looks at who can read the keys.
func (h *host) modes() {
	h.t.Helper()
	n := 0
	err := filepath.WalkDir(filepath.Join(h.dir, "storage", "smtp", "dkim"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		n++
		if st, err := d.Info(); err != nil || st.Mode().Perm() != 0o600 {
			h.t.Errorf("%s has mode %v, %v", path, st.Mode(), err)
		}
		return nil
	})
	if err != nil || n != 2 {
		h.t.Errorf("%d keys, %v", n, err)
	}
}

// TestDKIMAdmin: what the admin API refuses, and what the command prints.
func TestDKIMAdmin(t *testing.T) {
	zone := &dnstest.Zone{TXT: map[string][]string{}, TTL: time.Second}
	p := runCaddy(t, fmt.Sprintf(signing, dnstest.Serve(t, zone), "127.0.0.1:1")+
		"server given ADDR(given) {\n tls off\n sign own.test {\n key s1 nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n}\n discard\n}")
	for path, want := range map[string]int{
		"/smtp/dkim?domain=elsewhere.test": 404, "/smtp/dkim?domian=x": 400, "/smtp/dkim?check=maybe": 400, "/smtp/dkim/x": 404,
		"/smtp/dkim/rotate?domain=example.test": 405,
	} {
		if got := p.get(path, new(string)); got != want {
			t.Errorf("GET %s: %d, want %d", path, got, want)
		}
	}
	for path, want := range map[string]int{
		"/smtp/dkim/rotate": 400, "/smtp/dkim/rotate?domain=elsewhere.test": 404, "/smtp/dkim/rotate?domain=own.test": 409,
		"/smtp/dkim": 405, "/smtp/dkim/rotate?domain=own.test&now=perhaps": 400,
	} {
		if got := p.post(path); got != want {
			t.Errorf("POST %s: %d, want %d", path, got, want)
		}
	}
	dkim := func(args ...string) (string, error) {
		out, err := command(t, caddyBinary(t), append([]string{"smtp", "dkim", "--address", p.admin}, args...)...).CombinedOutput()
		return string(out), err
	}
	wait(t, "keys", func() bool { return len(p.keys("example.test", false)) == 2 })
	out, err := dkim("show", "example.test")
	if err != nil {
		t.Error(err)
	}
	contains(t, out, "; example.test rsa: signing", `._domainkey.example.test. IN TXT ( "v=DKIM1; k=rsa; p=`, `" "`, `" )`, "; example.test ed25519: signing", `IN TXT ( "v=DKIM1; k=ed25519; p=`)
	if strings.Contains(out, "own.test") || strings.Contains(out, "PRIVATE") {
		t.Errorf("it prints:\n%s", out)
	}
	if out, err = dkim("show"); err != nil {
		t.Error(err)
	}
	contains(t, out, "example.test", "s1._domainkey.own.test. IN TXT ( \"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\" )")
	if out, err = dkim("show", "--check", "own.test"); err == nil {
		t.Errorf("DNS lacks it: %s", out)
	}
	contains(t, out, "DNS: missing", "DNS lacks 1 of them")
	publish(zone, p.keys("own.test", false))
	wait(t, "a key in DNS", func() bool {
		out, err := dkim("show", "--check", "own.test")
		return err == nil && strings.Contains(out, "DNS: published")
	})
	if out, err = dkim("rotate", "--now", "example.test"); err != nil {
		t.Error(err)
	}
	contains(t, out, "rsa: retired, to go after")
	contains(t, out, "rsa: signing")
	if out, err = dkim("rotate", "own.test"); err == nil {
		t.Errorf("rotated: %s", out)
	}
	contains(t, out, "given in the configuration")
}
