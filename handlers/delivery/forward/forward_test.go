package forward

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddymail/caddy-smtp/handlers/delivery/discard"
	_ "github.com/caddymail/caddy-smtp/handlers/delivery/relay"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
	"github.com/caddymail/caddy-smtp/smtpapp/srs"
)

// memory is a storage.
type memory struct {
	sync.Mutex
	b   []byte
	err error
}

func (m *memory) Lock(context.Context, string) error   { m.Mutex.Lock(); return m.err }
func (m *memory) Unlock(context.Context, string) error { m.Mutex.Unlock(); return nil }
func (m *memory) Store(_ context.Context, _ string, b []byte) error {
	m.b = b
	return nil
}

func (m *memory) Load(context.Context, string) ([]byte, error) {
	if m.err != nil {
		return nil, m.err
	}
	if m.b == nil {
		return nil, fs.ErrNotExist
	}
	return m.b, nil
}

// seen is the agent that sends, and what it was given.
type seen struct{ ds []*queue.Delivery }

func (s *seen) Destination(_ *mail.Envelope, r *mail.Recipient) string { return r.Address.Domain }

func (s *seen) Deliver(_ context.Context, d *queue.Delivery) []queue.Status {
	s.ds = append(s.ds, d)
	var out []queue.Status
	for _, r := range d.Envelope.Recipients {
		out = append(out, queue.Status{Action: queue.Relayed, Reply: &mail.Reply{Code: 250, Text: r.Address.String()}})
	}
	return out
}

func agent(t testing.TB, a *Agent) (*Agent, *seen) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if a.storage == nil {
		a.storage = new(memory)
	}
	if a.ViaRaw == nil {
		a.ViaRaw = json.RawMessage(`{"agent":"discard"}`)
	}
	if err := errors.Join(a.Provision(ctx), a.Validate()); err != nil {
		t.Fatal(err)
	}
	s := new(seen)
	a.via = s
	return a, s
}

