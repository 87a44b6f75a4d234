package rewrite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(fake)) }

type fake struct {
	Entries map[string]string `json:"entries,omitempty"`
}

func (*fake) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.fake", New: func() caddy.Module { return new(fake) }}
}

func (f *fake) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (f *fake) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if strings.HasPrefix(key, "fail") {
		return nil, false, errors.New("down")
	}
	v, ok := f.Entries[key]
	return strings.Fields(v), ok, nil
}

func provisioned(t *testing.T, config string) (*Handler, error) {
	t.Helper()
	h := new(Handler)
	if err := caddy.StrictUnmarshalJSON([]byte(config), h); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := h.Provision(ctx); err != nil {
		return nil, err
	}
	return h, h.Validate()
}

const config = `{"what":"rcpt","rules":[{"find":"*@old.example","replace":"*@new.example"},{"find":"info@*","replace":"office@*"},{"find":"x@y.example","replace":"z@w.example"},
	{"find":"toolong@y.example","replace":"*@%s.example"}],"table":{"table":"fake","entries":{"a@t.example":"b@t.example","@u.example":"*@v.example","bad@t.example":"nothing","none@t.example":""}}}`

func TestRewrite(t *testing.T) {
	h, err := provisioned(t, fmt.Sprintf(config, "d"))
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"Bob@old.example": "Bob@new.example", "INFO@x.example": "office@x.example", "x@y.example": "z@w.example", "a@t.example": "b@t.example",
		"c@u.example": "c@v.example", "c@t.example": "c@t.example", "none@t.example": "none@t.example", `"a b"@old.example`: `"a b"@new.example`,
		"fail@t.example": "451", "bad@t.example": "451",
	} {
		a, err := mail.ParseAddress(in)
		if err != nil {
			t.Fatal(err)
		}
		r := mail.NewRecipient(a)
		err = h.HandleRcpt(context.Background(), nil, r)
		got := r.Address.String()
		if err != nil {
			got = fmt.Sprint(mail.ReplyFor(err).Code)
		}
		if got != want || r.Expanded != (got != in && err == nil) {
			t.Errorf("%s: %s %v", in, got, err)
		}
		tx := &session.Transaction{Envelope: &mail.Envelope{From: a}}
		if err := h.HandleMail(context.Background(), tx); err != nil || tx.Envelope.From != a {
			t.Errorf("%s: the sender became %s", in, tx.Envelope.From)
		}
	}
}

func TestSender(t *testing.T) {
	h, err := provisioned(t, `{"what":"from","rules":[{"find":"*@*","replace":"*@new.example"},{"find":"<>","replace":"x@new.example"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[mail.Address]string{{Local: "a", Domain: "b.example"}: "a@new.example", {}: ""} {
		tx := &session.Transaction{Envelope: &mail.Envelope{From: in}}
		if err := h.HandleMail(context.Background(), tx); err != nil || tx.Envelope.From.String() != want {
			t.Errorf("%s: %s %v", in, tx.Envelope.From, err)
		}
	}
	r := mail.NewRecipient(mail.Address{Local: "a", Domain: "b.example"})
	if err := h.HandleRcpt(context.Background(), nil, r); err != nil || r.Expanded {
		t.Error("the recipient was rewritten")
	}
	if h.StartsAt(session.StageConnect, false) != session.StageMail || (&Handler{What: "rcpt"}).StartsAt(session.StageConnect, false) != session.StageRcpt {
		t.Error("stage")
	}
}

func TestConfigErrors(t *testing.T) {
	for config, want := range map[string]string{
		`{"what":"both","rules":[{"find":"a@b","replace":"c@d"}]}`: "'both' is neither from nor rcpt",
		`{"what":"from"}`: "neither a rule nor a table",
		`{"what":"from","rules":[{"find":"@b","replace":"c@d"}]}`:    "'@b' is not an address",
		`{"what":"from","rules":[{"find":"a@b","replace":"c"}]}`:     "no domain",
		`{"what":"from","rules":[{"find":"a@b","replace":"c d@e"}]}`: "syntax error",
		`{"what":"from","rules":[{"find":"a@b","replace":"c@-"}]}`:   "syntax error",
		fmt.Sprintf(config, strings.Repeat("d", 64)):                 "syntax error",
	} {
		if _, err := provisioned(t, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"rewrite rcpt *@a.example *@b.example":   `{"what":"rcpt","rules":[{"find":"*@a.example","replace":"*@b.example"}]}`,
		"rewrite from fake":                      `{"what":"from","table":{"table":"fake"}}`,
		"rewrite from {\na@b c@d\ntable fake\n}": `{"what":"from","rules":[{"find":"a@b","replace":"c@d"}],"table":{"table":"fake"}}`,
		"rewrite":                                "wrong argument count or unexpected line ending after 'rewrite', at Testfile:1",
		"rewrite to a@b c@d":                     "'to' is neither from nor rcpt, at Testfile:1",
		"rewrite from":                           "wrong argument count or unexpected line ending after 'from', at Testfile:1",
		"rewrite from a@b":                       "wrong argument count or unexpected line ending after 'a@b', at Testfile:1",
		"rewrite from none":                      "no module 'none' in smtp.tables; there are fake, at Testfile:1",
		"rewrite from {\nx y\n}":                 "unrecognized option 'x', at Testfile:2",
		"rewrite from a@b c@d {\nx\n}":           "unrecognized option 'x', at Testfile:2",
	} {
		h := new(Handler)
		err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(h)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
