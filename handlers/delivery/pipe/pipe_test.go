package pipe

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// provision readies an agent.
func provision(t testing.TB, a *Agent) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := a.Provision(ctx); err != nil {
		return err
	}
	return a.Validate()
}

// script is an agent that runs a shell script.
func script(t testing.TB, text string, change ...func(*Agent)) *Agent {
	t.Helper()
	a := &Agent{Command: []string{"/bin/sh", "-c", text}}
	for _, c := range change {
		c(a)
	}
	if err := provision(t, a); err != nil {
		t.Fatal(err)
	}
	return a
}

// delivery is that of a message.
func delivery(t testing.TB, to ...string) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte("Return-Path: <forged@x.test>\r\nSubject: hi\r\n\r\none\r\nFrom two\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{From: mail.Address{Local: "bob", Domain: "far.test"}, AuthUser: "u", ClientIP: "192.0.2.1", Hello: "h.far.test"}
	for _, s := range to {
		a, err := mail.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, mail.NewRecipient(a))
	}
	return &queue.Delivery{ID: "q1", Envelope: env, Content: m, Attempt: 1, Queued: time.Now(), Log: slog.New(slog.DiscardHandler)}
}

// one delivers to one recipient and returns "action reply".
func one(t testing.TB, a *Agent, d *queue.Delivery) string {
	t.Helper()
	got := a.Deliver(t.Context(), d)
	if len(got) != 1 {
		t.Fatalf("%d statuses", len(got))
	}
	return got[0].Action.String() + " " + got[0].Reply.Error()
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"pipe /bin/x":                   `{"command":["/bin/x"]}`,
		"pipe /bin/x -d {smtp.rcpt} --": `{"command":["/bin/x","-d","{smtp.rcpt}","--"]}`,
		"pipe /bin/x {\nenv A b\nenv C {env.D}\nuser nobody\ndir /tmp\nfrom_line\ncrlf\nexit 1 5.7.1\nconcurrency 3\ntimeout 9s\n}": `{"command":["/bin/x"],"env":{"A":"b","C":"{env.D}"},"user":"nobody","dir":"/tmp","from_line":true,"crlf":true,"exit":{"1":"5.7.1"},"concurrency":3,"timeout":9000000000}`,
		"pipe /bin/x {\nuser nobody nogroup\n}":        `{"command":["/bin/x"],"user":"nobody","group":"nogroup"}`,
		"pipe":                                         "wrong argument count",
		"pipe /bin/x {\nuser\n}":                       "wrong argument count",
		"pipe /bin/x {\nuser a b c\n}":                 "wrong argument count",
		"pipe /bin/x {\nenv A\n}":                      "wrong argument count",
		"pipe /bin/x {\nenv A b\nenv A c\n}":           "env 'A' is given twice, at Testfile:3",
		"pipe /bin/x {\nexit 1 5.1.1\nexit 1 4.3.0\n}": "exit '1' is given twice, at Testfile:3",
		"pipe /bin/x {\nconcurrency 0\n}":              "'0' is not a number of 1 or more",
		"pipe /bin/x {\nshell\n}":                      "unrecognized option 'shell', at Testfile:2",
	} {
		a := new(Agent)
		if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		b, _ := json.Marshal(a)
		if string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
		if err := caddy.StrictUnmarshalJSON(b, new(Agent)); err != nil {
			t.Error(err)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	sh := []string{"/bin/sh"}
	for want, a := range map[string]*Agent{
		"not an absolute path":                {},
		"is not an absolute path":             {Command: []string{"sh"}},
		"the program is not an absolute path": {Command: []string{"{smtp.rcpt.local}"}},
		"program is not an absolute":          {Command: []string{"/bin/{smtp.rcpt.local}"}},
		"placeholders of a command are":       {Command: []string{"/bin/sh", "{smtp.helo}"}},
		"null byte":                           {Command: []string{"/bin/sh", "a\x00"}},
		"dir is not":                          {Command: sh, Dir: "tmp"},
		"concurrency is negative":             {Command: sh, Concurrency: -1},
		"timeout is negative":                 {Command: sh, Timeout: -1},
		"'256' is not an exit code":           {Command: sh, Exit: map[string]string{"256": "5.0.0"}},
		"'x' is not an exit code":             {Command: sh, Exit: map[string]string{"x": "5.0.0"}},
		"'3.1.1' is not an enhanced":          {Command: sh, Exit: map[string]string{"1": "3.1.1"}},
		"a group is for a user":               {Command: sh, Group: "nogroup"},
		"there is no user":                    {Command: sh, User: "no-such-user"},
		"env 'X': ":                           {Command: sh, Env: map[string]string{"X": "{env.NO_SUCH_VARIABLE}"}},
		"'A=B' is not":                        {Command: sh, Env: map[string]string{"A=B": ""}},
	} {
		if err := provision(t, a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", a, err, want)
		}
	}
}

// TestArguments: whatever an address has in it, it stays within its argument.
func TestArguments(t *testing.T) {
	argv, err := parseCommand([]string{"/p", "{smtp.rcpt.local}", "--to={smtp.rcpt}", "{print}", "{smtp.mail.from}", "{smtp.rcpt.tag}-{smtp.rcpt.domain}", "{smtp.queue.id}{smtp.auth.user}"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ local, want string }{
		{"al", "/p|al|--to=al@b.test|{print}|bob@far.test|-b.test|q1u"},
		{"a;rm -rf /", `/p|a;rm -rf /|--to="a;rm -rf /"@b.test|{print}|bob@far.test|-b.test|q1u`},
		{"$(x)`y`", "/p|$(x)`y`|--to=\"$(x)`y`\"@b.test|{print}|bob@far.test|-b.test|q1u"},
		{"{smtp.rcpt}", `/p|{smtp.rcpt}|--to={smtp.rcpt}@b.test|{print}|bob@far.test|-b.test|q1u`},
		{"-x", "553 5.1.3"}, {"--", "553 5.1.3"}, {"a\nb", "553 5.1.3"}, {"a\x00b", "553 5.1.3"},
	} {
		d := delivery(t)
		words, err := expand(argv, d, mail.NewRecipient(mail.Address{Local: tc.local, Domain: "b.test"}))
		got := strings.Join(words, "|")
		if err != nil {
			got = err.Error()
		}
		if err != nil && !strings.HasPrefix(got, tc.want) || err == nil && got != strings.Replace(tc.want, "|-b.test", "|-b.test", 1) {
			t.Errorf("%q: %s, want %s", tc.local, got, tc.want)
		}
	}
	if _, err := expand(argv, delivery(t), mail.NewRecipient(mail.Address{Local: "a+-x", Domain: "b.test"})); err == nil {
		t.Error("a tag makes an option")
	}
}

func FuzzArguments(f *testing.F) {
	f.Add("{smtp.rcpt.local}", "a", "b.test")
	f.Add("x{smtp.rcpt}{", "-a", "b")
	f.Fuzz(func(t *testing.T, word, local, domain string) {
		a, err := parseArgument(word)
		if err != nil {
			return
		}
		words, err := expand([]argument{a}, &queue.Delivery{Envelope: &mail.Envelope{}}, mail.NewRecipient(mail.Address{Local: local, Domain: domain}))
		if err != nil {
			return
		}
		if len(words) != 1 || strings.ContainsRune(words[0], 0) || strings.HasPrefix(words[0], "-") && !strings.HasPrefix(word, "-") {
			t.Errorf("%q for %q@%q: %q", word, local, domain, words)
		}
	})
}

func TestExits(t *testing.T) {
	a := &Agent{exits: map[int]string{1: "5.7.1", 3: "2.0.0", 4: "4.2.2", 67: "4.1.1", 0: "2.0.0"}}
	for _, tc := range []struct {
		code int
		said string
		want string
	}{
		{0, "", "250 2.0.0 delivered"}, {0, "5.1.1 nonsense", "250 2.0.0 delivered"},
		{1, "", "550 5.7.1 the program ends with 1"}, {1, "go away\nnow", "550 5.7.1 go away"},
		{3, "x", "250 2.0.0 delivered"}, {4, "full", "451 4.2.2 full"}, {67, "", "451 4.1.1 the program ends with 67"},
		{65, "", "554 5.6.0 the program does not take such a message"}, {68, "", "550 5.1.2 no such host"},
		{69, "\n\n  5.2.1   gone \r\n", "550 5.2.1 gone"}, {69, "4.2.1 gone", "554 5.3.0 4.2.1 gone"},
		{75, "", "451 4.3.0 the program cannot deliver now"}, {76, "", "554 5.5.0 the program reports a protocol error"},
		{77, "\x1b[31mno\x07 \xff", "550 5.7.0 [31mno"}, {100, strings.Repeat("x", 999), "554 5.3.0 " + strings.Repeat("x", maxText)}, {111, "", "451 4.3.0 the program cannot deliver now"},
		{64, "secret", "451 4.3.0 local error in processing"}, {70, "secret", "451 4.3.0 local error in processing"}, {73, "", "451 4.3.0 local error in processing"},
		{78, "", "451 4.3.0 local error in processing"}, {2, "secret", "451 4.3.0 local error in processing"}, {127, "secret", "451 4.3.0 local error in processing"}, {255, "", "451 4.3.0 local error in processing"},
	} {
		if got := a.judge(result{code: tc.code, stderr: []byte(tc.said)}).Error(); got != tc.want {
			t.Errorf("%d %q: %s, want %s", tc.code, tc.said, got, tc.want)
		}
	}
	if got := (&Agent{}).judge(result{code: 67, stdout: []byte("from stdout\n")}).Error(); got != "550 5.1.1 from stdout" {
		t.Error(got)
	}
}
