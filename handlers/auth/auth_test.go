package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	"golang.org/x/crypto/bcrypt"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() {
	caddy.RegisterModule(new(hashes))
	caddy.RegisterModule(new(checker))
	caddy.RegisterModule(new(useless))
}

// hashes knows the users it is given; asked for "broken", it is.
type hashes struct {
	Users map[string]string `json:"users,omitempty"`
}

func (*hashes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.test_hashes", New: func() caddy.Module { return new(hashes) }}
}

func (h *hashes) Account(_ context.Context, user string) (*login.Account, error) {
	if user == "broken" {
		return nil, errors.New("down")
	}
	v, ok := h.Users[user]
	if !ok {
		return nil, nil
	}
	return &login.Account{
		Secrets: []login.Secret{{Name: "keys only"}, {Name: "phone", Hash: v}}, Addresses: []string{user + "@example.org"},
	}, nil
}

func (h *hashes) SampleHash() string {
	for _, v := range h.Users {
		return v
	}
	return ""
}

func (h *hashes) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for d.NextArg() {
	}
	return nil
}

// checker knows one user, whose password is his name.
type checker struct {
	User string `json:"user,omitempty"`
}

func (*checker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.test_checker", New: func() caddy.Module { return new(checker) }}
}

func (c *checker) CheckPassword(_ context.Context, user, password string) (*login.Identity, bool, error) {
	if user != c.User || password != c.User {
		return nil, user == c.User, nil
	}
	return &login.Identity{User: user}, true, nil
}

// useless serves nothing.
type useless struct{}

func (*useless) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.test_useless", New: func() caddy.Module { return new(useless) }}
}

func hash(t *testing.T, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func newHandler(t *testing.T, config string) (*Handler, *bytes.Buffer, error) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	h := new(Handler)
	if err := caddy.StrictUnmarshalJSON([]byte(config), h); err != nil {
		t.Fatal(err)
	}
	if err := h.Provision(ctx); err != nil {
		return nil, nil, err
	}
	log := new(bytes.Buffer)
	h.log = slog.New(slog.NewTextHandler(log, nil))
	store := &certmagic.FileStorage{Path: t.TempDir()}
	h.decoys.storage = func() certmagic.Storage { return store }
	return h, log, h.Validate()
}

func twoSources(t *testing.T) string {
	return fmt.Sprintf(`{"sources":[{"source":"test_hashes","users":{"alice":%q,"both":%q}},{"source":"test_checker","user":"bob"},{"source":"test_hashes","users":{"both":%q}}]}`,
		hash(t, "secret"), hash(t, "first"), hash(t, "second"))
}

func client() *session.Session {
	return &session.Session{ID: "s1", Remote: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}}
}

// run plays a client's responses, nil being none, and returns the challenges
// and how it ended.
func run(t *testing.T, h *Handler, s *session.Session, mech string, responses ...[]byte) string {
	t.Helper()
	srv, err := h.Authenticate(context.Background(), s, mech)
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, r := range responses {
		challenge, done, err := srv.Next(r)
		switch {
		case err != nil:
			return strings.Join(append(out, err.Error()), "|")
		case done:
			return strings.Join(append(out, "ok "+s.User+" "+s.Method), "|")
		}
		out = append(out, string(challenge))
	}
	return strings.Join(append(out, "unfinished"), "|")
}

