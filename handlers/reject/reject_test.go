package reject

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// handler is what both modules are.
type handler interface {
	caddy.Module
	caddy.Provisioner
	caddyfile.Unmarshaler
	session.ConnectHandler
	session.HelloHandler
	session.MailHandler
	session.RcptHandler
	session.MessageHandler
	session.Starter
	session.Annotator
}

// read reads a line with the module that it names.
func read(t *testing.T, in string) (handler, error) {
	t.Helper()
	name, _, _ := strings.Cut(in, " ")
	info, err := caddy.GetModule("smtp.handlers." + strings.TrimSpace(name))
	if err != nil {
		t.Fatal(err)
	}
	h := info.New().(handler)
	return h, h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
}

func provisioned(t *testing.T, in string) handler {
	t.Helper()
	h, err := read(t, in)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestReply(t *testing.T) {
	ctx := context.Background()
	s := &session.Session{Hello: "c.example"}
	r := mail.NewRecipient(mail.Address{Local: "b", Domain: "x.example"})
	tx := &session.Transaction{Session: s, Envelope: &mail.Envelope{From: mail.Address{Local: "a", Domain: "y.example"}, Recipients: []*mail.Recipient{r}}}
	for in, want := range map[string][5]string{ // connect, EHLO, MAIL, RCPT, message
		"reject": {"554 5.7.1 refused by policy", "550 5.7.1 refused by policy", "550 5.7.1 refused by policy", "550 5.7.1 refused by policy", "550 5.7.1 refused by policy"},
		"defer":  {"421 4.7.1 refused by policy", "451 4.7.1 refused by policy", "451 4.7.1 refused by policy", "451 4.7.1 refused by policy", "451 4.7.1 refused by policy"},
		`reject 553 5.1.8 "{smtp.helo} {smtp.mail.from} {smtp.rcpt}"`: {"554 5.1.8 c.example  ", "553 5.1.8 c.example  ", "553 5.1.8 c.example a@y.example b@x.example",
			"553 5.1.8 c.example a@y.example b@x.example", "553 5.1.8 c.example a@y.example b@x.example"},
		"reject 450": {"421 4.7.1 refused by policy", "450 4.7.1 refused by policy", "450 4.7.1 refused by policy", "450 4.7.1 refused by policy", "450 4.7.1 refused by policy"},
	} {
		h := provisioned(t, in)
		for i, err := range []error{h.HandleConnect(ctx, s), h.HandleHello(ctx, s), h.HandleMail(ctx, tx), h.HandleRcpt(ctx, tx, r), h.HandleMessage(ctx, tx, new(message.Message))} {
			if err == nil || err.Error() != want[i] {
				t.Errorf("%s, stage %d: %v, want %s", in, i, err, want[i])
			}
		}
		if h.OnlyAnnotates() || len(s.Results)+len(tx.Results) > 0 {
			t.Errorf("%s: annotates", in)
		}
	}
}

func TestAnnotate(t *testing.T) {
	h := provisioned(t, "defer 450 later {\nannotate\n}").(*Defer)
	var log bytes.Buffer
	h.log = slog.New(slog.NewTextHandler(&log, nil))
	s := &session.Session{ID: "s1"}
	tx := &session.Transaction{Session: s, Envelope: &mail.Envelope{}}
	for range 3 {
		if err := h.HandleHello(context.Background(), s); err != nil {
			t.Error(err)
		}
		if err := h.HandleMail(context.Background(), tx); err != nil {
			t.Error(err)
		}
	}
	for _, rs := range [][]session.Result{s.Results, tx.Results} {
		if len(rs) != 1 || rs[0].Method != "defer" || rs[0].Value != "450" || rs[0].Reason != "later" || !rs[0].Private {
			t.Errorf("%+v", rs)
		}
	}
	if !h.OnlyAnnotates() || !strings.Contains(log.String(), "session=s1") {
		t.Error(log.String())
	}
}

func TestStartsAt(t *testing.T) {
	h := new(Handler)
	for _, c := range []struct {
		route       session.Stage
		conditional bool
		want        session.Stage
	}{
		{session.StageConnect, false, session.StageRcpt}, {session.StageConnect, true, session.StageConnect}, {session.StageAuth, true, session.StageMail},
		{session.StageMail, true, session.StageMail}, {session.StageMessage, true, session.StageMessage}, {session.StageHello, true, session.StageHello},
	} {
		if got := h.StartsAt(c.route, c.conditional); got != c.want {
			t.Errorf("%s, %v: %s", c.route, c.conditional, got)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"reject": `{}`, "defer": `{}`, "reject 554": `{"code":554}`, `reject 5.7.1 "no"`: `{"enhanced":"5.7.1","text":"no"}`, "reject no": `{"text":"no"}`,
		"reject 421 4.3.2 bye": `{"code":421,"enhanced":"4.3.2","text":"bye"}`, "defer 450 {\nannotate\n}": `{"code":450,"annotate":true}`,
		"reject 250":          "250 is not the code of a refusal, at Testfile:1",
		"reject 600":          "600 is not the code of a refusal",
		"defer 550":           "550 is not the code of a refusal for now, at Testfile:1",
		"reject 550 4.7.1":    "550 and 4.7.1 contradict each other, at Testfile:1",
		"defer 5.7.1":         "451 and 5.7.1 contradict each other",
		"reject 550 a b":      "wrong argument count or unexpected line ending after 'b', at Testfile:1",
		"reject {\nnotate\n}": "unrecognized option 'notate', at Testfile:2",
	} {
		h, err := read(t, in)
		got, _ := json.Marshal(h)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestJSON(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for in, want := range map[string]string{`{}`: "451 4.7.1", `{"code":450,"text":"x","annotate":true}`: "450 4.7.1", `{"code":550}`: "error", `{"enhanced":"4.7"}`: "error"} {
		m, err := ctx.LoadModuleByID("smtp.handlers.defer", json.RawMessage(in))
		got := "error"
		if err == nil {
			got = fmt.Sprint(m.(*Defer).Code, " ", m.(*Defer).Enhanced)
		}
		if got != want {
			t.Errorf("%s: %s %v", in, got, err)
		}
	}
}
