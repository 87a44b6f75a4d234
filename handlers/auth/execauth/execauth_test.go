//go:build unix

package execauth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func provision(t *testing.T, s *Source) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		return err
	}
	return s.Validate()
}

// script is a source that runs a shell script.
func script(t *testing.T, text string, change ...func(*Source)) *Source {
	t.Helper()
	s := &Source{Command: []string{"/bin/sh", "-c", text}}
	for _, c := range change {
		c(s)
	}
	if err := provision(t, s); err != nil {
		t.Fatal(err)
	}
	return s
}

const answers = `{"user":"Alice","addresses":["*@a.test"],"attributes":{"quota":7}}`

func TestInput(t *testing.T) {
	ctx := login.WithClient(t.Context(), login.Client{Remote: netip.MustParseAddrPort("192.0.2.1:99"), Mechanism: "PLAIN"})
	for input, read := range map[string]string{
		inputLines:         `read -r u; read -r p; read -r ip; read -r m; [ "$u $p $ip $m $SMTP_REMOTE_IP $SMTP_MECHANISM" = 'al $p w" 192.0.2.1 PLAIN 192.0.2.1 PLAIN' ] || exit 1`,
		inputNull:          `[ "$(tr '\0' '|')" = 'al|$p w"|192.0.2.1|PLAIN|' ] || exit 1`,
		inputCheckpassword: `[ "$(tr '\0' '|' <&3 | sed 's/[0-9]*|$//')" = 'al|$p w"|' ] && [ "$TCPREMOTEIP" = 192.0.2.1 ] || exit 1`,
	} {
		s := script(t, read+"; echo '"+answers+"'", func(s *Source) { s.Input = input })
		id, known, err := s.CheckPassword(ctx, "al", `$p w"`)
		if err != nil || !known || !reflect.DeepEqual(id, &login.Identity{User: "alice", Addresses: []string{"*@a.test"}, Attributes: map[string]string{"quota": "7"}}) {
			t.Errorf("%s: %+v %v %v", input, id, known, err)
		}
		if id, known, err := s.CheckPassword(ctx, "al", "other"); id != nil || !known || err != nil {
			t.Errorf("%s: %+v %v %v", input, id, known, err)
		}
	}
}

// TestNotAsked: what cannot be told to the program is not.
func TestNotAsked(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	for _, c := range [][3]string{{"", "x", inputLines}, {"a", "", inputLines}, {"a", "x\ny", inputLines}, {"a", "x\r", inputLines}, {"a\nb", "x", inputLines}, {"a", "x\x00", inputNull}, {"a", strings.Repeat("x", maxPassword+1), inputLines}} {
		s := script(t, "touch "+ran, func(s *Source) { s.Input = c[2] })
		if id, known, err := s.CheckPassword(t.Context(), c[0], c[1]); id != nil || known || err != nil {
			t.Errorf("%q: %v %v %v", c, id, known, err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("it ran")
	}
	s := script(t, `[ "$(tr '\0\n' '|_')" = 'a|x_y|||' ]`, func(s *Source) { s.Input = inputNull })
	if id, _, err := s.CheckPassword(t.Context(), "a", "x\ny"); id == nil || err != nil {
		t.Error(id, err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CANARY", "canary")
	s := script(t, `[ "$A$B" = xcanary ] && [ -z "$CANARY$HOME" ] && [ "$PWD" = / ] || exit 1`, func(s *Source) { s.Env = map[string]string{"A": "x", "B": "{env.CANARY}"} })
	if id, _, err := s.CheckPassword(t.Context(), "a", "b"); err != nil || !reflect.DeepEqual(id, &login.Identity{User: "a"}) {
		t.Error(id, err)
	}
}

func TestExit(t *testing.T) {
	for text, want := range map[string]struct {
		known bool
		fault string
	}{
		"exit 1": {true, ""}, "exit 2": {false, ""}, "exit 3": {false, ""}, "echo '" + answers + "'; exit 1": {true, ""},
		"exit 75": {false, "ends with 75"}, "exit 111": {false, "ends with 111"}, "exit 4": {false, "ends with 4"}, "exit 255": {false, "ends with 255"}, "kill -9 $$": {false, "by a signal"},
		"echo no": {true, "not an identity"}, "echo '{}'": {true, "no user"}, "yes": {false, "too much"}, "exec /nonexistent": {false, "ends with 12"},
	} {
		id, known, err := script(t, text).CheckPassword(t.Context(), "a", "b")
		if id != nil || known != want.known || (err != nil) != (want.fault != "") || err != nil && !strings.Contains(err.Error(), want.fault) {
			t.Errorf("%s: %v %v %v", text, id, known, err)
		}
	}
	s := &Source{Command: []string{"/nonexistent/program"}}
	if err := provision(t, s); err != nil {
		t.Fatal(err)
	}
	if id, known, err := s.CheckPassword(t.Context(), "a", "b"); id != nil || known || err == nil {
		t.Error(id, known, err)
	}
	// It does not have to read what it is told.
	if id, _, err := script(t, "exec <&-; exit 0").CheckPassword(t.Context(), "a", strings.Repeat("x", maxPassword)); id == nil || err != nil {
		t.Error(id, err)
	}
}

func alive(pid string) bool {
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	return err == nil && syscall.Kill(n, 0) == nil
}

// TestTimeout: all of its processes end.
func TestTimeout(t *testing.T) {
	for name, text := range map[string]string{"waits": "sleep 60 & echo $! >%s; wait", "leaves": "sleep 60 & echo $! >%s; exit 0"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "pid")
			s := script(t, fmt.Sprintf(text, file), func(s *Source) { s.Timeout = caddy.Duration(3 * time.Second) })
			began := time.Now()
			id, known, err := s.CheckPassword(t.Context(), "a", "b")
			if id != nil || known || err == nil || time.Since(began) > 30*time.Second {
				t.Error(id, known, err, time.Since(began))
			}
			pid, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(10 * time.Second); alive(string(pid)) && !zombie(string(pid)); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("a process is left")
				}
			}
		})
	}
}

