package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A step is a line that the client says, and how the reply begins.
type step struct{ say, want string }

// message is a whole transaction that is to be accepted.
func transaction(from, to, content string) []step {
	return []step{
		{"MAIL FROM:<" + from + ">", "250"}, {"RCPT TO:<" + to + ">", "250"}, {"DATA", "354"}, {content + "\r\n.", "250"},
	}
}

const note = "From: <a@b.test>\r\nSubject: note\r\n\r\nhello"

// TestRoutes: each handler and matcher at work, from the Caddyfile to the
// socket. {mail} in want is what the Maildir of alice has to contain.
func TestRoutes(t *testing.T) {
	const deliver = "\ndeliver local {\n users inline {\n alice@example.test\n }\n}"
	big := note + strings.Repeat("\r\n"+strings.Repeat("x", 70), 300)
	for name, tc := range map[string]struct {
		server string
		steps  []step
		mail   string
	}{
		"remote_ip":         {"@x remote_ip 127.0.0.0/8\nreject @x 554 5.7.1 \"go away\"" + deliver, []step{{"", "554 5.7.1 go away"}}, ""},
		"remote_ip, other":  {"@x remote_ip 192.0.2.0/24\nreject @x" + deliver, []step{{"", "220"}}, ""},
		"local_port":        {"@x local_port PORT\nreject @x" + deliver, []step{{"", "554"}}, ""},
		"local_port, other": {"@x local_port 1\nreject @x" + deliver, []step{{"", "220"}}, ""},
		"helo":              {"@x helo *.bad.test\nreject @x 550 5.7.1 \"not {smtp.helo}\"" + deliver, []step{{"", "220"}, {"EHLO a.bad.test", "550 5.7.1 not a.bad.test"}, {"EHLO a.good.test", "250"}}, ""},
		"tls":               {"@x not tls\nreject @x 530 5.7.0 \"STARTTLS first\"" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "530 5.7.0"}}, ""},
		"authenticated":     {"@x not authenticated\nreject @x 530 5.7.0 \"who are you?\"" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "530 5.7.0"}}, ""},
		"mail_from":         {"@x mail_from spam@bad.test *@worse.test\nreject @x" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<spam@bad.test>", "550"}, {"MAIL FROM:<x@worse.test>", "550"}, {"MAIL FROM:<ham@bad.test>", "250"}}, ""},
		"null reverse-path": {"@x mail_from <>\nreject @x" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<>", "550"}, {"MAIL FROM:<a@b.test>", "250"}}, ""},
		"mail_from_domain":  {"@x mail_from_domain *.bücher.test\nreject @x" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@a.xn--bcher-kva.test>", "550"}, {"MAIL FROM:<a@b.test>", "250"}}, ""},
		"rcpt":              {"@x rcpt alice@example.test\nreject @x" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<alice@example.test>", "550"}}, ""},
		"size":              {"@x size {\n min 10KiB\n}\nreject @x 552 5.3.4 \"too much\"" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<alice@example.test>", "250"}, {"DATA", "354"}, {big + "\r\n.", "552 5.3.4"}}, transaction("a@b.test", "alice@example.test", note)...), "Subject: note"},
		"header":            {"@x header Subject *viagra*\nreject @x" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<alice@example.test>", "250"}, {"DATA", "354"}, {"Subject: buy viagra now\r\n\r\n.", "550"}}, transaction("a@b.test", "alice@example.test", note)...), "Subject: note"},
		"expression":        {"@x expression `helo == \"x.test\" && mail_from_domain in [\"bad.test\"]`\nreject @x" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@bad.test>", "550"}, {"MAIL FROM:<a@b.test>", "250"}}, ""},
		"defer":             {"@x mail_from_domain slow.test\ndefer @x 451 4.7.1 \"later\"" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@slow.test>", "451 4.7.1 later"}, {"MAIL FROM:<a@b.test>", "250"}}, ""},
		"annotate":          {"@x mail_from_domain bad.test\nreject @x {\n annotate\n}\nheader X-Judged {smtp.result.reject}" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@bad.test", "alice@example.test", note)...), "X-Judged: 550"},
		"discard":           {"@x rcpt_domain gone.test\ndiscard @x" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@b.test", "x@gone.test", note)...), ""},
		"aliases":           {"aliases inline {\n postmaster alice@example.test\n @all.test alice@example.test\n dead nobody@example.test\n}" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<dead@example.test>", "550 5.1.1"}, {"RSET", "250"}}, transaction("a@b.test", "postmaster@example.test", note)...), "Delivered-To: alice@example.test"},
		"catch-all alias":   {"aliases inline {\n @all.test alice@example.test\n}" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@b.test", "who@all.test", note)...), "Delivered-To: alice@example.test"},
		"alias loop":        {"aliases inline {\n a@example.test b@example.test\n b@example.test a@example.test\n}" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<a@example.test>", "5"}}, ""},
		"rewrite rcpt":      {"rewrite rcpt *@old.test alice@example.test" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@b.test", "whoever@old.test", note)...), "Subject: note"},
		"rewrite from":      {"rewrite from root@host.test alerts@example.test" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("root@host.test", "alice@example.test", note)...), "Return-Path: <alerts@example.test>"},
		"header field":      {"header X-Client {smtp.remote.ip}\nheader -Subject" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@b.test", "alice@example.test", note)...), "X-Client: 127.0.0.1"},
		"nested":            {"@ours rcpt_domain example.test\nroute @ours {\n header X-Route yes\n handle {\n deliver local {\n users inline {\n alice@example.test\n }\n }\n }\n}", append([]step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<x@y.test>", "550"}, {"RSET", "250"}}, transaction("a@b.test", "alice@example.test", note)...), "X-Route: yes"},
		"first match":       {"@ours rcpt_domain example.test\nhandle @ours {\n deliver local {\n users inline {\n alice@example.test\n }\n }\n}\nhandle {\n reject 550 5.1.2 \"not here: {smtp.rcpt}\"\n}", append([]step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<x@y.test>", "550 5.1.2 not here: x@y.test"}, {"RSET", "250"}}, transaction("a@b.test", "alice@example.test", note)...), "Subject: note"},
		"subaddress":        {"deliver local {\n subaddress +\n users inline {\n alice@example.test\n }\n}", append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@b.test", "alice+lists@example.test", note)...), "Subject: note"},
		"regexp table":      {"aliases regexp `(.+)-bounces@example\\.test` alice@example.test" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@b.test", "news-bounces@example.test", note)...), "Subject: note"},
		"chain table":       {"aliases chain {\n inline {\n x@example.test alice@example.test\n }\n file DIR/aliases\n}" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, transaction("a@b.test", "y@example.test", note)...), "Subject: note"},
		"mail loop":         {strings.TrimSpace(deliver), []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<alice@example.test>", "250"}, {"DATA", "354"}, {strings.Repeat("Received: x\r\n", 51) + note + "\r\n.", "554 5.4.6"}}, ""},
		"limits":            {"limits {\n recipients 1\n message_size 1KiB\n}" + deliver, []step{{"", "220"}, {"EHLO x.test", "250"}, {"MAIL FROM:<a@b.test> SIZE=2000", "552"}, {"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<alice@example.test>", "250"}, {"RCPT TO:<alice@example.test>", "452 4.5.3"}}, ""},
		"postmaster":        {"aliases inline {\n postmaster alice@example.test\n}" + deliver, append([]step{{"", "220"}, {"EHLO x.test", "250"}}, step{"MAIL FROM:<a@b.test>", "250"}, step{"RCPT TO:<Postmaster>", "250"}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			if err := os.WriteFile(filepath.Join(h.dir, "aliases"), []byte("y@example.test: alice@example.test\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, port, _ := strings.Cut(h.addr("mx"), ":")
			server := strings.ReplaceAll(tc.server, "PORT", port)
			h.load("agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}\nserver mx ADDR(mx) {\n tls internal\n" + server + "\n}")
			k := dial(t, h.addr("mx"))
			for _, s := range tc.steps {
				if s.say != "" {
					fmt.Fprint(k.conn, s.say+"\r\n")
				}
				if r, err := k.reply(); err != nil || !strings.HasPrefix(r, s.want) {
					t.Fatalf("%.60s: got %q, %v; want %s", s.say, r, err, s.want)
				}
			}
			if tc.mail != "" {
				contains(t, h.inbox("alice", 1)[0], tc.mail)
			}
		})
	}
}

// TestForks: what one recipient's route does to the header, another's copy
// does not show.
func TestForks(t *testing.T) {
	h := newHost(t)
	h.load(`
		agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}
		server mx ADDR(mx) {
			tls off
			@alice rcpt alice@example.test
			header @alice X-For alice
			deliver local {
				users inline {
					alice@example.test
					bob@example.test
				}
			}
		}`)
	k := greet(t, h.addr("mx"))
	for _, s := range []step{
		{"MAIL FROM:<a@b.test>", "250"}, {"RCPT TO:<alice@example.test>", "250"}, {"RCPT TO:<bob@example.test>", "250"},
		{"DATA", "354"}, {note + "\r\n.", "250"},
	} {
		k.say(s.want, "%s", s.say)
	}
	contains(t, h.inbox("alice", 1)[0], "X-For: alice")
	if m := h.inbox("bob", 1)[0]; strings.Contains(m, "X-For") {
		t.Errorf("bob sees it:\n%s", m)
	}
}

// TestTableReloads: a file of aliases is read again when it changes, without a
// reload.
func TestTableReloads(t *testing.T) {
	h := newHost(t)
	file := filepath.Join(h.dir, "aliases")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one@example.test: alice@example.test\n")
	h.load("agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}\nserver mx ADDR(mx) {\n tls off\n limits {\n hard_errors none\n soft_errors none\n}\n aliases file DIR/aliases\n deliver local {\n users inline {\n alice@example.test\n}\n}\n}")
	k := greet(t, h.addr("mx"))
	k.say("250", "MAIL FROM:<a@b.test>")
	k.say("250", "RCPT TO:<one@example.test>")
	k.say("550", "RCPT TO:<two@example.test>")
	write("one@example.test: alice@example.test\ntwo@example.test: alice@example.test\n")
	wait(t, "the new file", func() bool {
		fmt.Fprint(k.conn, "RCPT TO:<two@example.test>\r\n")
		r, err := k.reply()
		time.Sleep(50 * time.Millisecond)
		return err == nil && strings.HasPrefix(r, "250")
	})
}

// TestProxyProtocol: the client's address is the one that the proxy names, in
// both versions of the protocol.
func TestProxyProtocol(t *testing.T) {
	h := newHost(t)
	h.load(`
		agent local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local}
		server mx ADDR(mx) {
			tls off
			listener_wrappers {
				proxy_protocol {
					allow 127.0.0.0/8
				}
			}
			@blocked remote_ip 192.0.2.66
			reject @blocked
			deliver local {
				users inline {
					alice@example.test
				}
			}
		}`)
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + "\xc0\x00\x02\x07" + "\x7f\x00\x00\x01" + "\x30\x39\x00\x19"
	for version, head := range map[string]string{"v1": "PROXY TCP4 192.0.2.7 127.0.0.1 12345 25\r\n", "v2": v2} {
		k := dial(t, h.addr("mx"))
		fmt.Fprint(k.conn, head)
		k.want("220")
		k.say("250", "EHLO client.test")
		k.send("a@b.test", "alice@example.test", version)
	}
	for _, m := range h.inbox("alice", 2) {
		contains(t, m, "([192.0.2.7])")
	}
	k := dial(t, h.addr("mx"))
	fmt.Fprint(k.conn, "PROXY TCP4 192.0.2.66 127.0.0.1 12345 25\r\n")
	k.want("554")
}

// TestUnixSocket serves, with the mode that was asked for.
func TestUnixSocket(t *testing.T) {
	h := newHost(t)
	h.load("server mx unix/DIR/smtp.sock|0600 {\n tls off\n discard\n}")
	st, err := os.Stat(filepath.Join(h.dir, "smtp.sock"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	k := dialUnix(t, filepath.Join(h.dir, "smtp.sock"))
	k.want("220")
	k.say("250", "EHLO client.test")
	k.send("a@b.test", "x@y.test", "over a socket file")
}

// TestQueueAPI: the queue as the admin API shows it.
func TestQueueAPI(t *testing.T) {
	h := newHost(t)
	h.load(fmt.Sprintf("server out ADDR(out) {\n tls off\n relay 127.0.0.1:%d {\n tls off\n trust 127.0.0.1\n}\n}", freePort(t)))
	id := strings.Fields(greet(t, h.addr("out")).send("a@b.test", "x@far.test", "x"))[4]
	type entry struct {
		ID, From   string
		Recipients []struct {
			Address, Agent string
			Attempts       int
			Reply          string `json:"last_reply"`
		}
	}
	var list []entry
	wait(t, "an attempt", func() bool {
		h.get("/smtp/queue", &list)
		return len(list) == 1 && list[0].Recipients[0].Attempts == 1
	})
	if e := list[0]; e.ID != id || e.From != "a@b.test" || e.Recipients[0].Address != "x@far.test" || e.Recipients[0].Agent != "out.relay" || !strings.HasPrefix(e.Recipients[0].Reply, "451 4.4.1") {
		t.Errorf("got %+v", e)
	}
	var one entry
	if code := h.get("/smtp/queue/"+id, &one); code != 200 || one.ID != id {
		t.Errorf("got %d, %+v", code, one)
	}
	for path, want := range map[string]int{
		"/smtp/queue/nothing": 404, "/smtp/queue?domain=far.test": 200, "/smtp/queue?domian=far.test": 400,
		"/smtp/queue?limit=0": 400, "/smtp/queue/" + id + "/retry": 405, "/smtp/queue/" + id + "/eat": 404,
	} {
		if code := h.get(path, nil); code != want {
			t.Errorf("%s: got %d, want %d", path, code, want)
		}
	}
	if h.get("/smtp/queue?domain=near.test", &list); len(list) != 0 {
		t.Errorf("got %+v", list)
	}
	if code := h.post("/smtp/queue/" + id + "/retry"); code != 200 {
		t.Errorf("retry: %d", code)
	}
	wait(t, "another attempt", func() bool {
		h.get("/smtp/queue/"+id, &one)
		return one.Recipients[0].Attempts == 2
	})
}
