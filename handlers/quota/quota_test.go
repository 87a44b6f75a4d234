package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(fake)) }

// fake is a table of entries "key:value,value".
type fake struct {
	Entries []string `json:"entries,omitempty"`
}

func (*fake) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.fake", New: func() caddy.Module { return new(fake) }}
}

func (f *fake) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	f.Entries = d.RemainingArgs()
	return nil
}

func (f *fake) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if key == "fail" {
		return nil, false, errors.New("down")
	}
	for _, e := range f.Entries {
		if k, v, _ := strings.Cut(e, ":"); k == key {
			return strings.Split(v, ","), true, nil
		}
	}
	return nil, false, nil
}

// A rig is a configuration with the handler in it.
type rig struct {
	*Handler
	t      *testing.T
	end    func() // of the configuration
	metric *prometheus.Registry
	events []string
	ids    int
}

// reached is the metric of refusals.
func (r *rig) reached(t *testing.T, labels ...string) float64 {
	t.Helper()
	fs, err := r.metric.Gather()
	if err != nil || len(fs) != 1 || fs[0].GetName() != "caddy_smtp_quota_reached_total" {
		t.Fatal(fs, err)
	}
	for _, m := range fs[0].GetMetric() {
		if m.GetLabel()[1].GetValue() == labels[0] && m.GetLabel()[0].GetValue() == labels[1] {
			return m.GetCounter().GetValue()
		}
	}
	return 0
}

// newRig sets up a handler, with its file in dir.
func newRig(t *testing.T, dir, config string) *rig {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", dir)
	r := &rig{Handler: new(Handler), t: t, metric: prometheus.NewRegistry()}
	if err := r.UnmarshalCaddyfile(caddyfile.NewTestDispenser(config)); err != nil {
		t.Fatal(err)
	}
	e := &env.Env{Metrics: r.metric, Events: func(name string, data map[string]any) { r.events = append(r.events, fmt.Sprint(name, data)) }}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(context.Background(), e)})
	if err := errors.Join(r.Provision(ctx), r.Validate()); err != nil {
		t.Fatal(err)
	}
	r.end = func() {
		cancel()
		if err := r.Cleanup(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.end)
	return r
}

// send runs a transaction and returns the replies that refuse, with the stage.
func (r *rig) send(s *session.Session, to ...string) string {
	r.t.Helper()
	r.ids++
	tx := &session.Transaction{ID: fmt.Sprint("t", r.ids, r.Name), Session: s, Envelope: new(mail.Envelope)}
	if err := r.HandleMail(r.t.Context(), tx); err != nil {
		return "MAIL " + mail.ReplyFor(err).Error()
	}
	for _, a := range to {
		rc := mail.NewRecipient(mail.Address{Local: a, Domain: "x.test"})
		if err := r.HandleRcpt(r.t.Context(), tx, rc); err != nil {
			return "RCPT " + mail.ReplyFor(err).Error()
		}
		tx.Envelope.Recipients = append(tx.Envelope.Recipients, rc)
	}
	settle, err := r.take(r.t.Context(), tx)
	if err != nil {
		return "DATA " + mail.ReplyFor(err).Error()
	}
	if settle != nil {
		settle(true)
	}
	return ""
}

func as(user string) *session.Session { return &session.Session{User: user} }

func (r *rig) want(got, want string) {
	r.t.Helper()
	if got != want && (want == "" || !strings.HasPrefix(got, want)) {
		r.t.Errorf("got %q, want %q", got, want)
	}
}

