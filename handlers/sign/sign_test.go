package sign

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	msgauth "github.com/emersion/go-msgauth/dkim"

	"github.com/caddymail/caddy-smtp/smtpapp/dkimkey"
	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
	"github.com/caddymail/caddy-smtp/smtpapp/env"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() { caddy.RegisterModule(new(fake)) }

// fake is a table of domains.
type fake struct {
	Entries map[string]string `json:"entries,omitempty"`
}

func (*fake) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.tables.fake", New: func() caddy.Module { return new(fake) }}
}

func (*fake) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

func (f *fake) Lookup(_ context.Context, key string) ([]string, bool, error) {
	if key == "fails.test" {
		return nil, false, errors.New("down")
	}
	v, ok := f.Entries[key]
	return strings.Fields(v), ok, nil
}

// disk is a storage of one process.
type disk struct {
	sync.Mutex
	files map[string][]byte
	away  bool
}

func (*disk) Lock(context.Context, string) error   { return nil }
func (*disk) Unlock(context.Context, string) error { return nil }
func (d *disk) Store(_ context.Context, k string, v []byte) error {
	d.Mutex.Lock()
	defer d.Mutex.Unlock()
	d.files[k] = v
	return nil
}

func (d *disk) Load(_ context.Context, k string) ([]byte, error) {
	d.Mutex.Lock()
	defer d.Mutex.Unlock()
	if v, ok := d.files[k]; ok {
		return v, nil
	}
	return nil, fs.ErrNotExist
}
func (*disk) Delete(context.Context, string) error { return nil }
func (d *disk) List(_ context.Context, dir string, _ bool) (names []string, err error) {
	d.Mutex.Lock()
	defer d.Mutex.Unlock()
	if d.away {
		return nil, errors.New("away")
	}
	for n := range maps.Keys(d.files) {
		if strings.HasPrefix(n, dir+"/") {
			names = append(names, n)
		}
	}
	return names, nil
}

func read(t testing.TB, text string) *Handler {
	t.Helper()
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
		t.Fatal(err)
	}
	return h
}

// start provisions a handler and starts it.
func start(t testing.TB, h *Handler) *Handler {
	t.Helper()
	h.storage = &disk{files: map[string][]byte{}}
	if err := provision(t, h); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	return h
}

func provision(t testing.TB, h *Handler) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(t.Context(), &env.Env{Resolver: new(dnstest.Zone)})})
	t.Cleanup(cancel)
	if h.storage == nil {
		h.storage = new(disk)
	}
	err := h.Provision(ctx)
	t.Cleanup(func() { h.Cleanup() })
	if err == nil {
		h.log = slog.New(slog.DiscardHandler)
		err = h.Validate()
	}
	return err
}