// zombie reports whether a process only waits to be noticed by init.
func zombie(pid string) bool {
	b, err := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
	return err == nil && strings.Contains(string(b), ") Z ")
}

func TestConcurrency(t *testing.T) {
	dir := t.TempDir()
	s := script(t, "mkdir "+dir+"/one || exit 9; sleep 0.01; rmdir "+dir+"/one", func(s *Source) { s.Concurrency = 1; s.Timeout = caddy.Duration(time.Minute) })
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if id, _, err := s.CheckPassword(context.Background(), "a", "b"); id == nil || err != nil {
				t.Error(id, err)
			}
		})
	}
	wg.Wait()
	s.slots <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := s.CheckPassword(ctx, "a", "b"); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
}

// TestLeaks: 200 logins leave neither goroutines nor files behind.
func TestLeaks(t *testing.T) {
	count := func() (goroutines, files int) {
		runtime.GC()
		list, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(list)
	}
	g, f := count()
	for i := range 200 {
		s := script(t, "exit "+strconv.Itoa(i%4), func(s *Source) {
			if i%2 == 0 {
				s.Input = inputCheckpassword
			}
		})
		if _, _, err := s.CheckPassword(t.Context(), "a", "b"); err != nil {
			t.Fatal(err)
		}
	}
	if g2, f2 := count(); g2 > g+2 || f2 > f+2 {
		t.Errorf("goroutines %d, were %d; files %d, were %d", g2, g, f2, f)
	}
}

func TestConfigurationErrors(t *testing.T) {
	for want, s := range map[string]*Source{
		"not an absolute path": {}, "is not an absolute": {Command: []string{"true"}}, "input 'json'": {Command: []string{"/a"}, Input: "json"}, "timeout is": {Command: []string{"/a"}, Timeout: -1},
		"concurrency is": {Command: []string{"/a"}, Concurrency: -1}, "env 'x': ": {Command: []string{"/a"}, Env: map[string]string{"x": "{env.NO_SUCH_VARIABLE}"}},
		"'a=b' is not": {Command: []string{"/a"}, Env: map[string]string{"a=b": ""}}, "an absolute path": {Command: []string{"{env.NO_SUCH_VARIABLE}"}},
	} {
		if err := provision(t, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"exec /bin/check -x {\ninput null\nenv A b\nconcurrency 2\ntimeout 1s\n}": `{"command":["/bin/check","-x"],"input":"null","env":{"A":"b"},"concurrency":2,"timeout":1000000000}`,
		"exec":                          "wrong argument count or unexpected line ending after 'exec', at Testfile:1",
		"exec a {\nenv A\n}":            "wrong argument count or unexpected line ending after 'A', at Testfile:2",
		"exec a {\nenv A b\nenv A b\n}": "variable 'A' is given twice, at Testfile:3",
		"exec a {\nshell\n}":            "unrecognized option 'shell', at Testfile:2",
	} {
		s := new(Source)
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(s)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