func TestQuota(t *testing.T) {
	r := newRig(t, t.TempDir(), "quota first {\nmessages 2/1h\nrecipients 4/1h 5/1d\nnew_recipients 3/1d\n}")
	r.want(r.send(as("alice"), "a", "b", "a"), "")
	r.want(r.send(as("alice"), "a", "b", "c"), "RCPT 452 4.7.0 quota of 4 recipients in 1h reached; try again in 6")
	r.want(r.send(as("alice"), "c"), "")
	r.want(r.send(as("alice"), "a"), "MAIL 452 4.7.0 quota of 2 messages in 1h reached; try again in 6")
	r.want(r.send(as("bob"), "a", "b", "c", "d"), "RCPT 452 4.7.0 quota of 3 first-time recipients in 1d reached; try again in 24h")
	for range 10 {
		r.want(r.send(as(""), "a"), "") // nobody has logged in
	}
	if len(r.events) != 2 || !strings.Contains(r.events[0], "smtp_quota_reachedmap[key:alice limit:recipients quota:first retry:") {
		t.Error(r.events)
	}
	if n := r.reached(t, "first", "messages"); n != 1 {
		t.Error(n, "refusals are counted")
	}
}

// TestForks: the forks of one message count once.
func TestForks(t *testing.T) {
	r := newRig(t, t.TempDir(), "quota {\nmessages 1/1h\nrecipients 10/1h\n}")
	to := func(names ...string) (rs []*mail.Recipient) {
		for _, n := range names {
			rs = append(rs, mail.NewRecipient(mail.Address{Local: n, Domain: "x.test"}))
		}
		return rs
	}
	tx := &session.Transaction{ID: "one", Session: as("alice"), Envelope: &mail.Envelope{Recipients: to("a", "b")}}
	fork := &session.Transaction{ID: "one", Session: as("alice"), Envelope: &mail.Envelope{Recipients: to("c")}}
	other := &session.Transaction{ID: "two", Session: as("alice"), Envelope: &mail.Envelope{Recipients: to("c")}}
	for i, tx := range []*session.Transaction{tx, fork, other} {
		if err := r.HandleMessage(t.Context(), tx, nil); (err != nil) != (i == 2) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// TestOutlives: counts outlive configurations and the process.
func TestOutlives(t *testing.T) {
	dir := t.TempDir()
	const config = "quota sub {\nmessages 2/1h\nnew_recipients 9/1d\n}"
	first := newRig(t, dir, config)
	first.want(first.send(as("alice"), "a"), "")
	second := newRig(t, dir, config)
	second.want(second.send(as("alice"), "a"), "")
	first.end() // a reload
	second.want(second.send(as("alice"), "a"), "MAIL 452")
	second.end() // the process ends
	file := filepath.Join(dir, "caddy", "smtp", "quota", "sub")
	if raw, err := os.ReadFile(file); err != nil || !strings.Contains(string(raw), "alice") || strings.Contains(string(raw), "x.test") {
		t.Errorf("%s %v", raw, err)
	}
	third := newRig(t, dir, config)
	third.want(third.send(as("alice"), "a"), "MAIL 452")
	other := newRig(t, dir, strings.Replace(config, "sub", "apps", 1))
	other.want(other.send(as("alice"), "a"), "")
}

// TestValidateIsPure: a configuration that is only checked leaves no file.
func TestValidateIsPure(t *testing.T) {
	dir := t.TempDir()
	newRig(t, dir, "quota {\nmessages 1/1h\n}").end()
	if es, err := os.ReadDir(dir); err != nil || len(es) > 0 {
		t.Error(es, err)
	}
}

func TestKey(t *testing.T) {
	r := newRig(t, t.TempDir(), "quota {\nmessages 1/1h\nkey {smtp.remote.ip}\n}")
	at := func(last byte) *session.Session {
		return &session.Session{Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, last), Port: 1}}
	}
	r.want(r.send(at(1), "a"), "")
	r.want(r.send(at(2), "a"), "")
	r.want(r.send(at(1), "a"), "MAIL 452")
	r.want(r.send(&session.Session{}, "a"), "") // a unix socket
}