func TestPlain(t *testing.T) {
	h, log, err := newHandler(t, twoSources(t))
	if err != nil {
		t.Fatal(err)
	}
	const wrong = "535 5.7.8 authentication credentials invalid"
	for in, want := range map[string]string{
		"\x00alice\x00secret": "ok alice PLAIN", "alice\x00ALICE\x00secret": "ok alice PLAIN", "\x00alice\x00Secret": wrong,
		"\x00bob\x00bob": "ok bob PLAIN", "\x00bob\x00x": wrong, "\x00both\x00first": "ok both PLAIN", "\x00both\x00second": wrong,
		"\x00nobody\x00secret": wrong, "bob\x00alice\x00secret": wrong, "a b\x00alice\x00secret": wrong, "\x00a b\x00secret": wrong, "\x00\xff\x00secret": wrong,
		"\x00alice\x00": wrong, "\x00\x00secret": wrong, "\x00\x00": wrong, "alice": "501 5.5.2 malformed authentication response",
		"": "501 5.5.2 malformed authentication response", "\x00alice\x00sec\x00ret": "501 5.5.2 malformed authentication response",
		"\x00broken\x00secret": "454 4.7.0 temporary authentication failure",
	} {
		s := client()
		if got := run(t, h, s, "plain", []byte(in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
		if s.User == "alice" && (s.Identity == nil || s.Identity.Secret != "phone" || len(s.Identity.Addresses) != 1) {
			t.Errorf("%q: identity %+v", in, s.Identity)
		}
		if ok := strings.HasPrefix(want, "ok"); ok != (s.User != "") || ok != (len(s.Results) == 1) {
			t.Errorf("%q: user %q, results %v", in, s.User, s.Results)
		}
	}
	for _, secret := range []string{"secret", "nobody", "Secret", "first"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("log has %q:\n%s", secret, log)
		}
	}
	if !strings.Contains(log.String(), "user=alice") || !strings.Contains(log.String(), "remote=192.0.2.1") {
		t.Errorf("log:\n%s", log)
	}
}

func TestExchanges(t *testing.T) {
	h, _, err := newHandler(t, twoSources(t))
	if err != nil {
		t.Fatal(err)
	}
	b := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		mech      string
		responses [][]byte
		want      string
	}{
		{"PLAIN", [][]byte{nil, b("\x00alice\x00secret")}, "|ok alice PLAIN"},
		{"LOGIN", [][]byte{nil, b("alice"), b("secret")}, "Username:|Password:|ok alice LOGIN"},
		{"LOGIN", [][]byte{b("alice"), b("secret")}, "Password:|ok alice LOGIN"},
		{"LOGIN", [][]byte{b("alice"), b("wrong")}, "Password:|535 5.7.8 authentication credentials invalid"},
		{"LOGIN", [][]byte{b(""), b("")}, "Password:|535 5.7.8 authentication credentials invalid"},
		{"CRAM-MD5", nil, "504 5.5.4 mechanism not supported"},
	} {
		if got := run(t, h, client(), c.mech, c.responses...); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.mech, c.responses, got, c.want)
		}
	}
	for _, mech := range []string{"PLAIN", "LOGIN"} {
		srv, err := h.Authenticate(context.Background(), client(), mech)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if _, _, err = srv.Next(b("\x00a\x00b")); i == 3 && !errors.Is(err, errOver) {
				t.Errorf("%s goes on: %v", mech, err)
			}
		}
	}
}

