//go:build linux

package interop

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/mail"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen.
const patience = 40 * time.Second

// TestMain makes the folder of the binary, which all tests share.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		log.Fatal(err)
	}
	buildDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var buildDir string

// caddyBinary builds cmd/caddy once, with the race detector if the tests have it.
var caddyBinary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(buildDir, "caddy")
	args := []string{"build", "-o", bin}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "../../cmd/caddy")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// A host is one Caddy under test.
type host struct {
	t     *testing.T
	dir   string
	names map[string]string
	proc  *process
	text  string
	group group // where it runs, if that matters

	// Globals are options beside smtp, and rest is what follows all of them.
	globals, rest string
}

func newHost(t *testing.T) *host {
	t.Helper()
	return &host{t: t, dir: openDir(t), names: map[string]string{}}
}

// openDir is a folder that servers under other users can reach, with a path
// short enough for Unix sockets.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "interop")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// addr returns a loopback address that stays the same for a name.
func (h *host) addr(name string) string {
	h.t.Helper()
	if h.names[name] == "" {
		h.names[name] = fmt.Sprintf("127.0.0.1:%d", freePort(h.t))
	}
	return h.names[name]
}

func (h *host) port(name string) string {
	h.t.Helper()
	_, port, _ := net.SplitHostPort(h.addr(name))
	return port
}

// config wraps the inside of the smtp option. In it, ADDR(name) is an address
// of the host and DIR its folder.
func (h *host) config(inside string) string {
	h.t.Helper()
	text := fmt.Sprintf(`{
	admin ADDR(admin)
	persist_config off
	skip_install_trust
	storage file_system DIR/storage
	%s
	smtp {
		hostname mx.example.test
		queue DIR/queue {
			retry 1s
		}
		%s
	}
}
%s`, h.globals, inside, h.rest)
	for {
		i := strings.Index(text, "ADDR(")
		if i < 0 {
			return strings.ReplaceAll(text, "DIR", h.dir)
		}
		j := i + strings.IndexByte(text[i:], ')')
		text = text[:i] + h.addr(text[i+5:j]) + text[j+1:]
	}
}

// serve starts Caddy with what config makes, and waits until it serves at the
// addresses that have these names.
func (h *host) serve(inside string, names ...string) {
	h.t.Helper()
	bin, err := caddyBinary()
	if err != nil {
		h.t.Fatal(err)
	}
	h.text = h.config(inside)
	file := filepath.Join(h.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(h.text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	cmd := command(bin, "run", "--config", file)
	cmd.Env = append(os.Environ(), "HOME="+h.dir, "XDG_DATA_HOME="+h.dir, "XDG_CONFIG_HOME="+h.dir)
	h.proc = start(h.t, "caddy", h.group.enter(cmd))
	h.t.Cleanup(func() {
		h.proc.stop()
		for _, bad := range []string{"DATA RACE", "panic:", "goroutine 1 ["} {
			if strings.Contains(h.proc.out.String(), bad) {
				h.t.Errorf("caddy: %s", bad)
			}
		}
	})
	h.proc.says(h.t, "serving initial configuration")
	for _, n := range names {
		h.proc.serves(h.t, "tcp", h.addr(n))
	}
}

// root waits for the internal CA's root certificate, and for a certificate of
// the hostname that it vouches for, at an address with STARTTLS.
func (h *host) root(name string) (file string) {
	h.t.Helper()
	file = filepath.Join(h.dir, "storage/pki/authorities/local/root.crt")
	wait(h.t, "a certificate that verifies", func() bool {
		pem, err := os.ReadFile(file)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			return false
		}
		_, err = starttls(h.addr(name), &tls.Config{RootCAs: pool, ServerName: "mx.example.test"})
		return err == nil
	})
	return file
}

// starttls asks what certificate a server has.
func starttls(addr string, cfg *tls.Config) (*tls.ConnectionState, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c, err := smtp.NewClient(conn, cfg.ServerName)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.StartTLS(cfg); err != nil {
		return nil, err
	}
	state, _ := c.TLSConnectionState()
	return &state, c.Quit()
}

// insecure is a client that takes any certificate.
func insecure(name string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: name} //nolint:gosec // the test looks at the certificate itself
}