// TestOwnLimits: users may have limits of their own.
func TestOwnLimits(t *testing.T) {
	r := newRig(t, t.TempDir(), "quota {\nmessages 1/1h\nrecipients 5/1h\ntable fake big:messages=3/1h,messages=4/1d free:unlimited half:recipients=unlimited typo:messages=many none:messages=0/1h\n}")
	with := func(user string, attrs map[string]string) *session.Session {
		return &session.Session{User: user, Identity: &login.Identity{User: user, Attributes: attrs}}
	}
	for _, tc := range []struct {
		s    *session.Session
		pass int // messages of two recipients each
	}{
		{as("alice"), 1}, {as("big"), 2}, {as("free"), 10}, {as("half"), 1}, {as("typo"), 1}, {as("none"), 0},
		{with("carol", map[string]string{"quota_messages": "2/1h 9/1d"}), 2},
		{with("dave", map[string]string{"quota_messages": "unlimited", "quota_recipients": "6/1h"}), 3},
		{with("erin", map[string]string{"quota_messages": "lots"}), 1},
		{with("none", map[string]string{"quota_messages": "9/1h"}), 0}, // the table goes first
	} {
		n := 0
		for n < 10 && r.send(tc.s, "a", "b") == "" {
			n++
		}
		if n != tc.pass {
			t.Errorf("%s: %d messages, want %d", tc.s.User, n, tc.pass)
		}
	}
	r.want(r.send(as("fail"), "a"), "MAIL 451")
}

func TestAnnotate(t *testing.T) {
	r := newRig(t, t.TempDir(), "quota {\nmessages 1/1h\nannotate\n}")
	r.want(r.send(as("alice"), "a"), "")
	r.want(r.send(as("alice"), "a"), "")
	tx := &session.Transaction{Session: as("alice"), Envelope: new(mail.Envelope)}
	if err := errors.Join(r.HandleMail(t.Context(), tx), r.HandleMail(t.Context(), tx)); err != nil || len(tx.Find("x-quota")) != 1 || !r.OnlyAnnotates() {
		t.Errorf("%v %+v", err, tx.Results)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"quota {\nmessages 200/1h 1000/1d\nrecipients 10/1m\nnew_recipients 5/30s\n}":  `{"messages":["200/1h","1000/1d"],"recipients":["10/1m"],"new_recipients":["5/30s"]}`,
		"quota apps {\nmessages 1/1h\nkey {smtp.remote.ip}\ntable fake x\nannotate\n}": `{"messages":["1/1h"],"key":"{smtp.remote.ip}","table":{"entries":["x"],"table":"fake"},"name":"apps","annotate":true}`,
		"quota {\ntable fake x\n}":        `{"table":{"entries":["x"],"table":"fake"}}`,
		"quota":                           "quota needs a limit or a table, at Testfile:1",
		"quota a b":                       "wrong argument count or unexpected line ending after 'b', at Testfile:1",
		"quota ../x":                      "'../x' is not a name of letters, digits, - and _, at Testfile:1",
		"quota {\nmessages 1\n}":          "quota: messages: '1' is not a number and a time such as 200/1h, at Testfile:3",
		"quota {\nmessages -1/1h\n}":      "quota: messages: '-1/1h' is not a number and a time such as 200/1h, at Testfile:3",
		"quota {\nrecipients 1/1ms\n}":    "quota: recipients: '1ms' is not a time of whole seconds, up to 366d, at Testfile:3",
		"quota {\nrecipients 1/400d\n}":   "quota: recipients: '400d' is not a time of whole seconds, up to 366d, at Testfile:3",
		"quota {\nmessages 1/1h 2/60m\n}": "quota: messages: two limits of the same time, at Testfile:3",
		"quota {\nsize 1\n}":              "unrecognized option 'size', at Testfile:2",
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
	for _, h := range []*Handler{{Name: "a/b"}, {Name: "a"}} {
		if h.Validate() == nil {
			t.Errorf("%+v is taken", h)
		}
	}
	if (&Handler{Messages: []string{"x"}}).Provision(caddy.Context{Context: context.Background()}) == nil {
		t.Error("a bad limit is taken")
	}
}
