package tests

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A queuedMail is an entry as the admin API shows it.
type queuedMail struct {
	ID         string
	Recipients []struct {
		Address, Agent, Reason string
		Held                   bool
		Attempts               int
		History                []struct{ Reply, Agent, At string }
	}
}

// deferred is a host whose relay reaches nobody, with n entries for far.test and
// one for near.test, all tried once.
func deferred(t *testing.T, n int) (h *host, ids []string) {
	h = newHost(t)
	h.load(fmt.Sprintf(`server out ADDR(out) {
		tls off
		relay 127.0.0.1:%d {
			tls off
			trust 127.0.0.1
		}
	}
	agent other discard`, freePort(t)))
	for i := range n {
		ids = append(ids, strings.Fields(greet(t, h.addr("out")).send("a@b.test", fmt.Sprintf("x%d@far.test", i), "x"))[4])
	}
	ids = append(ids, strings.Fields(greet(t, h.addr("out")).send("a@b.test", "y@near.test", "x"))[4])
	wait(t, "attempts", func() bool {
		list := h.queue("")
		return len(list) == n+1 && list[0].Recipients[0].Attempts > 0
	})
	return h, ids
}

func (h *host) queue(query string) (list []queuedMail) {
	h.t.Helper()
	if code := h.get("/smtp/queue?"+query, &list); code != http.StatusOK {
		h.t.Fatalf("%s: %d", query, code)
	}
	return list
}

// operate posts to the queue and returns the status and the lines of the answer.
func (h *host) operate(path string) (status int, lines []map[string]any) {
	h.t.Helper()
	resp := h.ask(http.MethodPost, "/smtp/queue"+path)
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		m := map[string]any{}
		if err := json.Unmarshal(s.Bytes(), &m); err != nil {
			h.t.Fatalf("%s: %v: %s", path, err, s.Text())
		}
		lines = append(lines, m)
	}
	return resp.StatusCode, lines
}

// TestQueueOperations: each deed by the admin API, by id and by filter.
func TestQueueOperations(t *testing.T) {
	h, ids := deferred(t, 2)
	id := ids[0]
	for path, want := range map[string]int{
		"/nothing/hold": 404, "/" + id + "/eat": 404, "/" + id + "/hold?now=1": 400, "/" + id + "/reassign": 400, "/" + id + "/reassign?to=nobody": 400,
		"?do=hold": 400, "?all=true": 400, "?do=eat&all=true": 400, "?do=hold&all=true&domain=x.test": 400, "?do=hold&limit=1": 400,
		"?do=hold&domian=x.test": 400, "?do=delete&report=perhaps&all=true": 400, "?do=hold&older=never": 400, "?do=hold&held=perhaps": 400,
		"?do=delete&domain=": 400, "?do=delete&sender=": 400, "?do=delete&reply=&domain=far.test": 400, "?do=delete&domain=near.test&domain=far.test": 400,
		"?do=delete&do=hold&all=true": 400, "?do=delete&all=true&all=false": 400, "/" + id + "/reassign?to=other&to=out.relay": 400,
	} {
		if code, _ := h.operate(path); code != want {
			t.Errorf("%s: got %d, want %d", path, code, want)
		}
	}
	if code, _ := h.operate("/" + id + "/hold"); code != 200 {
		t.Errorf("hold: %d", code)
	}
	if got := h.queue("held=true"); len(got) != 1 || got[0].ID != id || got[0].Recipients[0].Reason != "by an operator" {
		t.Errorf("got %+v", got)
	}
	var one queuedMail
	h.get("/smtp/queue/"+id, &one)
	if hist := one.Recipients[0].History; len(hist) != 1 || !strings.HasPrefix(hist[0].Reply, "451 4.4.1") || hist[0].Agent != "out.relay" || hist[0].At == "" {
		t.Errorf("got %+v", one)
	}
	var content string
	if code := h.get("/smtp/queue/"+id+"/message", &content); code != 200 || !strings.HasPrefix(content, "Received: ") {
		t.Errorf("got %d, %q", code, content)
	}
	if h.get("/smtp/queue/nothing/message", nil) != 404 {
		t.Error("there is content of nothing")
	}
	code, lines := h.operate("?do=release&held=true")
	if last := lines[len(lines)-1]; code != 200 || last["finished"] != true || last["entries"] != 1.0 || last["recipients"] != 1.0 {
		t.Errorf("got %d, %v", code, lines)
	}
	if _, lines = h.operate("?do=reassign&to=other&domain=near.test"); lines[len(lines)-1]["entries"] != 1.0 {
		t.Errorf("got %v", lines)
	}
	wait(t, "the other agent", func() bool { return len(h.queue("domain=near.test")) == 0 })
	if _, lines = h.operate("?do=delete&all=true"); lines[len(lines)-1]["entries"] != 2.0 {
		t.Errorf("got %v", lines)
	}
	if got := h.queue(""); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestQueueCommand: the same from the shell, with its exit codes.
func TestQueueCommand(t *testing.T) {
	h, ids := deferred(t, 2)
	caddy := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.Command(caddyBinary(t), append([]string{"smtp", "queue", "--address", h.admin}, args...)...)
		out, err := cmd.CombinedOutput()
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if code != want {
			t.Errorf("%q: exit code %d, want %d:\n%s", args, code, want, out)
		}
		return string(out)
	}
	if out := caddy(0); strings.Count(out, "\n") != 4 || !strings.Contains(out, ids[0]) || !strings.Contains(out, "451 4.4.1") {
		t.Errorf("got\n%s", out)
	}
	if out := caddy(0, "list", "--json", "--domain", "near.test"); strings.Count(out, "\n") != 1 || !strings.Contains(out, `"y@near.test"`) {
		t.Errorf("got\n%s", out)
	}
	if out := caddy(0, "show", ids[0]); !strings.Contains(out, `"history"`) {
		t.Errorf("got\n%s", out)
	}
	if out := caddy(0, "show", "--content", ids[0]); !strings.HasPrefix(out, "Received: ") {
		t.Errorf("got\n%s", out)
	}
	caddy(4, "show", "nothing")
	caddy(0, "hold", ids[0], ids[1])
	if out := caddy(0, "list", "--held"); strings.Count(out, "held: by an operator") != 2 {
		t.Errorf("got\n%s", out)
	}
	caddy(0, "release", "--held")
	caddy(0, "retry", ids[0])
	caddy(1, "retry")
	caddy(1, "retry", ids[0], "--domain", "far.test")
	caddy(1, "delete", "--yes", "--domain", "")
	caddy(1, "delete", "--yes", "--domain", "", "--sender", "a@b.test")
	caddy(1, "reassign", ids[0])
	caddy(1, "reassign", ids[0], "--to", "nobody")
	caddy(4, "hold", "--sender", "nobody@b.test")
	caddy(4, "hold", "nothing")
	dir := filepath.Join(t.TempDir(), "mail")
	caddy(0, "export", "--domain", "far.test", "--dir", dir)
	caddy(1, "export", ids[0], "--dir", dir) // it is there
	if b, err := os.ReadFile(filepath.Join(dir, ids[1]+".eml")); err != nil || !strings.HasPrefix(string(b), "Received: ") {
		t.Errorf("got %v, %q", err, b)
	}
	if out := caddy(1, "delete", "--domain", "far.test"); !strings.Contains(out, "2 entries match") || len(h.queue("")) != 3 {
		t.Errorf("got\n%s", out)
	}
	caddy(0, "delete", "--domain", "far.test", "--yes")
	if got := h.queue(""); len(got) != 1 {
		t.Errorf("got %+v", got)
	}
	caddy(0, "delete", ids[2], "--report")
	wait(t, "a DSN", func() bool {
		got := h.queue("sender=" + url.QueryEscape("<>"))
		return len(got) == 1 && got[0].Recipients[0].Address == "a@b.test"
	})
}

