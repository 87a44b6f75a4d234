package tests

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/userfile"
)

// users runs `caddy smtp user` with a line on standard input.
func users(t testing.TB, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := command(t, caddyBinary(t), append([]string{"smtp", "user"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// must is users where nothing may go wrong.
func must(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, errs, err := users(t, stdin, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, errs)
	}
	return out
}

func text(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestUserCommand goes through what an administrator does.
func TestUserCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	if out := must(t, "correct horse\n", "add", "Alice@Example.org", "--file", file, "--password-stdin", "--address", "alice@example.org", "--address", "*@example.net"); out != "" {
		t.Error(out)
	}
	line := regexp.MustCompile(`^alice@example\.org:\$argon2id\$\S+ SCRAM-SHA-256\$\S+ created=20\S+Z address=alice@example\.org address=\*@example\.net\n$`)
	if got := text(t, file); !line.MatchString(got) {
		t.Error(got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	password := strings.TrimSpace(must(t, "", "add", "alice@example.org", "--name", "phone", "--file", file))
	if !regexp.MustCompile(`^([a-z2-7]{5}-){3}[a-z2-7]{5}$`).MatchString(password) || strings.Contains(text(t, file), password) {
		t.Errorf("%q\n%s", password, text(t, file))
	}
	list := must(t, "", "list", "--file", file)
	contains(t, list, "alice@example.org  -", "phone", "argon2id SCRAM-SHA-256", "alice@example.org *@example.net")
	if strings.Contains(list, "$") {
		t.Error("a secret is shown:", list)
	}

	before := text(t, file)
	must(t, "battery staple", "passwd", "alice@example.org", "--file", file, "--password-stdin", "--algorithm", "bcrypt", "--no-scram")
	if after := strings.Split(text(t, file), "\n"); !strings.HasPrefix(after[0], "alice@example.org:$2a$14$") || strings.Contains(after[0], "SCRAM") || after[1] != strings.Split(before, "\n")[1] {
		t.Error(after)
	}
	must(t, "", "revoke", "alice@example.org", "phone", "--file", file)
	if got := must(t, "", "list", "--file", file, "ALICE@example.org"); strings.Contains(got, "phone") {
		t.Error(got)
	}
	must(t, "", "delete", "alice@example.org", "--file", file)
	if got := text(t, file); got != "" {
		t.Error(got)
	}
}

// TestUserCommandRefuses: nothing is changed, and no password is on the way.
func TestUserCommandRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "users")
	const before = "alice:$2a$04$nXtTyqKxN/yeLmcuWVU5jODeSkqHIRJcUGJbzQsNyLXNNyjkYHPZe\n"
	if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, stdin, want string
	}{
		{"add bob hunter2hunter2", "", "accepts 1 arg(s), received 2"},
		{"add bob --password hunter2hunter2", "", "unknown flag: --password"},
		{"add bob", "hunter2hunter2\n", "standard input is no terminal: give --password-stdin or --generate"},
		{"add bob --generate --password-stdin", "", "none of the others can be"},
		{"add bob --password-stdin", "", "no password on standard input"},
		{"add bob --password-stdin", "short\n", "too short; at least 8"},
		{"add alice --password-stdin", "hunter2hunter2\n", "user 'alice' is there already"},
		{"add bob --name tv", "", "there is no such user; add him without --name first"},
		{"add alice --name .tv", "", "name of a secret is not"},
		{"add a:b --generate", "", "a colon"},
		{"add #a --generate", "", "begins with #"},
		{"add bob --generate --address bob", "", "neither an address nor *@domain"},
		{"add bob --generate --algorithm md5", "", "no algorithm 'md5'"},
		{"add bob --generate --plain", "", "everybody may read the passwords in it (mode 0644)"},
		{"passwd bob --generate", "", "'bob': there is no such user"},
		{"passwd alice --name tv --generate", "", "no secret of that name"},
		{"delete bob", "", "'bob': there is no such user"},
		{"revoke alice tv", "", "user 'alice' has no secret 'tv'"},
		{"revoke alice", "", "accepts 2 arg(s), received 1"},
		{"list bob", "", "'bob': there is no such user"},
		{"list --file " + dir + "/none", "", "no such file"},
	} {
		args := strings.Fields(tt.args)
		if !strings.Contains(tt.args, "--file") {
			args = append(args, "--file", file)
		}
		out, errs, err := users(t, tt.stdin, args...)
		if err == nil || !strings.Contains(errs, tt.want) || strings.Contains(out+errs, "goroutine") {
			t.Errorf("%s: %v\n%s%s\nwant %s", tt.args, err, out, errs, tt.want)
		}
		if strings.Contains(tt.stdin, "hunter2") && strings.Contains(out+errs, "hunter2") {
			t.Errorf("%s: the password is shown:\n%s%s", tt.args, out, errs)
		}
	}
	if got := text(t, file); got != before {
		t.Error(got)
	}
	if _, errs, err := users(t, "", "add", "a b", "--generate", "--file", file); err == nil || !strings.Contains(errs, "not the name of a user") {
		t.Error(errs, err)
	}
}

// TestUserCommandsAtOnce: none of them is lost, and mode and comments stay.
func TestUserCommandsAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("# ours\n\n# end\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	caddyBinary(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if _, errs, err := users(t, "correct horse\n", "add", fmt.Sprint("user", i), "--file", file, "--password-stdin"); err != nil {
				t.Errorf("%v %s", err, errs)
			}
		})
	}
	wg.Wait()
	got := text(t, file)
	if strings.Count(got, "\nuser") != 4 || !strings.HasPrefix(got, "# ours\n\n# end\n") {
		t.Error(got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Error(info.Mode(), err)
	}
}

