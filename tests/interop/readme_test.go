//go:build linux

package interop

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A reader is someone who has just cloned the repository, and does what the
// README says, in a shell.
type reader struct {
	t      *testing.T
	dir    string
	env    []string
	blocks []string // what the README shows to copy
}

func newReader(t *testing.T) *reader {
	t.Helper()
	need(t, "git", "go", "swaks", "openssl")
	for end := time.Now().Add(time.Minute); !mine(t, "README"); time.Sleep(time.Second) {
		if time.Now().After(end) {
			missing(t, "ports 2525, 2587 and 2465 are taken by another run of this test")
		}
	}
	for _, port := range []string{"2525", "2587", "2465", "2019", "1025"} {
		untaken(t, port)
	}
	r := &reader{t: t, dir: filepath.Join(openDir(t), "caddy-smtp")}
	home := t.TempDir()
	r.env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home, "LC_ALL=C")
	for _, v := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		r.env = append(r.env, v+"="+strings.TrimSpace(run(t, "", "go", "env", v)))
	}
	for _, v := range []string{"MAIL_ROOT", "RELAY_TO"} {
		if _, ok := os.LookupEnv(v); ok {
			t.Skip(v + " is set")
		}
	}
	if try(t, "", "git", "-C", "../..", "rev-parse", "HEAD").code != 0 {
		t.Skip("these files are no clone of the repository")
	}
	run(t, "", "git", "clone", "--quiet", "../..", r.dir)
	text, err := os.ReadFile(filepath.Join(r.dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^    .*\n(?:\n*    .*\n)*`).FindAllString(string(text), -1) {
		m = regexp.MustCompile(`(?m)^    `).ReplaceAllString(m, "")
		r.blocks = append(r.blocks, strings.ReplaceAll(m, "\\\n", ""))
	}
	return r
}

// untaken skips the test if a port of the README's is not to be had.
func untaken(t *testing.T, port string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		ln, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			ln.Close()
			return
		}
		if time.Now().After(end) {
			missing(t, "port "+port+" is taken")
		}
	}
}

// block returns what the README shows that begins with this.
func (r *reader) block(begin string) string {
	r.t.Helper()
	for _, b := range r.blocks {
		if strings.HasPrefix(b, begin) {
			return b
		}
	}
	r.t.Fatalf("the README shows no %q", begin)
	return ""
}

func (r *reader) shell(line string) *exec.Cmd {
	cmd := command("sh", "-c", line)
	if os.Getuid() == 0 { // so that `go run` takes its child along
		cmd = contained("sh", "-c", line)
	}
	cmd.Dir, cmd.Env = r.dir, r.env
	return cmd
}

// serve does what starts the server.
func (r *reader) serve(line string) *process {
	r.t.Helper()
	p := start(r.t, line, r.shell(line))
	for end := time.Now().Add(2 * time.Minute); !strings.Contains(p.out.String(), "serving initial configuration"); time.Sleep(50 * time.Millisecond) {
		select {
		case <-p.exited:
			if strings.Contains(p.out.String(), "address already in use") {
				missing(r.t, "a port is taken: "+p.out.tail(3))
			}
			r.t.Fatal("it ended")
		default:
		}
		if time.Now().After(end) {
			r.t.Fatal("it does not serve")
		}
	}
	p.serves(r.t, "tcp", "127.0.0.1:2525")
	return p
}

// do runs the lines of a block. A line that looks for mail is patient, as a
// person who types it is slow.
func (r *reader) do(block string) (out string) {
	r.t.Helper()
	for line := range strings.Lines(block) {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			b, err := r.shell(line).CombinedOutput()
			if err == nil {
				out += string(b)
				break
			}
			if !strings.HasPrefix(line, "cat ") || time.Now().After(end) {
				r.t.Fatalf("%s%v\n%s", line, err, last(string(b), 60))
			}
		}
	}
	return out
}

func (r *reader) box(path string) string { return filepath.Join(r.dir, "mail", path) }

// TestReadme: in a fresh clone, with nothing but what the README says, someone
// receives a first message, submits one with a password over TLS, sees one
// arrive at another server, and edits the configuration while mail flows.
func TestReadme(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the server in a fresh clone")
	}
	r := newReader(t)
	p := r.serve(r.block("go run ./cmd/caddy run"))

	out := r.do(r.block("swaks --server 127.0.0.1:2525"))
	contains(t, out, "Return-Path: <bob@elsewhere.test>", "This is a test mailing")

	submit := r.block("swaks --server 127.0.0.1:2587")
	contains(t, r.do(submit), "with ESMTPSA", "This is a test mailing")

	r.openssl(r.block("openssl s_client"))
	got(t, r.box("example.test/alice"), "by hand")

	r.reload(p)
	p.stop()

	t.Run("another server", func(t *testing.T) {
		to := newPostfix(t, "127.0.0.1:1025", "virtual_mailbox_domains = elsewhere.test", "virtual_mailbox_base = DIR/mail",
			"virtual_mailbox_maps = static:someone/", "virtual_uid_maps = static:65534", "virtual_gid_maps = static:65534")
		to.start()
		p := r.serve(r.block("RELAY_TO=127.0.0.1:1025 "))
		line, _, _ := strings.Cut(submit, "\n")
		r.do(line)
		contains(t, arrive(t, to.box("someone"), 1)[0], "Return-Path: <alice@example.test>", "with ESMTPSA", "This is a test mailing")
		p.stop()
	})
}

// openssl types a dialogue, and waits for the answer of each line.
func (r *reader) openssl(block string) {
	r.t.Helper()
	line, dialogue, _ := strings.Cut(block, "\n")
	cmd := r.shell(line)
	in, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p := start(r.t, "openssl", cmd)
	time.Sleep(time.Second) // it says nothing when it is ready
	seen := len(p.out.String())
	reply := regexp.MustCompile(`(?m)^(\d\d\d) .*\n`)
	content := false
	for said := range strings.Lines(dialogue) {
		fmt.Fprint(in, said)
		verb, _, _ := strings.Cut(strings.TrimSpace(said), " ")
		want := map[string]string{"AUTH": "235", "DATA": "354", "QUIT": "221"}[verb]
		switch {
		case content && verb != ".":
			continue
		case want == "":
			want = "250"
		}
		content = verb == "DATA"
		var m []string
		for end := time.Now().Add(10 * time.Second); m == nil; time.Sleep(10 * time.Millisecond) {
			if m = reply.FindStringSubmatch(p.out.String()[seen:]); m == nil && time.Now().After(end) {
				r.t.Fatalf("no answer to %s\n%s", said, p.out.String())
			}
		}
		if m[1] != want {
			r.t.Fatalf("%s%s", said, p.out.String())
		}
		seen += strings.Index(p.out.String()[seen:], m[0]) + len(m[0])
	}
	in.Close()
}

// reload gives bob a mailbox while mail flows to alice. Nothing is lost.
func (r *reader) reload(p *process) {
	t := r.t
	t.Helper()
	var stop atomic.Bool
	sent := make(chan []string)
	for n := range 4 {
		go func() {
			var acked []string
			for i := 0; !stop.Load(); i++ {
				subject := fmt.Sprintf("flow %d %d", n, i)
				switch err := trySend("127.0.0.1:2525", "bob@elsewhere.test", []string{login}, subject); {
				case err == nil:
					acked = append(acked, subject)
				case strings.HasPrefix(err.Error(), "421"): // an orderly end, to come again
				default:
					t.Errorf("%s: %v", subject, err)
				}
				time.Sleep(5 * time.Millisecond)
			}
			sent <- acked
		}()
	}
	send(t, "127.0.0.1:2525", "bob@elsewhere.test", "bob@example.test", "before bob is known")
	file := filepath.Join(r.dir, "examples/quickstart.caddyfile")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(text), "\t\talice alice\n", "\t\talice alice\n\t\tbob bob\n", 1)
	edited = strings.Replace(edited, "\t\t\talice@example.test\n\t\t}", "\t\t\talice@example.test\n\t\t\tbob@example.test\n\t\t}", 1)
	if strings.Count(edited, "bob") != 3 {
		t.Fatal("the quickstart is not what it was; edit another line of it")
	}
	if err := os.WriteFile(file, []byte(edited), 0o644); err != nil {
		t.Fatal(err)
	}
	r.do(r.block("go run ./cmd/caddy reload"))
	send(t, "127.0.0.1:2525", "bob@elsewhere.test", "bob@example.test", "now bob is known")
	time.Sleep(500 * time.Millisecond)
	stop.Store(true)
	var acked []string
	for range 4 {
		acked = append(acked, <-sent...)
	}
	got(t, r.box("example.test/bob"), "now bob is known")
	got(t, r.box("example.test/alice"), "before bob is known")

	var subjects []string
	wait(t, "the flow to arrive", func() bool {
		subjects = nil
		for _, path := range maildir(t, r.box("example.test/alice")) {
			if m := parse(t, path); m != nil && strings.HasPrefix(m.Header.Get("Subject"), "flow ") {
				subjects = append(subjects, m.Header.Get("Subject"))
			}
		}
		return len(subjects) >= len(acked)
	})
	there := map[string]int{}
	for _, s := range subjects {
		there[s]++
	}
	for _, s := range acked {
		if there[s] != 1 {
			t.Errorf("%s was taken, and is there %d times", s, there[s])
		}
	}
	t.Logf("%d messages while it was reloaded", len(acked))
	if len(acked) < 20 {
		t.Errorf("only %d messages were sent meanwhile", len(acked))
	}
	if err := p.cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the server: %v", err)
	}
}