// TestQueueProgress: a line for each batch.
func TestQueueProgress(t *testing.T) {
	if testing.Short() {
		t.Skip("many messages")
	}
	h, _ := deferred(t, 1)
	k := greet(t, h.addr("out"))
	for i := range 600 {
		if i%90 == 0 { // messages a session
			k = greet(t, h.addr("out"))
		}
		k.send("a@b.test", fmt.Sprintf("x%d@far.test", i), "x")
	}
	_, lines := h.operate("?do=hold&domain=far.test")
	if len(lines) != 3 || lines[0]["entries"] != 500.0 || lines[2]["entries"] != 601.0 || lines[2]["finished"] != true {
		t.Errorf("got %v", lines)
	}
	_, lines = h.operate("?do=delete&held=true")
	if last := lines[len(lines)-1]; last["entries"].(float64)+float64(len(h.queue(""))) != 602 {
		t.Errorf("got %v; %d are left", lines, len(h.queue("")))
	}
}

// TestFreeSpaceAtReload: what is to stay free is what the configuration in force
// says, also when one that was tried has failed.
func TestFreeSpaceAtReload(t *testing.T) {
	h := newHost(t)
	server := "server in ADDR(in) {\ntls off\ndeliver discard\n}"
	const none, all = "queue {\nfree_space 1\n}\n", "queue {\nfree_space 1000000000000000\n}\n"
	code := func() string {
		k := greet(t, h.addr("in"))
		k.say("250", "MAIL FROM:<a@b.test>")
		k.say("250", "RCPT TO:<x@y.test>")
		k.say("354", "DATA")
		return k.say("", "Subject: x\r\n\r\nx\r\n.")[:9]
	}
	h.load(none + server)
	if got := code(); got != "250 2.0.0" {
		t.Errorf("got %s", got)
	}
	h.load(all + server)
	if got := code(); got != "452 4.3.1" {
		t.Errorf("got %s", got)
	}
	if err := h.try(none+server+"\nserver other "+h.addr("in")+" {\ntls off\n}", ""); err == nil {
		t.Fatal("one address for two servers")
	}
	if got := code(); got != "452 4.3.1" {
		t.Errorf("after a reload that failed: got %s", got)
	}
	h.load(none + server)
	if got := code(); got != "250 2.0.0" {
		t.Errorf("got %s", got)
	}
}