func TestMail(t *testing.T) {
	h := new(Handler)
	tx := &session.Transaction{Session: client()}
	if err := h.HandleMail(context.Background(), tx); err == nil || mail.ReplyFor(err).Error() != "530 5.7.0 authentication required" {
		t.Error(err)
	}
	h.Optional = true
	if err := h.HandleMail(context.Background(), tx); err != nil {
		t.Error(err)
	}
	h.Optional, tx.Session.User = false, "alice"
	if err := h.HandleMail(context.Background(), tx); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	h, _, err := newHandler(t, `{"sources":[{"source":"test_checker","user":"x"}],"mechanisms":["login"]}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Mechanisms(nil); len(got) != 1 || got[0] != "LOGIN" {
		t.Error(got)
	}
	if got := run(t, h, client(), "PLAIN"); !strings.HasPrefix(got, "504") {
		t.Error("not offered, but served:", got)
	}
	for config, want := range map[string]string{
		`{}`: "no credential source",
		`{"sources":[{"source":"test_useless"}]}`:                        "can serve no mechanism",
		`{"sources":[{"source":"test_checker"}],"mechanisms":["NTLM"]}`:  "unknown mechanism 'NTLM'",
		`{"sources":[{"source":"test_useless"}],"mechanisms":["PLAIN"]}`: "no source can serve PLAIN",
		`{"sources":[{"source":"test_checker"}],"concurrency":-1}`:       "concurrency is negative",
		`{"sources":[{"source":"nothing"}]}`:                             "unknown module: smtp.auth.nothing",
	} {
		if _, _, err := newHandler(t, config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", config, err, want)
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"auth test_hashes a": `{"sources":[{"source":"test_hashes"}]}`,
		"auth {\ntest_hashes a\ntest_hashes b\noptional\nmechanisms PLAIN\nconcurrency 2\n}": `{"sources":[{"source":"test_hashes"},{"source":"test_hashes"}],"optional":true,"mechanisms":["PLAIN"],"concurrency":2}`,
		"auth {\nfiel /a\n}":            "unrecognized option 'fiel', at Testfile:2",
		"auth nothing":                  "unrecognized option 'nothing', at Testfile:1",
		"auth {\nmechanisms\n}":         "wrong argument count or unexpected line ending after 'mechanisms', at Testfile:2",
		"auth {\nconcurrency none\n}":   "option 'concurrency': 'none' is not a number of 1 or more, at Testfile:2",
		"auth {\noptional\noptional\n}": "option 'optional' is given twice, at Testfile:3",
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

func TestCache(t *testing.T) {
	h, _, err := newHandler(t, twoSources(t))
	if err != nil {
		t.Fatal(err)
	}
	p := h.passwords
	counted := &counter{comparer: p.comparers["bcrypt"]}
	p.comparers["bcrypt"] = counted
	good := hash(t, "secret")
	compare := func(hash, password string, want bool, times int) {
		t.Helper()
		counted.n = 0
		if ok, err := p.compare(context.Background(), "alice", hash, password); ok != want || err != nil || counted.n != times {
			t.Errorf("%v %v, %d times", ok, err, counted.n)
		}
	}
	compare(good, "secret", true, 1)
	compare(good, "secret", true, 0)
	compare(good, "wrong", false, 1)
	compare(good, "wrong", false, 1)
	compare(hash(t, "new"), "secret", false, 1)
	for k := range p.seen {
		p.seen[k] = time.Now().Add(-time.Second)
	}
	compare(good, "secret", true, 1)
	for i := range 3 * cacheMax {
		p.remember(p.id(fmt.Sprint(i)))
	}
	if len(p.seen) > cacheMax {
		t.Error(len(p.seen), "in the cache")
	}
	if p.id("a", "bc") == p.id("ab", "c") {
		t.Error("parts run into one another")
	}
}

// TestForms is of passwords that are compared with other things than hashes.
func TestForms(t *testing.T) {
	h, _, err := newHandler(t, twoSources(t))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := login.NewKeys(login.SHA256, "secret", 4096)
	if err != nil {
		t.Fatal(err)
	}
	for _, verifier := range []string{keys.String(), "{PLAIN}secret"} {
		for password, want := range map[string]bool{"secret": true, "Secret": false, "": false} {
			if ok, err := h.passwords.compare(context.Background(), "alice", verifier, password); ok != want || err != nil {
				t.Errorf("%s: %q %v %v", verifier, password, ok, err)
			}
		}
	}
}

type counter struct {
	comparer
	n int
}

func (c *counter) Compare(hashed, plaintext []byte) (bool, error) {
	c.n++
	return c.comparer.Compare(hashed, plaintext)
}

// TestSameWork is of a user that exists, one that does not, and one that cannot:
// each costs one comparison with a hash of the same kind.
func TestSameWork(t *testing.T) {
	h, _, err := newHandler(t, twoSources(t))
	if err != nil {
		t.Fatal(err)
	}
	seen := &recorder{}
	h.passwords.comparers["bcrypt"] = seen
	for _, user := range []string{"alice", "nobody", "a b"} {
		seen.hashes = nil
		run(t, h, client(), "PLAIN", []byte("\x00"+user+"\x00wrong"))
		if len(seen.hashes) != 1 || !strings.HasPrefix(seen.hashes[0], "$2a$04$") {
			t.Errorf("%s: %q", user, seen.hashes)
		}
	}
}

// TestNoPassword is of a user that a source knows but has no hash of.
func TestNoPassword(t *testing.T) {
	h, _, err := newHandler(t, `{"sources":[{"source":"test_hashes","users":{"eve":""}}]}`)
	if err != nil {
		t.Fatal(err)
	}
	seen := &recorder{}
	h.passwords.comparers["bcrypt"] = seen
	if got := run(t, h, client(), "PLAIN", []byte("\x00eve\x00x")); !strings.HasPrefix(got, "535") || len(seen.hashes) != 1 {
		t.Error(got, seen.hashes)
	}
}

type recorder struct{ hashes []string }

func (r *recorder) Compare(hashed, _ []byte) (bool, error) {
	r.hashes = append(r.hashes, string(hashed))
	return false, nil
}

func TestBusy(t *testing.T) {
	h, _, err := newHandler(t, strings.TrimSuffix(twoSources(t), "}")+`,"concurrency":1}`)
	if err != nil {
		t.Fatal(err)
	}
	h.passwords.slots <- struct{}{}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	srv, err := h.Authenticate(ctx, client(), "PLAIN")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := srv.Next([]byte("\x00alice\x00secret")); err == nil || mail.ReplyFor(err).Code != 454 {
		t.Error(err)
	}
}

// TestWithout: what a service sends back of a secret does not get into the log.
func TestWithout(t *testing.T) {
	x := &exchange{secret: `a"b`}
	if got := x.without(fmt.Errorf(`a"b is wrong, says %q`, `<a"b>`)); got != `[secret] is wrong, says "<[secret]>"` {
		t.Error(got)
	}
	if got := (&exchange{}).without(errors.New("away")); got != "away" {
		t.Error(got)
	}
}