// signed has a message of a user of ours signed and returns the domains whose
// signatures verify, and the reply.
func signed(t testing.TB, h *Handler, from, content string) (domains []string, reply *mail.Reply) {
	t.Helper()
	m, err := message.Parse([]byte(strings.ReplaceAll(content, "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	tx := &session.Transaction{Session: &session.Session{User: "u"}, Envelope: new(mail.Envelope)}
	if from != "" {
		if tx.Envelope.From, err = mail.ParseAddress(from); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.HandleMessage(t.Context(), tx, m); err != nil {
		return nil, mail.ReplyFor(err)
	}
	r, err := m.NewReader()
	if err != nil {
		t.Fatal(err)
	}
	vs, err := msgauth.VerifyWithOptions(r, &msgauth.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		for _, ring := range h.DKIMRings() {
			for _, s := range ring.Status() {
				if s.Name == name {
					return []string{s.Record}, nil
				}
			}
		}
		return nil, errors.New("no record")
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vs {
		if v.Err != nil {
			t.Errorf("%s: %v", v.Domain, v.Err)
		}
		domains = append(domains, v.Domain)
	}
	return domains, nil
}

const withTable = `{"domains":["example.test","*.sub.test","*.example.test"],"generate":{"algorithms":["ed25519"]},` +
	`"table":{"table":"fake","entries":{"hosted.test":"","shared.test":"example.test","x.sub.test":"example.test","bad.test":"bad..test"}}}`

// TestWhoIsSigned: the author's domain decides, then the reverse-path's, then
// the default.
func TestWhoIsSigned(t *testing.T) {
	configured := func(extra func(*Handler)) *Handler {
		h := new(Handler)
		if err := json.Unmarshal([]byte(withTable), h); err != nil {
			t.Fatal(err)
		}
		extra(h)
		return start(t, h)
	}
	plain := configured(func(*Handler) {})
	catch := configured(func(h *Handler) { h.Default = "Default.test" })
	for name, tc := range map[string]struct {
		h            *Handler
		path, header string
		want         string // domain, reply, or ""
	}{
		"own domain":             {plain, "", "From: a@example.test", "example.test"},
		"in any case":            {plain, "", "From: A <a@EXAMPLE.test>", "example.test"},
		"below, with a wildcard": {plain, "", "From: a@b.sub.test", "sub.test"},
		"far below":              {plain, "", "From: a@c.b.sub.test", "sub.test"},
		"the wildcard's own":     {plain, "", "From: a@sub.test", ""},
		"table, its own key":     {plain, "", "From: a@hosted.test", "hosted.test"},
		"table, another's":       {plain, "", "From: a@shared.test", "example.test"},
		"table before wildcard":  {plain, "", "From: a@x.sub.test", "example.test"},
		"not ours":               {plain, "", "From: a@elsewhere.test", ""},
		"looks alike":            {plain, "", "From: a@notexample.test", ""},
		"a literal":              {plain, "", "From: a@[192.0.2.1]", ""},
		"the reverse-path's":     {plain, "bounce@example.test", "From: a@elsewhere.test", "example.test"},
		"default":                {catch, "a@elsewhere.test", "From: a@elsewhere.test", "default.test"},
		"own before default":     {catch, "", "From: a@example.test", "example.test"},
		"two authors":            {plain, "", "From: a@example.test, b@shared.test\nSender: a@example.test", "example.test"},
		"two authors, one ours":  {plain, "", "From: a@example.test, b@elsewhere.test\nSender: a@example.test", ""},
		"two authors, two keys":  {plain, "", "From: a@example.test, b@hosted.test\nSender: a@example.test", ""},
		"two From":               {plain, "a@example.test", "From: a@example.test\nFrom: b@elsewhere.test", "550"},
		"two From, one ours":     {plain, "a@elsewhere.test", "From: a@example.test\nFrom: b@elsewhere.test", "550"},
		"two From, ours last":    {plain, "a@elsewhere.test", "From: b@elsewhere.test\nFrom: a@example.test", "550"},
		"two From, none ours":    {plain, "a@elsewhere.test", "From: a@elsewhere.test\nFrom: b@elsewhere.test", ""},
		"two From, both ours":    {plain, "", "From: a@example.test\nFrom: b@example.test", "550"},
		"our From, a space":      {plain, "", "From : a@example.test", "550"},
		"our From, a group":      {plain, "x@elsewhere.test", "From: g: a@example.test;", "550"},
		"no From":                {plain, "a@example.test", "To: a@example.test", "550"},
		"no From, not ours":      {plain, "", "To: a@example.test", ""},
		"nonsense":               {plain, "a@example.test", "From: a@example.test@elsewhere.test", "550"},
		"space before colon":     {plain, "a@example.test", "From : a@example.test", "550"},
		"malformed, default":     {catch, "", "From: <a", "550"},
		"table is down":          {plain, "", "From: a@fails.test", "451"},
		"table has nonsense":     {plain, "", "From: a@bad.test", "451"},
	} {
		got, r := signed(t, tc.h, tc.path, tc.header+"\nSubject: x\n\nbody\n")
		said := strings.Join(got, " ")
		if r != nil {
			said = r.Error()[:3]
		}
		if said != tc.want {
			t.Errorf("%s: got %q, want %q (%v)", name, said, tc.want, r)
		}
	}
}

// TestSpellings: an internationalised domain is the same in either form.
func TestSpellings(t *testing.T) {
	for _, domain := range []string{"bücher.test", "xn--bcher-kva.test", "*.test"} {
		h := start(t, &Handler{Domains: []string{domain}, Generate: Generate{Algorithms: []dkimkey.Algorithm{dkimkey.Ed25519}}})
		want := "xn--bcher-kva.test"
		if domain == "*.test" {
			want = "test"
		}
		for _, from := range []string{"a@bücher.test", "a@BÜCHER.test", "a@xn--bcher-kva.test", "a@bu\u0308cher.test"} {
			if got, reply := signed(t, h, "", "From: "+from+"\n\nx\n"); reply != nil || len(got) != 1 || got[0] != want {
				t.Errorf("%s for %s: %q, %v", domain, from, got, reply)
			}
		}
	}
}

func TestMalformedPasses(t *testing.T) {
	h := start(t, read(t, "sign example.test {\n malformed pass\n algorithms ed25519\n}"))
	if got, r := signed(t, h, "a@example.test", "From: a@example.test\nFrom: b@x.test\n\nx\n"); got != nil || r != nil {
		t.Errorf("got %v, %v", got, r)
	}
}

// TestBoth: by default there are two signatures, RSA's on top.
func TestBoth(t *testing.T) {
	h := start(t, read(t, "sign example.test"))
	got, r := signed(t, h, "", "From: a@example.test\n\nx\n")
	if r != nil || strings.Join(got, " ") != "example.test example.test" {
		t.Fatalf("got %v, %v", got, r)
	}
	if st := h.DKIMRings()[0].Status(); len(st) != 2 || !strings.HasPrefix(st[0].Record, "v=DKIM1; k=") {
		t.Errorf("got %+v", st)
	}
}

func TestForm(t *testing.T) {
	for text, want := range map[string][]string{
		"canonicalization simple/relaxed\n identity domain\n expire 5d": {"c=simple/relaxed;", "i=@example.test;", "x="},
		"identity address\n headers X-Mailer Subject":                   {"c=relaxed/relaxed;", "i=a@example.test;", ":x-mailer:x-mailer;"},
	} {
		h := start(t, read(t, "sign example.test {\n algorithms ed25519\n "+text+"\n}"))
		m, err := message.Parse([]byte("From: a@example.test\r\nX-Mailer: x\r\n\r\nx\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.SignOwn(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		got := m.Header.Get("DKIM-Signature")
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: lacks %s: %s", text, w, got)
			}
		}
	}
}

// TestIdentity: i= never names another domain than that of the key, or a part
// of it.
func TestIdentity(t *testing.T) {
	h := start(t, read(t, "sign *.example.test {\n algorithms ed25519\n default example.test\n identity address\n}"))
	for from, want := range map[string]string{
		"a@sub.example.test": "i=a@sub.example.test;", "a@elsewhere.test": "", "J\u00fcrgen@sub.example.test": "i=@sub.example.test;",
		"a@sub.example.test, b@sub.example.test": "i=@sub.example.test;",
	} {
		m, err := message.Parse([]byte("From: " + from + "\r\n\r\nx\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.SignOwn(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get("DKIM-Signature"); !strings.Contains(got, want) || want == "" && strings.Contains(got, " i=") {
			t.Errorf("%s: got %s", from, got)
		}
	}
}

// TestEvent: whoever publishes keys hears of new ones.
func TestEvent(t *testing.T) {
	events := make(chan map[string]any, 9)
	e := &env.Env{Resolver: new(dnstest.Zone), Events: func(name string, data map[string]any) {
		if name == "smtp_dkim_key_made" {
			events <- data
		}
	}}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: env.NewContext(t.Context(), e)})
	defer cancel()
	h := read(t, "sign example.test {\n algorithms ed25519\n}")
	h.storage = &disk{files: map[string][]byte{}}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	defer h.Cleanup()
	if got := env.All[env.Starter](e); len(got) != 1 || got[0] != env.Starter(h) {
		t.Fatalf("it offers %v to be started", got)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	data := <-events
	name, _ := data["name"].(string)
	if rec, _ := data["record"].(string); !strings.HasSuffix(name, "._domainkey.example.test") || !strings.HasPrefix(rec, "v=DKIM1; k=ed25519; p=") {
		t.Errorf("got %v", data)
	}
}

// TestNoKeyYet: better late than unsigned.
func TestNoKeyYet(t *testing.T) {
	h := read(t, "sign example.test")
	h.storage = &disk{away: true}
	if err := provision(t, h); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	if got, r := signed(t, h, "", "From: a@example.test\n\nx\n"); r == nil || r.Code != 451 || got != nil {
		t.Errorf("got %v, %v", got, r)
	}
	if got, r := signed(t, h, "", "From: a@elsewhere.test\n\nx\n"); r != nil || got != nil {
		t.Errorf("not ours: got %v, %v", got, r)
	}
}

// TestNodes: handlers that share Caddy's storage, in files, share the keys, which
// nobody else can read.
func TestNodes(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	var all sync.WaitGroup
	got := make([]string, 4)
	for i := range got {
		h := read(t, "sign example.test")
		h.storage = storage
		if err := provision(t, h); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			h.Start()
			ks, err := h.ring("example.test").Keys(t.Context())
			for _, k := range ks {
				rec, _ := k.Record()
				got[i] += k.Name() + " " + rec + "\n"
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(slices.Compact(slices.Clone(got))) != 1 || strings.Count(got[0], "\n") != 2 {
		t.Errorf("they sign with %v", got)
	}
	files, err := filepath.Glob(filepath.Join(storage.Path, "smtp/dkim/example.test/*"))
	if err != nil || len(files) != 2 {
		t.Errorf("stored %v, %v", files, err)
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st.Mode(), err)
		}
	}
}

const seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="

// TestGivenKeys: from the environment, from a file by its name or by {file.*}.
func TestGivenKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(seed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SIGN_TEST_KEY", seed)
	h := start(t, read(t, `sign example.test other.test {
		key one {env.SIGN_TEST_KEY}
		key two `+file+` example.test
		key three {file.`+file+`} third.test
	}`))
	got, r := signed(t, h, "", "From: a@example.test\n\nx\n")
	if r != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, r)
	}
	var names []string
	for _, ring := range h.DKIMRings() {
		for _, s := range ring.Status() {
			names = append(names, s.Name)
		}
	}
	want := []string{
		"one._domainkey.example.test", "two._domainkey.example.test", "one._domainkey.other.test", "three._domainkey.third.test",
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("got %v", names)
	}
	if n := len(h.storage.(*disk).files); n != 0 {
		t.Errorf("%d keys were made", n)
	}
	if h.DKIMRing("example.test") == nil || h.DKIMRing("elsewhere.test") != nil {
		t.Error("whose keys are whose?")
	}
	if err := h.DKIMRing("example.test").Rotate(t.Context(), false); !errors.Is(err, dkimkey.ErrGiven) {
		t.Errorf("got %v", err)
	}
}

// TestKeyFileMode: a key that everybody may read, or put another in the place of, is
// not taken (promise P31).
func TestKeyFileMode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(seed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]bool{0o600: true, 0o640: true, 0o400: true, 0o644: false, 0o602: false} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		err := provision(t, read(t, "sign example.test {\n key one "+file+"\n}"))
		if (err == nil) != want || err != nil && (!strings.Contains(err.Error(), "everybody may use it") || strings.Contains(err.Error(), seed)) {
			t.Errorf("%04o: %v", mode, err)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	for text, want := range map[string]string{
		"sign":                                   "no domain to sign for, at Testfile:1",
		"sign {\n any_client\n}":                 "no domain to sign for",
		"sign a.test {\n key s\n}":               "wrong argument count",
		"sign a.test {\n key s a b c\n}":         "wrong argument count",
		"sign a.test {\n rotate never\n}":        "invalid",
		"sign a.test {\n rotate 0s\n}":           "neither off nor a time",
		"sign a.test {\n sing b.test\n}":         "unrecognized option 'sing', at Testfile:2",
		"sign a.test {\n rsa_bits 1024\n}":       "2048 or more",
		"sign a.test {\n expire 1d\n expire 2d}": "given twice",
	} {
		if err := new(Handler).UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"sign a..test":                                  "not a domain",
		"sign [192.0.2.1]":                              "no DNS records",
		"sign a.test {\n default *\n}":                  "not a domain",
		"sign a.test {\n malformed maybe\n}":            "neither refuse nor pass",
		"sign a.test {\n identity user\n}":              "neither domain nor address",
		"sign a.test {\n canonicalization nowsp\n}":     "unknown canonicalization",
		"sign a.test {\n headers A:B\n}":                "not the name of a field",
		"sign a.test {\n algorithms rsa dsa\n}":         "neither rsa nor ed25519",
		"sign a.test {\n algorithms rsa rsa\n}":         "there twice",
		"sign a.test {\n rsa_bits 8192\n}":              "8192 is not 2048 to 4096",
		"sign a.test {\n overlap 1m\n}":                 "an hour or more",
		"sign a.test {\n rotate 8d\n overlap 5d\n}":     "at least two of them",
		"sign a.test {\n selector .x\n}":                "beginning of a label",
		"sign a.test {\n key s_1! " + seed + "\n}":      "not a selector",
		"sign a.test {\n key s /no/such/file\n}":        "no such file",
		"sign a.test {\n key s {env.SIGN_TEST_NONE}\n}": "key s",
		"sign a.test {\n key s " + seed + " a..b\n}":    "not a domain",
	} {
		err := provision(t, read(t, text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), seed) || strings.Contains(err.Error(), "/no/such")) {
			t.Errorf("%s: the error tells too much: %v", text, err)
		}
	}
}

// TestSeals: it comes last, and may refuse only those that it signs for.
func TestSeals(t *testing.T) {
	if (&Handler{}).Seals() != session.Signature || !(&Handler{}).OnlyAnnotates() || (&Handler{AnyClient: true}).OnlyAnnotates() {
		t.Error("it says something else of itself")
	}
}
