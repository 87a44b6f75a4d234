package verify

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// A check stands for the real ones, which this package must not import: it
// notes at which stage it was, and whether it had its options.
type check struct {
	name string

	Refuse bool `json:"refuse,omitempty"`
}

var errRefused = errors.New("refused")

func init() {
	for _, c := range []string{"iprev", "spf"} {
		caddy.RegisterModule(&early{check{name: c}})
	}
	for _, c := range []string{"dkim", "arc", "dmarc"} {
		caddy.RegisterModule(&late{check{name: c}})
	}
}

func (c *check) note(tx *session.Transaction) error {
	tx.Results = append(tx.Results, session.Result{Method: c.name})
	if c.Refuse {
		return errRefused
	}
	return nil
}

func (c *check) OnlyAnnotates() bool { return !c.Refuse }

func (c *check) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		for d.NextBlock(0) {
			c.Refuse = d.Val() == "refuse"
		}
	}
	return nil
}

type early struct{ check }

func (e *early) CaddyModule() caddy.ModuleInfo {
	n := e.name
	return caddy.ModuleInfo{ID: caddy.ModuleID("smtp.handlers." + n), New: func() caddy.Module { return &early{check{name: n}} }}
}

func (e *early) HandleMail(_ context.Context, tx *session.Transaction) error { return e.note(tx) }

type late struct{ check }

func (l *late) CaddyModule() caddy.ModuleInfo {
	n := l.name
	return caddy.ModuleInfo{ID: caddy.ModuleID("smtp.handlers." + n), New: func() caddy.Module { return &late{check{name: n}} }}
}

func (l *late) HandleMessage(_ context.Context, tx *session.Transaction, _ *message.Message) error {
	return l.note(tx)
}

// load reads and provisions a handler.
func load(t *testing.T, in string) (*Handler, error) {
	t.Helper()
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
		return nil, err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	return h, h.Provision(ctx)
}

func TestVerify(t *testing.T) {
	for in, want := range map[string]string{
		"verify":                                   "iprev spf dkim arc dmarc",
		"verify {\n iprev off\n arc off\n}":        "spf dkim dmarc",
		"verify {\n spf {\n refuse\n }\n}":         "iprev spf refused",
		"verify {\n dmarc {\n refuse\n }\n}":       "iprev spf dkim arc dmarc refused",
		"verify {\n dkim {\n refuse\n }\n spf\n}":  "iprev spf dkim refused",
		"verify {\n iprev off\n spf off\n dkim\n}": "dkim arc dmarc",
	} {
		h, err := load(t, in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		tx := new(session.Transaction)
		err = h.HandleMail(t.Context(), tx)
		if err == nil {
			err = h.HandleMessage(t.Context(), tx, nil)
		}
		var got []string
		for _, r := range tx.Results {
			got = append(got, r.Method)
		}
		if err != nil {
			got = append(got, err.Error())
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%q: got %s, want %s", in, g, want)
		}
		if late := strings.Contains(in, "dmarc {") || strings.Contains(in, "dkim {"); h.OnlyAnnotates() == late {
			t.Errorf("%q: only annotates: %v", in, !late)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, in := range []string{"verify all", "verify {\n dnsbl\n}", "verify {\n spf off\n spf off\n}", "verify {\n iprev off\n spf off\n dkim off\n arc off\n dmarc off\n}", "verify {\n spf off more\n}"} {
		if _, err := load(t, in); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
	for _, in := range []string{`{"off": ["x"]}`, `{"checks": {"x": {}}}`, `{"off": ["spf"], "checks": {"spf": {}}}`} {
		h := new(Handler)
		if err := json.Unmarshal([]byte(in), h); err != nil {
			t.Fatal(err)
		}
		if h.valid() == nil {
			t.Errorf("%s is taken", in)
		}
	}
	if !slices.Equal(checks, []string{"iprev", "spf", "dkim", "arc", "dmarc"}) { // dmarc reads the others' results
		t.Error(checks)
	}
}