func address(t testing.TB, s string) (a mail.Address) {
	t.Helper()
	if s != "" {
		var err error
		if a, err = mail.ParseAddress(s); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func delivery(t testing.TB, from, header string, rcpts ...*mail.Recipient) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte(header + "Subject: x\r\n\r\nhi\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	return &queue.Delivery{ID: "q1", Envelope: &mail.Envelope{From: address(t, from), Recipients: rcpts}, Content: m, Log: slog.New(slog.DiscardHandler)}
}

// alias is a recipient that an alias has made.
func alias(t testing.TB, given, to string) *mail.Recipient {
	t.Helper()
	r := mail.NewRecipient(address(t, given))
	r.Rewrite(address(t, to))
	return r
}

// TestOnlyWhereNeeded: the sender is rewritten for what is really forwarded.
func TestOnlyWhereNeeded(t *testing.T) {
	for _, tc := range []struct {
		from     string
		expanded bool
		rewrites bool
	}{
		{"bob@far.test", true, true},
		{"bob@far.test", false, false},
		{"", true, false},
		{"alice@ours.test", true, false},
		{"alice@sub.ours.test", true, true},
		{"alice@a.wide.test", true, false},
		{"alice@wide.test", true, true},
		{"alice@fwd.test", true, false},
		{"SRS0=AAAA=BB=x.test=u@other.test", true, true},
		{"SRS0=AAAA=BB=x.test=u@fwd.test", true, false},
		{strings.Repeat("l", 60) + "@" + strings.Repeat("d.", 90) + "test", true, false}, // too long
	} {
		a, s := agent(t, &Agent{Domain: "fwd.test", Ours: []string{"OURS.test", "*.wide.test"}})
		r := mail.NewRecipient(address(t, "carol@else.test"))
		if tc.expanded {
			r = alias(t, "carol@ours.test", "carol@else.test")
		}
		d := delivery(t, tc.from, "", r)
		got := a.Deliver(t.Context(), d)
		if len(got) != 1 || got[0].Action != queue.Relayed || len(s.ds) != 1 {
			t.Fatal(got, s.ds)
		}
		from := s.ds[0].Envelope.From
		if (from != d.Envelope.From) != tc.rewrites {
			t.Errorf("%+v: from %s", tc, from)
		}
		if d.Envelope.From != address(t, tc.from) || d.Content.Header.Count("Delivered-To") != 0 {
			t.Error("the entry itself was changed")
		}
		if got := s.ds[0].Content.Header.Get("Delivered-To"); (got == "carol@ours.test") != tc.expanded {
			t.Errorf("%+v: Delivered-To %q", tc, got)
		}
		if !tc.rewrites {
			continue
		}
		secrets, err := a.keys.Secrets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if back, err := srs.Reverse(from.Local, secrets, time.Now(), srs.DefaultValidity); err != nil || from.Domain != "fwd.test" || back != d.Envelope.From {
			t.Errorf("%+v: %s comes back as %s, %v", tc, from, back, err)
		}
	}
}

// TestEachRecipient: what goes where, and that nobody learns of the others.
func TestEachRecipient(t *testing.T) {
	a, s := agent(t, &Agent{Domain: "fwd.test"})
	d := delivery(t, "bob@far.test", "Delivered-To: loop@ours.test\r\n",
		alias(t, "list@ours.test", "a@x.test"), mail.NewRecipient(address(t, "plain@x.test")), alias(t, "loop@ours.test", "b@x.test"), alias(t, "list@ours.test", "c@x.test"), alias(t, "other@ours.test", "d@x.test"))
	got := a.Deliver(t.Context(), d)
	for i, want := range []string{"250  a@x.test", "250  plain@x.test", "554 5.4.6 the message has been forwarded from here before", "250  c@x.test", "250  d@x.test"} {
		if got[i].Reply.Error() != want && strings.Join(strings.Fields(got[i].Reply.Error()), " ") != strings.Join(strings.Fields(want), " ") {
			t.Errorf("recipient %d: %v, want %s", i, got[i].Reply, want)
		}
	}
	if got[2].Action != queue.Failed {
		t.Error("a loop goes on")
	}
	var sent []string
	for _, p := range s.ds {
		line := strings.Join(p.Content.Header.Values("Delivered-To"), ",") + ":"
		for _, r := range p.Envelope.Recipients {
			line += " " + r.Address.String()
		}
		sent = append(sent, line)
	}
	slices.Sort(sent)
	if want := []string{"list@ours.test,loop@ours.test: a@x.test c@x.test", "loop@ours.test: plain@x.test", "other@ours.test,loop@ours.test: d@x.test"}; !slices.Equal(sent, want) {
		t.Errorf("sent %q", sent)
	}
	if a.Destination(d.Envelope, d.Envelope.Recipients[0]) != "x.test" {
		t.Error("destination")
	}
}

// TestNoSecret: mail waits while the storage is away, and only what needs it.
func TestNoSecret(t *testing.T) {
	a, _ := agent(t, &Agent{Domain: "fwd.test", storage: &memory{err: errors.New("down")}})
	got := a.Deliver(t.Context(), delivery(t, "bob@far.test", "", alias(t, "list@ours.test", "a@x.test"), mail.NewRecipient(address(t, "plain@x.test"))))
	if got[0].Action != queue.Delayed || got[0].Reply.Code != 451 || got[1].Action != queue.Relayed {
		t.Error(got[0].Reply, got[1].Reply)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"forward": `{}`,
		"forward {\ndomain fwd.test\nours a.test *.b.test\nours c.test\nvia relay h.test {\ntls required\n}\nrotate 10d\n}": `{"domain":"fwd.test","ours":["a.test","*.b.test","c.test"],"via":{"agent":"relay","hosts":["h.test"],"tls":"required"},"rotate":864000000000000}`,
		"forward x":                "wrong argument count",
		"forward {\nvia pigeon\n}": "no module 'pigeon' in smtp.agents",
		"forward {\nsrs off\n}":    "unrecognized option 'srs', at Testfile:2",
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
	for want, a := range map[string]*Agent{
		"domain": {Domain: "no domain"}, "ours": {Ours: []string{"*"}}, "rotate": {Rotate: 1}, "via": {ViaRaw: json.RawMessage(`{"agent":"pigeon"}`)},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		a.storage = new(memory)
		err := a.Provision(ctx)
		if err == nil {
			err = a.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", a, err, want)
		}
		cancel()
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	a := &Agent{storage: new(memory)}
	if err := a.Provision(ctx); err != nil || a.Domain != "localhost" {
		t.Error(a, err)
	}
	if _, ok := a.via.(queue.Router); !ok {
		t.Errorf("via %T", a.via)
	}
}
