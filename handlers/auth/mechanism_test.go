package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func init() {
	caddy.RegisterModule(new(users))
	caddy.RegisterModule(new(tokenSource))
	caddy.RegisterModule(new(certSource))
}

// users has secrets in all forms.
type users struct {
	Texts map[string]string `json:"users,omitempty"`

	users  login.Users
	logins []string
}

func (*users) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.test_users", New: func() caddy.Module { return new(users) }}
}

func (u *users) Provision(caddy.Context) error {
	u.users = login.Users{}
	for name, text := range u.Texts {
		for i, secret := range strings.Split(text, "|") {
			if err := u.users.Add(name, []string{"", "phone"}[i], secret); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u *users) Account(_ context.Context, user string) (*login.Account, error) {
	if user == "broken" {
		return nil, errors.New("down")
	}
	if user == "moving" {
		return nil, mail.Refuse(432, "4.7.12", "a password transition is needed")
	}
	return u.users[user], nil
}

func (u *users) Forms() login.Forms    { return u.users.Forms() }
func (u *users) AnyForms() login.Forms { return u.users.AnyForms() }

func (u *users) SampleHash() string { return u.users.Sample() }

func (u *users) LoggedIn(id *login.Identity) { u.logins = append(u.logins, id.User+"/"+id.Secret) }

// tokenSource knows the token "good" of alice.
type tokenSource struct{}

func (*tokenSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.test_tokens", New: func() caddy.Module { return new(tokenSource) }}
}

func (*tokenSource) CheckToken(_ context.Context, user, token string) (*login.Identity, error) {
	switch {
	case token == "broken":
		return nil, errors.New("issuer is down")
	case token == "good" && (user == "" || user == "alice"):
		return &login.Identity{User: "alice"}, nil
	}
	return nil, nil
}

func (*tokenSource) Discovery() (string, string) { return "https://issuer.test/.well-known", "mail" }

// certSource knows the certificate of alice.
type certSource struct{}

func (*certSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.test_certs", New: func() caddy.Module { return new(certSource) }}
}

func (*certSource) CheckCertificate(_ context.Context, st *tls.ConnectionState) (*login.Identity, error) {
	switch cn := st.VerifiedChains[0][0].Subject.CommonName; cn {
	case "alice":
		return &login.Identity{User: cn}, nil
	case "broken":
		return nil, errors.New("down")
	}
	return nil, nil
}

// Keys of "pencil", with the salts and counts of RFC 5802 and RFC 7677.
const (
	keys1   = "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:D+CSWLOshSulAsxiupA+qs2/fTE="
	keys256 = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)

// sources is a configuration of the handler with users and more sources.
func sources(users map[string]string, more string) string {
	b, _ := json.Marshal(users)
	return fmt.Sprintf(`{"sources":[{"source":"test_users","users":%s}%s`, b, more)
}

func withHandler(t *testing.T, config string) *Handler {
	t.Helper()
	h, _, err := newHandler(t, config)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func certifiedClient(cn string) *session.Session {
	s := client()
	cert := new(x509.Certificate)
	cert.Subject.CommonName = cn
	s.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
	return s
}

func TestOffered(t *testing.T) {
	both := keys1 + " " + keys256
	clear, secure, cert := client(), client(), certifiedClient("alice")
	_, secure.TLS = handshake(t)
	for _, c := range []struct {
		name, config string
		s            *session.Session
		want         string
	}{
		{"hashes", sources(map[string]string{"a": hash(t, "x")}, `]}`), secure, "PLAIN LOGIN"},
		{"keys", sources(map[string]string{"a": both}, `]}`), clear, "SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN"},
		{"keys, bound", sources(map[string]string{"a": both}, `]}`), secure, "SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN"},
		{"not for everyone", sources(map[string]string{"a": both, "b": keys256, "c": keys256 + " " + hash(t, "x")}, `]}`), clear, "SCRAM-SHA-256 PLAIN LOGIN"},
		{"not for other sources", sources(map[string]string{"a": both}, `,{"source":"test_checker","user":"bob"}]}`), secure, "PLAIN LOGIN"},
		{"but named", sources(map[string]string{"a": both}, `,{"source":"test_checker","user":"bob"}],"mechanisms":["scram-sha-256","plain"]}`), secure, "SCRAM-SHA-256 PLAIN"},
		{"plain", sources(map[string]string{"a": "{PLAIN}x"}, `]}`), clear, "SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN"},
		{"CRAM-MD5 named", sources(map[string]string{"a": "{PLAIN}x"}, `],"mechanisms":["CRAM-MD5","PLAIN"]}`), clear, "PLAIN CRAM-MD5"},
		{"tokens", `{"sources":[{"source":"test_tokens"}]}`, secure, "OAUTHBEARER XOAUTH2"},
		{"certificate", `{"sources":[{"source":"test_certs"},{"source":"test_checker","user":"bob"}]}`, cert, "EXTERNAL PLAIN LOGIN"},
		{"no certificate", `{"sources":[{"source":"test_certs"},{"source":"test_checker","user":"bob"}]}`, secure, "PLAIN LOGIN"},
		{"sink", `{"mechanisms":["ANONYMOUS"]}`, clear, "ANONYMOUS"},
	} {
		h := withHandler(t, c.config)
		if got := strings.Join(h.Mechanisms(c.s), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestMechanismErrors(t *testing.T) {
	hashed := map[string]string{"a": hash(t, "x")}
	for config, want := range map[string]string{
		sources(hashed, `],"mechanisms":["PLAIN","plain"]}`): "auth: mechanism PLAIN is named twice",
		sources(hashed, `],"mechanisms":["SCRAM-SHA-256"]}`): "auth: no source can serve SCRAM-SHA-256",
		sources(hashed, `],"mechanisms":["CRAM-MD5"]}`):      "auth: no source can serve CRAM-MD5",
		sources(hashed, `],"mechanisms":["EXTERNAL"]}`):      "auth: no source can serve EXTERNAL",
		sources(hashed, `],"mechanisms":["OAUTHBEARER"]}`):   "auth: no source can serve OAUTHBEARER",
		sources(hashed, `],"mechanisms":["DIGEST-MD5"]}`):    "auth: unknown mechanism 'DIGEST-MD5'",
		`{"mechanisms":["ANONYMOUS","PLAIN"]}`:               "auth: no source can serve PLAIN",
		`{}`:                                                 "auth: no credential source",
		`{"sources":[{"source":"test_useless"}]}`:            "auth: the sources can serve no mechanism",
		`{"sources":[{"source":"test_certs"}]}`:              "",
	} {
		got := ""
		if _, _, err := newHandler(t, config); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", config, got, want)
		}
	}
}

func TestNotOffered(t *testing.T) {
	h := withHandler(t, sources(map[string]string{"a": keys256 + " {PLAIN}x"}, `],"mechanisms":["SCRAM-SHA-256"]}`))
	for mech, want := range map[string]string{
		"PLAIN": "534 5.7.9 authentication mechanism is too weak", "CRAM-MD5": "534 5.7.9 authentication mechanism is too weak",
		"SCRAM-SHA-256": "", "SCRAM-SHA-256-PLUS": "", "EXTERNAL": "", "OAUTHBEARER": "", "NTLM": "",
	} {
		got := ""
		if r := h.NotOffered(client(), mech); r != nil {
			got = r.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", mech, got, want)
		}
	}
}

// TestCRAM has the exchange of RFC 2195, section 2, and its failures.
func TestCRAM(t *testing.T) {
	const challenge, digest = "<1896.697170952@postoffice.reston.mci.net>", "b913a602c7eda7a495b4e6e7334d3890"
	h := withHandler(t, sources(map[string]string{"tim": "{PLAIN}tanstaaftanstaaf", "bob": hash(t, "x"), "two": "{PLAIN}other|{PLAIN}tanstaaftanstaaf"}, `],"mechanisms":["CRAM-MD5"]}`))
	for response, want := range map[string]string{
		"tim " + digest: "ok tim CRAM-MD5", "TIM " + strings.ToUpper(digest): "ok tim CRAM-MD5", "two " + digest: "ok two CRAM-MD5",
		"tim b913a602c7eda7a495b4e6e7334d3891": "535", "bob " + digest: "535", "nobody " + digest: "535", "a b " + digest: "535", " " + digest: "535",
		"tim": "501 5.5.2", "": "501 5.5.2", "tim " + digest + "00": "501 5.5.2", "tim x": "501 5.5.2", "broken " + digest: "454 4.7.0", "moving " + digest: "432 4.7.12",
	} {
		s := client()
		srv := &cram{exchange: &exchange{h: h, ctx: t.Context(), s: s, mechanism: "CRAM-MD5"}, challenge: challenge}
		_, done, err := srv.Next([]byte(response))
		got := fmt.Sprint("ok ", s.User, " ", s.Method)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) || done != (err == nil) && err == nil {
			t.Errorf("%q: %s, want %s", response, got, want)
		}
		if _, _, err := srv.Next(nil); err == nil && srv.over {
			t.Errorf("%q: goes on", response)
		}
	}
	if got := run(t, h, client(), "CRAM-MD5", []byte("tim "+digest)); got != "501 5.5.4 mechanism has no initial response" {
		t.Error(got)
	}
	one, two := run(t, h, client(), "CRAM-MD5", nil), run(t, h, client(), "CRAM-MD5", nil)
	if one == two || !strings.HasPrefix(one, "<") {
		t.Error(one, two)
	}
}

func TestBearer(t *testing.T) {
	h := withHandler(t, `{"sources":[{"source":"test_certs"},{"source":"test_tokens"}]}`)
	const (
		oauthNo = `{"status":"invalid_token","scope":"mail","openid-configuration":"https://issuer.test/.well-known"}`
		xNo     = `{"status":"401","schemes":"bearer","scope":"mail"}`
	)
	for _, c := range []struct{ mech, response, challenge, want string }{
		{"OAUTHBEARER", "n,a=alice,\x01host=mx.test\x01port=587\x01auth=Bearer good\x01\x01", "", "ok"},
		{"OAUTHBEARER", "n,,\x01auth=bearer good\x01\x01", "", "ok"},
		{"OAUTHBEARER", "n,a=,\x01auth=Bearer good\x01\x01", "", "ok"},
		{"OAUTHBEARER", "y,a=ALICE,\x01auth=Bearer good\x01\x01", "", "ok"},
		{"OAUTHBEARER", "n,a=bob,\x01auth=Bearer good\x01\x01", oauthNo, "535 5.7.8"},
		{"OAUTHBEARER", "n,a=a b,\x01auth=Bearer good\x01\x01", oauthNo, "535 5.7.8"},
		{"OAUTHBEARER", "n,a=al=2Cice,\x01auth=Bearer good\x01\x01", oauthNo, "535 5.7.8"},
		{"OAUTHBEARER", "n,,\x01auth=Bearer bad\x01\x01", oauthNo, "535 5.7.8"},
		{"OAUTHBEARER", "n,,\x01auth=Bearer broken\x01\x01", "", "454 4.7.0"},
		{"OAUTHBEARER", "p=tls-exporter,,\x01auth=Bearer good\x01\x01", "", "501 5.5.2"},
		{"OAUTHBEARER", "n,,\x01auth=Bearer good\x01", "", "501 5.5.2"},
		{"OAUTHBEARER", "n,,\x01auth=Basic good\x01\x01", "", "501 5.5.2"},
		{"OAUTHBEARER", "n,,\x01auth=Bearer good\x01auth=Bearer good\x01\x01", "", "501 5.5.2"},
		{"OAUTHBEARER", "n,,\x01auth=Bearer go od\x01\x01", "", "501 5.5.2"},
		{"OAUTHBEARER", "n,,\x01host=mx.test\x01\x01", "", "501 5.5.2"},
		{"OAUTHBEARER", "n,b=alice,\x01auth=Bearer good\x01\x01", "", "501 5.5.2"},
		{"OAUTHBEARER", "", "", "501 5.5.2"}, {"OAUTHBEARER", "\x01", "", "501 5.5.2"}, {"OAUTHBEARER", "n,,\xff\x01\x01", "", "501 5.5.2"},
		{"XOAUTH2", "user=alice\x01auth=Bearer good\x01\x01", "", "ok"},
		{"XOAUTH2", "user=alice\x01auth=Bearer bad\x01\x01", xNo, "535 5.7.8"},
		{"XOAUTH2", "user=bob\x01auth=Bearer good\x01\x01", xNo, "535 5.7.8"},
		{"XOAUTH2", "auth=Bearer good\x01\x01", "", "501 5.5.2"}, {"XOAUTH2", "user=\x01auth=Bearer good\x01\x01", "", "501 5.5.2"},
		{"XOAUTH2", "alice\x01auth=Bearer good\x01\x01", "", "501 5.5.2"}, {"XOAUTH2", "user=alice\x01\x01", "", "501 5.5.2"},
	} {
		s := client()
		srv, err := h.Authenticate(t.Context(), s, c.mech)
		if err != nil {
			t.Fatal(err)
		}
		if ch, done, err := srv.Next(nil); len(ch) > 0 || done || err != nil {
			t.Errorf("%s begins with %q %v", c.mech, ch, err)
		}
		challenge, done, err := srv.Next([]byte(c.response))
		got := "ok"
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || string(challenge) != c.challenge || done != (c.want == "ok") && c.want == "ok" || (s.User == "alice") != (c.want == "ok") {
			t.Errorf("%s %q: %q, %s, user %q, want %q, %s", c.mech, c.response, challenge, got, s.User, c.challenge, c.want)
		}
	}
}

func TestExternal(t *testing.T) {
	h := withHandler(t, `{"sources":[{"source":"test_certs"},{"source":"test_checker","user":"bob"}]}`)
	for _, c := range []struct{ cn, response, want string }{
		{"alice", "", "ok alice EXTERNAL"}, {"alice", "Alice", "ok alice EXTERNAL"}, {"alice", "bob", "535"}, {"alice", "a b", "535"},
		{"bob", "", "535"}, {"bob", "bob", "535"}, {"broken", "", "454"}, {"alice", "\xff", "501"}, {"alice", "alice\x00", "501"},
	} {
		if got := run(t, h, certifiedClient(c.cn), "EXTERNAL", []byte(c.response)); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %q: %s, want %s", c.cn, c.response, got, c.want)
		}
	}
	if got := run(t, h, certifiedClient("alice"), "EXTERNAL", nil, []byte("")); got != "|ok alice EXTERNAL" {
		t.Error(got)
	}
	unverified := client()
	unverified.TLS = &tls.ConnectionState{PeerCertificates: certifiedClient("alice").TLS.VerifiedChains[0]}
	if got := run(t, h, unverified, "EXTERNAL", []byte("")); !strings.HasPrefix(got, "504") {
		t.Error("unverified:", got)
	}
}

func TestAnonymous(t *testing.T) {
	h, log, err := newHandler(t, `{"mechanisms":["ANONYMOUS"]}`)
	if err != nil {
		t.Fatal(err)
	}
	for trace, want := range map[string]string{
		"sirhc": "ok  ANONYMOUS", "": "ok  ANONYMOUS", "a\nuser=root\x1b[2J": "ok  ANONYMOUS", strings.Repeat("ü", 255): "ok  ANONYMOUS",
		strings.Repeat("x", 256): "501", "\xff": "501",
	} {
		s := client()
		if got := run(t, h, s, "ANONYMOUS", []byte(trace)); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %s, want %s", trace, got, want)
		}
		if s.User != "" || len(s.Results) > 0 {
			t.Errorf("%q: %q is a user of ours", trace, s.User)
		}
		tx := &session.Transaction{Session: s}
		if err := h.HandleMail(t.Context(), tx); (err == nil) != (want != "501") {
			t.Errorf("%q: MAIL %v", trace, err)
		}
	}
	if !strings.Contains(log.String(), "trace=sirhc") || strings.ContainsAny(log.String(), "\x1b") || !strings.Contains(log.String(), "auser=root[2J") {
		t.Errorf("log:\n%s", log)
	}
}

// TestRecorder: a source hears of logins with its accounts, and by which secret.
func TestRecorder(t *testing.T) {
	h := withHandler(t, sources(map[string]string{"alice": hash(t, "main") + "|" + hash(t, "app")}, `,{"source":"test_checker","user":"bob"}]}`))
	for _, r := range []string{"\x00alice\x00main", "\x00alice\x00wrong", "\x00bob\x00bob", "\x00alice\x00app"} {
		run(t, h, client(), "PLAIN", []byte(r))
	}
	if got := h.sources[0].(*users).logins; !slices.Equal(got, []string{"alice/", "alice/phone"}) {
		t.Errorf("%q", got)
	}
}

// TestEmptyPassword: directories take a bind without a password for none, and
// say yes.
func TestEmptyPassword(t *testing.T) {
	h := withHandler(t, `{"sources":[{"source":"test_checker"}]}`)
	if got := run(t, h, client(), "PLAIN", []byte("\x00bob\x00")); !strings.HasPrefix(got, "535") {
		t.Error(got)
	}
}

func FuzzBearer(f *testing.F) {
	f.Add("n,a=alice,\x01host=mx.test\x01auth=Bearer good\x01\x01")
	f.Add("user=alice\x01auth=Bearer good\x01\x01")
	f.Fuzz(func(t *testing.T, message string) {
		for _, parse := range []func(string) (claim, error){parseOAuthBearer, parseXOAuth2} {
			if c, err := parse(message); err == nil && (!isToken(c.token) || !strings.Contains(message, c.token)) {
				t.Errorf("%q: %+v", message, c)
			}
		}
	})
}