// TestUserOfRunningServer: the file is that of the configuration; a server sees new
// users and revoked passwords by itself, and says when they were used.
func TestUserOfRunningServer(t *testing.T) {
	dir := folder(t)
	file := filepath.Join(dir, "users")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := runCaddy(t, strings.ReplaceAll(`
		agent local discard
		server submission ADDR(mx) {
			tls internal
			plaintext_auth
			limits {
				failed_auth none
			}
			auth file USERS
			deliver local
		}
	`, "USERS", file))
	must(t, "correct horse\n", "add", "alice", "--config", p.file, "--password-stdin")
	app := strings.TrimSpace(must(t, "", "add", "alice", "--config", p.file, "--name", "phone"))
	offered := func() string { return dialEHLO(t, p.addr("mx")) }
	wait(t, "SCRAM for the new user", func() bool { return strings.Contains(offered(), "SCRAM-SHA-256") })
	for _, password := range []string{"correct horse", app} { // the file is read again now and then
		wait(t, "a login of alice", func() bool {
			k := greet(t, p.addr("mx"))
			defer k.conn.Close()
			k.conn.Write([]byte("AUTH PLAIN " + base64Of("\x00alice\x00"+password) + "\r\n"))
			r, err := k.reply()
			return err == nil && strings.HasPrefix(r, "235")
		})
	}
	must(t, "", "revoke", "alice", "phone", "--config", p.file)
	k := greet(t, p.addr("mx"))
	wait(t, "the end of the app password", func() bool {
		k.conn.Write([]byte("AUTH PLAIN " + base64Of("\x00alice\x00"+app) + "\r\n"))
		r, err := k.reply()
		if err == nil && strings.HasPrefix(r, "235") {
			k = greet(t, p.addr("mx"))
		}
		return err == nil && strings.HasPrefix(r, "535")
	})
	k.conn.Close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
	list := must(t, "", "list", "--config", p.file)
	if !regexp.MustCompile(`alice +- +argon2id SCRAM-SHA-256 +20\S+ \S+ +20\S+ `).MatchString(list) {
		t.Error(list)
	}
}

// dialEHLO returns the reply to EHLO.
func dialEHLO(t testing.TB, addr string) string {
	t.Helper()
	k := dial(t, addr)
	defer k.conn.Close()
	k.want("220")
	return k.say("250", "EHLO client.test")
}

// TestExampleUsers: the file that the examples name has a user, so that they show
// what they are meant to.
func TestExampleUsers(t *testing.T) {
	f, err := userfile.Parse([]byte(text(t, "../examples/mail-users")))
	if err != nil || len(f.Of("alice@example.org")) != 1 {
		t.Errorf("%v, %d entries", err, len(f.Entries))
	}
}
