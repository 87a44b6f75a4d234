package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	xdg "github.com/xdg-go/scram"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

// handshake returns both sides of a TLS connection.
func handshake(t *testing.T) (theirs, ours *tls.ConnectionState) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	c := tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	done := make(chan error)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	if err := errors.Join(c.HandshakeContext(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	cs, ss := c.ConnectionState(), s.ConnectionState()
	return &cs, &ss
}

// scramLogin logs in with another implementation of the client, and returns the
// server's challenge and how it ended.
func scramLogin(t *testing.T, h *Handler, s *session.Session, mech, user, password string, binding *xdg.ChannelBinding) (first, end string) {
	t.Helper()
	hash := xdg.SHA256
	if strings.HasPrefix(mech, "SCRAM-SHA-1") {
		hash = xdg.SHA1
	}
	c, err := hash.NewClient(user, password, "")
	if err != nil {
		t.Fatal(err)
	}
	conv := c.NewConversation()
	if binding != nil {
		conv = c.NewConversationWithChannelBinding(*binding)
	}
	srv, err := h.Authenticate(t.Context(), s, mech)
	if err != nil {
		return "", err.Error()
	}
	c1, err := conv.Step("")
	if err != nil {
		t.Fatal(err)
	}
	s1, _, err := srv.Next([]byte(c1))
	if err != nil {
		return "", err.Error()
	}
	c2, err := conv.Step(string(s1))
	if err != nil {
		t.Fatal(err)
	}
	s2, done, err := srv.Next([]byte(c2))
	if err != nil {
		return string(s1), string(s2) + err.Error()
	}
	if _, err := conv.Step(string(s2)); err != nil || !conv.Valid() || !done {
		return string(s1), "the client does not believe us"
	}
	return string(s1), "ok " + s.User + " " + s.Method
}

func TestScram(t *testing.T) {
	phone, err := login.DeriveKeys(login.SHA256, "phone", mustKeys(t, keys256).Salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	h := withHandler(t, sources(map[string]string{
		"alice": keys1 + " " + keys256 + "|" + phone.String(), "paul": "{PLAIN}pencil", "hal": hash(t, "pencil"),
	}, `],"mechanisms":["SCRAM-SHA-1","SCRAM-SHA-256","SCRAM-SHA-1-PLUS","SCRAM-SHA-256-PLUS"]}`))
	theirs, ours := handshake(t)
	exporter, err := xdg.NewTLSExporterBinding(theirs)
	if err != nil {
		t.Fatal(err)
	}
	other := exporter
	other.Data = []byte("what somebody in between has")
	const wrong = "535 5.7.8 authentication credentials invalid (invalid-proof)"
	for _, c := range []struct {
		mech, user, password string
		tls                  bool
		binding              *xdg.ChannelBinding
		want                 string
	}{
		{"SCRAM-SHA-256", "alice", "pencil", false, nil, "ok alice SCRAM-SHA-256"},
		{"SCRAM-SHA-1", "Alice", "pencil", false, nil, "ok alice SCRAM-SHA-1"},
		{"SCRAM-SHA-256", "alice", "phone", false, nil, "ok alice SCRAM-SHA-256"},
		{"SCRAM-SHA-256", "alice", "Pencil", false, nil, wrong},
		{"SCRAM-SHA-256", "paul", "pencil", false, nil, "ok paul SCRAM-SHA-256"},
		{"SCRAM-SHA-1", "paul", "pencil", false, nil, "ok paul SCRAM-SHA-1"},
		{"SCRAM-SHA-256", "paul", "-", false, nil, wrong},
		{"SCRAM-SHA-256", "hal", "pencil", false, nil, wrong},
		{"SCRAM-SHA-256", "nobody", "pencil", false, nil, wrong},
		{"SCRAM-SHA-256", "nobody", "-", false, nil, wrong},
		{"SCRAM-SHA-256", "broken", "pencil", false, nil, "454 4.7.0 temporary authentication failure"},
		{"SCRAM-SHA-256-PLUS", "alice", "pencil", false, &exporter, "504 5.5.4 mechanism not supported"},
		{"SCRAM-SHA-256-PLUS", "alice", "pencil", true, &exporter, "ok alice SCRAM-SHA-256-PLUS"},
		{"SCRAM-SHA-1-PLUS", "alice", "pencil", true, &exporter, "ok alice SCRAM-SHA-1-PLUS"},
		{"SCRAM-SHA-256-PLUS", "alice", "pencil", true, &other, "535 5.7.8 authentication credentials invalid (channel-bindings-dont-match)"},
		{"SCRAM-SHA-256-PLUS", "alice", "pencil", true, nil, "535 5.7.8 authentication credentials invalid (server-does-support-channel-binding)"},
		{"SCRAM-SHA-256-PLUS", "alice", "pencil", true, &xdg.ChannelBinding{Type: "tls-unique", Data: []byte("x")}, "504 5.5.4 not supported (unsupported-channel-binding-type)"},
		{"SCRAM-SHA-256", "alice", "pencil", true, nil, "ok alice SCRAM-SHA-256"},
	} {
		s := client()
		if c.tls {
			s.TLS = ours
		}
		if _, got := scramLogin(t, h, s, c.mech, c.user, c.password, c.binding); got != c.want {
			t.Errorf("%s %s %s: %s, want %s", c.mech, c.user, c.password, got, c.want)
		}
	}
	if got := h.sources[0].(*users).logins; len(got) != 8 || got[2] != "alice/phone" {
		t.Errorf("logins %q", got)
	}
}

func mustKeys(t *testing.T, text string) login.Keys {
	t.Helper()
	k, err := login.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestScramMalformed(t *testing.T) {
	h := withHandler(t, sources(map[string]string{"alice": keys256}, `]}`))
	_, ours := handshake(t)
	for _, c := range []struct {
		tls       bool
		responses []string
		want      string
	}{
		{false, []string{""}, "501 5.5.2"}, {false, []string{"n,,n=alice"}, "501 5.5.2"}, {false, []string{"n,a=bob,n=alice,r=x"}, "535 5.7.8"},
		{false, []string{"n,a=ALICE,n=alice,r=x", "c=biws"}, "501 5.5.2"}, {false, []string{"n,,m=x,n=alice,r=x"}, "504 5.5.4"},
		{false, []string{"y,,n=alice,r=x", ""}, "501 5.5.2"}, {true, []string{"y,,n=alice,r=x"}, "535 5.7.8 authentication credentials invalid (server-does-support-channel-binding)"},
		{false, []string{"p=tls-exporter,,n=alice,r=x"}, "535 5.7.8"},
	} {
		s := client()
		if c.tls {
			s.TLS = ours
		}
		srv, err := h.Authenticate(t.Context(), s, "SCRAM-SHA-256")
		if err != nil {
			t.Fatal(err)
		}
		if ch, done, err := srv.Next(nil); len(ch) > 0 || done || err != nil {
			t.Error(ch, done, err)
		}
		for _, r := range c.responses {
			_, _, err = srv.Next([]byte(r))
		}
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.responses, err, c.want)
		}
		if _, _, err := srv.Next([]byte("x")); !errors.Is(err, errOver) {
			t.Errorf("%q goes on: %v", c.responses, err)
		}
	}
}

var saltAndCount = regexp.MustCompile(`,s=.*`)

// TestDecoys: a user that does not exist looks like one that does, today and
// tomorrow.
func TestDecoys(t *testing.T) {
	config := sources(map[string]string{"alice": keys256, "bob": keys256}, `]}`)
	h := withHandler(t, config)
	shown := func(h *Handler, user string) string {
		first, _ := scramLogin(t, h, client(), "SCRAM-SHA-256", user, "x", nil)
		return saltAndCount.FindString(first)
	}
	real, one := shown(h, "alice"), shown(h, "nobody")
	if len(one) != len(real) || !strings.HasSuffix(one, "i=4096") || one == real || one == shown(h, "noone") || one != shown(h, "NOBODY") {
		t.Errorf("alice %s, nobody %s, noone %s", real, one, shown(h, "noone"))
	}
	restarted := withHandler(t, config)
	restarted.decoys.storage = h.decoys.storage
	if again := shown(restarted, "nobody"); again != one {
		t.Errorf("after a restart %s, before %s", again, one)
	}
	if elsewhere := shown(withHandler(t, config), "nobody"); elsewhere == one {
		t.Error("the salt can be guessed")
	}
}

// broken is a storage that is away.
type broken struct{ certmagic.Storage }

func (broken) Load(context.Context, string) ([]byte, error) {
	return nil, errors.New("storage is away")
}

func TestDecoyStorage(t *testing.T) {
	file := &certmagic.FileStorage{Path: t.TempDir()}
	var st certmagic.Storage = broken{}
	log := new(strings.Builder)
	d := &decoys{storage: func() certmagic.Storage { return st }, log: slog.New(slog.NewTextHandler(log, nil))}
	salt := func() string {
		s, err := d.salt(t.Context(), "SHA-256", "nobody")
		if err != nil {
			t.Fatal(err)
		}
		return string(s)
	}
	one := salt()
	if st = file; salt() != one || strings.Count(log.String(), "storage is away") != 1 {
		t.Errorf("asked again at once:\n%s", log)
	}
	if _, err := file.Load(t.Context(), decoyKey); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	d.until = time.Now()
	two := salt()
	if key, err := file.Load(t.Context(), decoyKey); two == one || err != nil || len(key) != 32 {
		t.Error("not kept:", err)
	}
	if err := file.Store(t.Context(), decoyKey, []byte("short")); err != nil {
		t.Fatal(err)
	}
	if salt() != two {
		t.Error("read again")
	}
	d.key = nil
	if salt(); !strings.Contains(log.String(), "damaged") {
		t.Errorf("log:\n%s", log)
	}
}