// A queued entry, as the admin API shows it, is only looked through as text.
func (h *host) queued() string {
	h.t.Helper()
	resp, err := http.Get("http://" + h.addr("admin") + "/smtp/queue")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !json.Valid(b) {
		h.t.Fatalf("the queue: %s, %v: %s", resp.Status, err, b)
	}
	return string(b)
}

// wait polls until f is true.
func wait(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it took too long", what)
		}
	}
}

// maildir returns the paths of the messages in a Maildir.
func maildir(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	for _, sub := range []string{"new", "cur"} {
		files, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, f := range files {
			out = append(out, filepath.Join(dir, sub, f.Name()))
		}
	}
	return out
}

// arrive waits for n messages in a Maildir.
func arrive(t testing.TB, dir string, n int) []string {
	t.Helper()
	var paths []string
	what := fmt.Sprintf("%d messages in %s", n, filepath.Base(dir))
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if paths = maildir(t, dir); len(paths) >= n {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%s: there are %d", what, len(paths))
		}
	}
	if len(paths) != n {
		t.Fatalf("%s: there are %d", what, len(paths))
	}
	var out []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(b))
	}
	return out
}

func (h *host) inbox(user string) string { return filepath.Join(h.dir, "mail", "example.test", user) }

// got waits for the one message with a subject in a Maildir.
func got(t testing.TB, dir, subject string) *message {
	t.Helper()
	var found []*message
	wait(t, fmt.Sprintf("%q in %s", subject, filepath.Base(dir)), func() bool {
		found = nil
		for _, p := range maildir(t, dir) {
			m := parse(t, p)
			if m != nil && m.Header.Get("Subject") == subject {
				found = append(found, m)
			}
		}
		return len(found) > 0
	})
	if len(found) > 1 {
		t.Fatalf("%q is there %d times", subject, len(found))
	}
	return found[0]
}

// A message is one that arrived.
type message struct {
	*mail.Message
	text string // header and body
}

// parse returns nil for a file that another program has moved meanwhile.
func parse(t testing.TB, path string) *message {
	t.Helper()
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v:\n%s", err, b)
	}
	return &message{m, string(b)}
}

// send sends a message with a subject in clear text.
func send(t testing.TB, addr, from, to, subject string) {
	t.Helper()
	if err := trySend(addr, from, []string{to}, subject); err != nil {
		t.Fatal(err)
	}
}

func trySend(addr, from string, to []string, subject string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	c, err := smtp.NewClient(conn, "")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Hello("client.test"); err != nil {
		return err
	}
	// Not with c.Mail, which always asks for SMTPUTF8.
	id, err := c.Text.Cmd("MAIL FROM:<%s>", from)
	if err != nil {
		return err
	}
	c.Text.StartResponse(id)
	_, _, err = c.Text.ReadResponse(250)
	c.Text.EndResponse(id)
	if err != nil {
		return err
	}
	for _, r := range to {
		if err := c.Rcpt(r); err != nil {
			return err
		}
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "From: <%s>\r\nTo: <%s>\r\nSubject: %s\r\nMessage-ID: <%d@client.test>\r\n\r\nhello\r\n.dot\r\n", from, strings.Join(to, ">, <"), subject, time.Now().UnixNano())
	if err := w.Close(); err != nil {
		return err
	}
	return c.Quit()
}

// contains fails for each part that a text lacks.
func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("lacks %q:\n%s", p, last(text, 60))
		}
	}
}

// users is an auth handler that knows alice, with the password "quickstart".
const users = `
		auth {
			inline {
				alice@example.test $2a$04$0JlfMz3Z819idSiDbcUqguRDVxSeueOrPfGB8HIF0dntX1m7yecAO
			}
		}`

// local is a delivery of what is for example.test to Maildirs that are made
// when they are first used.
const local = `
		@local rcpt_domain example.test
		deliver @local boxes`

const boxes = `
	agent boxes maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
		create
	}`

// takes has an MX without logins, and submission with them in both ways of TLS.
const takes = boxes + `
	server mx ADDR(mx) {
		tls internal` + local + `
	}
	server submission ADDR(submission) {
		listen_tls ADDR(submissions)
		tls internal` + users + local + `
	}`
