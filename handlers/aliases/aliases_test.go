package aliases

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

// fake is a table of lines "key: value value".
type fake struct {
	Text string `json:"text,omitempty"`
}

func (*fake) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.fake", New: func() caddy.Module { return new(fake) }}
}

func (f *fake) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	f.Text = strings.Join(d.RemainingArgs(), " ")
	return nil
}

func (f *fake) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if strings.HasPrefix(key, "fail") {
		return nil, false, errors.New("down")
	}
	for l := range strings.Lines(f.Text) {
		if k, v, _ := strings.Cut(l, ":"); strings.EqualFold(k, key) {
			return strings.Fields(v), true, nil
		}
	}
	return nil, false, nil
}

func expand(t *testing.T, table, addr string) (string, error) {
	t.Helper()
	h := &Handler{TagSeparator: "+", Depth: maxDepth, Addresses: maxExpansions, table: &fake{table}}
	x := &expansion{h: h, ctx: context.Background()}
	a, err := mail.ParseAddress(addr)
	if addr == "postmaster" {
		a, err = mail.Address{Local: "postmaster"}, nil
	}
	if err != nil {
		t.Fatal(err)
	}
	err = x.expand(a, nil)
	return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(x.out), "[]")), " "), err
}

func TestExpand(t *testing.T) {
	const table = `root: alice@x.example
postmaster: root
team@x.example: bob carol@y.example alice@x.example team2
team2: dave Bob
bob+news@x.example: archive@z.example
bob@x.example: bob@x.example copy@z.example
@all.example: admin@all.example
*@star.example: x@z.example
exact@all.example:
tom+lists: lists@z.example
näm@bücher.example: u@z.example
@bücher.example: v@z.example
case@x.example: CASE@x.example other@z.example
`
	for in, want := range map[string]string{
		"nobody@x.example":     "nobody@x.example",
		"root@any.example":     "alice@x.example",
		"ROOT@any.example":     "alice@x.example",
		"postmaster@x.example": "alice@x.example",
		"postmaster":           "alice@x.example",
		"team@x.example":       "bob@x.example copy@z.example carol@y.example alice@x.example dave@x.example",
		"bob@x.example":        "bob@x.example copy@z.example",
		"bob+t@x.example":      "bob+t@x.example copy@z.example",
		"bob+news@x.example":   "archive@z.example",
		"any@all.example":      "admin@all.example",
		"admin@all.example":    "admin@all.example",
		"exact@all.example":    "exact@all.example",
		"any@star.example":     "x@z.example",
		"tom+lists@x.example":  "lists@z.example",
		"näm@bücher.example":   "u@z.example",
		"any@bücher.example":   "v@z.example",
		"case@x.example":       "case@x.example other@z.example",
		`"a b"@x.example`:      `"a b"@x.example`,
	} {
		if got, err := expand(t, table, in); got != want || err != nil {
			t.Errorf("%s: %s %v, want %s", in, got, err, want)
		}
	}
}

func TestExpandErrors(t *testing.T) {
	deep, wide := "", "many@x.example:"
	for i := range 30 {
		deep += fmt.Sprintf("d%d: d%d\n", i, i+1)
	}
	for i := range 1001 {
		wide += fmt.Sprintf(" w%d", i)
	}
	for _, c := range []struct{ table, in, want string }{
		{"a: b\nb: c\nc: a", "a@x.example", "550 5.4.6 alias leads back to itself"},
		{"@d.example: x@e.example\n@e.example: y@d.example", "a@d.example", "550 5.4.6 alias leads back to itself"},
		{deep, "d0@x.example", "550 5.4.6 aliases nested too deeply"},
		{wide, "many@x.example", "550 5.4.6 alias expands to too many addresses"},
		{"", "fail@x.example", "alias fail@x.example: down"},
		{"a: |/bin/cmd", "a@x.example", "'|/bin/cmd' is no mailbox"},
		{"a: :include:/x", "a@x.example", "is no mailbox"},
		{"a: /dev/null", "a@x.example", "is no mailbox"},
		{"a: b@", "a@x.example", "alias a@x.example: syntax error in address"},
		{"a: <b@x.example>", "a@x.example", "alias a@x.example: syntax error in address"},
	} {
		if _, err := expand(t, c.table, c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.in, err, c.want)
		}
	}
	if got, err := expand(t, deep, "d10@x.example"); err != nil || got != "d30@x.example" {
		t.Error("20 deep:", got, err)
	}
}

// TestWork is of aliases that name one another in every way.
func TestWork(t *testing.T) {
	table := ""
	for i := range 15 {
		table += fmt.Sprintf("l%d: l%d l%d x%d\n", i, i+1, i+2, i)
	}
	got, err := expand(t, table, "l0@x.example")
	if err != nil || len(strings.Fields(got)) != 17 {
		t.Error(got, err)
	}
}

func TestHandleRcpt(t *testing.T) {
	h := &Handler{TableRaw: json.RawMessage(`{"table":"fake","text":"a: b c"}`)}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	for _, local := range []string{"a", "nobody"} {
		r := mail.NewRecipient(mail.Address{Local: local, Domain: "x.example"})
		if err := h.HandleRcpt(ctx, new(session.Transaction), r); err != nil || r.Claimed() {
			t.Error(err)
		}
	}
	r := mail.NewRecipient(mail.Address{Local: "fail", Domain: "x.example"})
	if err := h.HandleRcpt(ctx, new(session.Transaction), r); mail.ReplyFor(err).Code != 451 {
		t.Error(err)
	}
	if (&Handler{}).Provision(ctx) == nil {
		t.Error("no table is taken")
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"aliases fake x": `{"table":{"table":"fake","text":"x"}}`,
		"aliases {\ntable fake x\ntag_separator -\n}": `{"table":{"table":"fake","text":"x"},"tag_separator":"-"}`,
		"aliases":               "aliases needs a table, at Testfile:1",
		"aliases none":          "no module 'none' in smtp.tables; there are fake, at Testfile:1",
		"aliases {\ntable\n}":   "wrong argument count or unexpected line ending after 'table', at Testfile:2",
		"aliases {\nfile /x\n}": "unrecognized option 'file', at Testfile:2",
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
