package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/go-jose/go-jose/v4"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

const configuration = "/.well-known/openid-configuration"

func TestIdentity(t *testing.T) {
	f := newFake(t)
	f.publish(public(rsaKey(), "k"))
	s, _ := f.source(t, &Source{Scopes: []string{"mail"}, AddressClaims: []string{"email", "aliases"}, Attributes: []string{"quota", "groups", "none", "object"}})
	token := sign(t, jose.RS256, rsaKey(), "k", f.good(map[string]any{"aliases": []any{"a@example.test", 7, "*@example.net"}, "quota": 7, "groups": []any{"a", "b"}, "object": map[string]any{}, "email_verified": true}))
	for user, ok := range map[string]bool{"": true, "alice@example.test": true, "bob@example.test": false, "1234": false, "alice": false} {
		id, err := s.CheckToken(t.Context(), user, token)
		if err != nil || (id != nil) != ok {
			t.Errorf("%s: %v %v", user, id, err)
		}
		if want := (&login.Identity{User: "alice@example.test", Addresses: []string{"Alice@example.test", "a@example.test", "*@example.net"}, Attributes: map[string]string{"quota": "7", "groups": "a, b"}}); ok && !reflect.DeepEqual(id, want) {
			t.Errorf("%+v", id)
		}
	}
	if c, scope := s.Discovery(); c != f.URL+configuration || scope != "mail" {
		t.Error(c, scope)
	}
	if f.times(configuration) != 1 || f.times("/keys") != 1 {
		t.Error("it asks more than once:", f.asked)
	}
	bySub, _ := f.source(t, &Source{UserClaim: "sub", AddressClaims: []string{"email"}})
	for c, want := range map[string]*login.Identity{
		`{"email_verified":false}`:       {User: "1234", Attributes: map[string]string{}},
		`{"email":"*@example.test"}`:     {User: "1234", Attributes: map[string]string{}},
		`{"email":["x@example.test"]}`:   {User: "1234", Attributes: map[string]string{}, Addresses: []string{"x@example.test"}},
		`{"email_verified":"true"}`:      {User: "1234", Attributes: map[string]string{}, Addresses: []string{"Alice@example.test"}},
		`{"sub":7}`:                      nil,
		`{"sub":"a b"}`:                  nil,
		`{"sub":"","preferred":"alice"}`: nil,
	} {
		var change map[string]any
		json.Unmarshal([]byte(c), &change)
		if id, err := bySub.CheckToken(t.Context(), "", sign(t, jose.RS256, rsaKey(), "k", f.good(change))); err != nil || !reflect.DeepEqual(id, want) {
			t.Errorf("%s: %+v %v", c, id, err)
		}
	}
}

// TestClaims: what is not for us, not now, or not of the issuer.
func TestClaims(t *testing.T) {
	f := newFake(t)
	f.publish(public(rsaKey(), "k"))
	s, _ := f.source(t, &Source{Scopes: []string{"mail", "openid"}, Audience: []string{"smtp", "mail"}})
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for _, c := range []struct {
		name   string
		change map[string]any
		ok     bool
	}{
		{"as it is", nil, true},
		{"audiences", map[string]any{"aud": []any{"x", "mail"}}, true},
		{"another's", map[string]any{"aud": "imap"}, false}, {"others'", map[string]any{"aud": []any{"imap", 7}}, false},
		{"nobody's", map[string]any{"aud": nil}, false}, {"part of a name", map[string]any{"aud": "smtp2"}, false},
		{"wrong issuer", map[string]any{"iss": "https://other.test"}, false}, {"issuer with a slash", map[string]any{"iss": f.URL + "/"}, false},
		{"no issuer", map[string]any{"iss": nil}, false}, {"a list of issuers", map[string]any{"iss": []any{f.URL}}, false},
		{"expired", map[string]any{"exp": in(-2 * time.Minute)}, false}, {"expired just now", map[string]any{"exp": in(-30 * time.Second)}, true},
		{"for ever", map[string]any{"exp": nil}, false}, {"until text", map[string]any{"exp": "never"}, false},
		{"until null", map[string]any{"exp": json.RawMessage("null")}, false}, {"until far", map[string]any{"exp": 1e300}, false},
		{"a fraction", map[string]any{"exp": float64(in(time.Hour)) + .5}, true},
		{"before", map[string]any{"exp": -1}, false},
		{"not yet", map[string]any{"nbf": in(2 * time.Minute)}, false}, {"in a moment", map[string]any{"nbf": in(30 * time.Second)}, true},
		{"from text", map[string]any{"nbf": "now"}, false}, {"issued later", map[string]any{"iat": in(2 * time.Minute)}, false},
		{"no scope", map[string]any{"scope": nil}, false}, {"one scope", map[string]any{"scope": "mail"}, false},
		{"a longer scope", map[string]any{"scope": "openid mails"}, false}, {"scp", map[string]any{"scope": nil, "scp": []any{"openid", "mail"}}, true},
		{"not verified", map[string]any{"email_verified": false}, false}, {"verified", map[string]any{"email_verified": true}, true},
		{"no email", map[string]any{"email": nil}, false}, {"no text", map[string]any{"email": 7}, false},
		{"a pattern", map[string]any{"email": "*@example.test"}, false}, {"no name", map[string]any{"email": "a b@example.test"}, false},
	} {
		id, err := s.CheckToken(t.Context(), "", sign(t, jose.RS256, rsaKey(), "k", f.good(c.change)))
		if err != nil || (id != nil) != c.ok {
			t.Errorf("%s: %v %v", c.name, id, err)
		}
	}
	for _, text := range []string{"", "{}", "[]", "null", `"x"`, `{"a":`, "{} {}"} {
		if id, err := s.CheckToken(t.Context(), "", sign(t, jose.RS256, rsaKey(), "k", text)); id != nil || err != nil {
			t.Errorf("claims %s: %v %v", text, id, err)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	f := newFake(t)
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	weak, err := x509.ParsePKCS1PrivateKey(weakKey(t))
	if err != nil {
		t.Fatal(err)
	}
	restricted, encryption := public(rsaKey(), "ps"), public(rsaKey(), "enc")
	restricted.Algorithm, encryption.Use = "PS256", "enc"
	f.publish(public(rsaKey(), "rsa"), public(p256, "p256"), public(p384, "p384"), public(ed, "ed"), public(weak, "weak"), restricted, encryption,
		jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "oct"}, jose.JSONWebKey{Key: rsaKey(), KeyID: "private"})
	s, _ := f.source(t, &Source{})
	der, _ := x509.MarshalPKIXPublicKey(rsaKey().Public())
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	c, _ := json.Marshal(f.good(nil))
	good := sign(t, jose.RS256, rsaKey(), "rsa", string(c))
	parts := strings.Split(good, ".")
	stranger, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	embedded, _ := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: stranger}, &jose.SignerOptions{EmbedJWK: true})
	jws, _ := embedded.Sign(c)
	own, _ := jws.CompactSerialize()
	for _, x := range []struct {
		name, token string
		ok          bool
	}{
		{"RS256", good, true}, {"RS512", sign(t, jose.RS512, rsaKey(), "rsa", string(c)), true}, {"PS256", sign(t, jose.PS256, rsaKey(), "ps", string(c)), true},
		{"ES256", sign(t, jose.ES256, p256, "p256", string(c)), true}, {"ES384", sign(t, jose.ES384, p384, "p384", string(c)), true},
		{"EdDSA", sign(t, jose.EdDSA, ed, "ed", string(c)), true}, {"no kid", sign(t, jose.EdDSA, ed, "", string(c)), true},
		{"HS256 with PEM", sign(t, jose.HS256, asPEM, "rsa", string(c)), false}, {"HS256 with DER", sign(t, jose.HS256, der, "rsa", string(c)), false},
		{"HS256 with a published secret", sign(t, jose.HS256, []byte("0123456789abcdef0123456789abcdef"), "oct", string(c)), false},
		{"none", encode(`{"alg":"none","kid":"rsa"}`, string(c), ""), false}, {"None", encode(`{"alg":"None"}`, string(c), ""), false},
		{"no algorithm", encode(`{"kid":"rsa"}`, string(c), ""), false}, {"no signature", parts[0] + "." + parts[1] + ".", false},
		{"other claims", parts[0] + "." + encode(strings.Replace(string(c), "Alice", "Malle", 1)) + "." + parts[2], false},
		{"another's kid", sign(t, jose.RS256, rsaKey(), "p256", string(c)), false}, {"weak RSA", sign(t, jose.RS256, weak, "weak", string(c)), false},
		{"an algorithm that the key is not for", sign(t, jose.RS256, rsaKey(), "ps", string(c)), false}, {"for encryption", sign(t, jose.RS256, rsaKey(), "enc", string(c)), false},
		{"a key published whole", sign(t, jose.RS256, rsaKey(), "private", string(c)), false}, {"its own key", own, false},
		{"empty", "", false}, {"no JWT", "opaque", false}, {"dots", "..", false}, {"five parts", good + ".a.b", false}, {"huge", strings.Repeat("a", maxToken+1), false},
	} {
		if id, err := s.CheckToken(t.Context(), "", x.token); err != nil || (id != nil) != x.ok {
			t.Errorf("%s: %v %v", x.name, id, err)
		}
	}
}

// weakKey is of 1024 bits, as crypto/rsa makes none by default.
func weakKey(t *testing.T) []byte {
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return x509.MarshalPKCS1PrivateKey(key)
}

// TestRotation: a new key is found, and made up ones do not flood the issuer.
func TestRotation(t *testing.T) {
	f := newFake(t)
	f.publish(public(rsaKey(), "old"))
	s, now := f.source(t, &Source{})
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	old, renewed := sign(t, jose.RS256, rsaKey(), "old", f.good(nil)), sign(t, jose.EdDSA, ed, "new", f.good(nil))
	unnamed := sign(t, jose.EdDSA, ed, "", f.good(nil))
	check := func(name, token string, ok bool, fetches int) {
		t.Helper()
		if id, err := s.CheckToken(t.Context(), "", token); err != nil || (id != nil) != ok || f.times("/keys") != fetches {
			t.Errorf("%s: %v %v, after %d fetches", name, id, err, f.times("/keys"))
		}
	}
	check("the first", old, true, 1)
	check("too early", renewed, false, 1)
	f.publish(public(ed, "new"))
	var wg sync.WaitGroup
	*now = now.Add(pause)
	for i := range 100 {
		wg.Go(func() { s.CheckToken(t.Context(), "", sign(t, jose.EdDSA, ed, fmt.Sprint("flood", i), f.good(nil))) })
	}
	wg.Wait()
	check("after the flood", renewed, true, 2)
	check("its key is gone", old, false, 2)
	f.publish(public(rsaKey(), "old"))
	*now = now.Add(pause)
	check("no key named", unnamed, true, 2)
	check("back", old, true, 3)
	*now = now.Add(pause)
	check("no key named, gone", unnamed, false, 4)
	*now = now.Add(fresh + time.Minute)
	check("after an hour", sign(t, jose.RS256, rsaKey(), "old", f.good(map[string]any{"exp": now.Add(time.Minute).Unix()})), true, 5)
}

// TestOutage: while the issuer cannot be asked, nobody is told that he is wrong.
func TestOutage(t *testing.T) {
	canary := "canary"
	huge := func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q}`, strings.Repeat("x", maxBody))
	}
	stop := make(chan bool)
	slow := func(http.ResponseWriter, *http.Request) { <-stop }
	away := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/keys2", http.StatusFound)
	}
	f := newFake(t)
	defer close(stop)
	key := public(rsaKey(), canary)
	f.publish(key)
	f.set("/keys2", func(w http.ResponseWriter, _ *http.Request) {
		t.Error("a redirect was followed")
	})
	for _, path := range []string{configuration, "/keys"} {
		for name, answer := range map[string]http.HandlerFunc{
			"500": status(500), "404": status(404), "401": status(401), "huge": huge, "slow": slow, "redirect": away,
			"no JSON": says("<html>"), "empty": says(""), "other JSON": says(`{"issuer":"https://other.test","keys":[{"kty":"oct","k":"AAAA"},7]}`), "hangs up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		} {
			s, now := f.source(t, &Source{Timeout: caddy.Duration(200 * time.Millisecond)})
			if name != "slow" {
				s.Timeout = caddy.Duration(5 * time.Second)
				s.issuer.client.Timeout = 5 * time.Second
			}
			f.set(path, answer)
			token := sign(t, jose.RS256, rsaKey(), canary, f.good(map[string]any{"sub": canary}))
			before := f.times(path)
			for range 3 {
				id, err := s.CheckToken(t.Context(), "", token)
				if id != nil || err == nil || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), token[:20]) {
					t.Errorf("%s %s: %v %v", path, name, id, err)
				}
			}
			if n := f.times(path) - before; n != 1 && (n > 2 || name != "hangs up") { // net/http asks again there
				t.Errorf("%s %s: asked %d times", path, name, n)
			}
			f.set(path, nil)
			*now = now.Add(retry)
			if id, err := s.CheckToken(t.Context(), "", token); id == nil || err != nil {
				t.Errorf("%s %s: not good again: %v %v", path, name, id, err)
			}
		}
	}
}

// TestStale: keys that are there do for a day.
func TestStale(t *testing.T) {
	f := newFake(t)
	f.publish(public(rsaKey(), "k"))
	s, now := f.source(t, &Source{})
	token := func(kid string) string {
		return sign(t, jose.RS256, rsaKey(), kid, f.good(map[string]any{"exp": now.Add(time.Minute).Unix()}))
	}
	if id, err := s.CheckToken(t.Context(), "", token("k")); id == nil || err != nil {
		t.Fatal(id, err)
	}
	f.set("/keys", status(500))
	*now = now.Add(2 * time.Hour)
	for range 2 {
		if id, err := s.CheckToken(t.Context(), "", token("k")); id == nil || err != nil {
			t.Error(id, err)
		}
		if id, err := s.CheckToken(t.Context(), "", token("unknown")); id != nil || err == nil {
			t.Error("unknown while the issuer is down:", id, err)
		}
	}
	*now = now.Add(stale)
	if id, err := s.CheckToken(t.Context(), "", token("k")); id != nil || err == nil {
		t.Error(id, err)
	}
}

// TestMetadata: it does not lead astray, and a stranger is no issuer.
func TestMetadata(t *testing.T) {
	for _, keys := range []string{"", "http://127.0.0.1:1/keys", "http://a.test/", "file:///etc/passwd", "https://a:b@c.test/", "://"} {
		f := newFake(t)
		f.metadata["jwks_uri"] = keys
		s, _ := f.source(t, &Source{})
		if _, err := s.CheckToken(t.Context(), "", sign(t, jose.RS256, rsaKey(), "k", f.good(nil))); err == nil || !strings.Contains(err.Error(), "no secure URL") {
			t.Errorf("%s: %v", keys, err)
		}
	}
	f := newFake(t)
	s, _ := f.source(t, &Source{})
	s.issuer.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
	if _, err := s.CheckToken(t.Context(), "", sign(t, jose.RS256, rsaKey(), "k", f.good(nil))); err == nil || f.times(configuration) != 0 {
		t.Error("a stranger's certificate is taken:", err)
	}
}

func TestIntrospection(t *testing.T) {
	f := newFake(t)
	t.Setenv("OIDC_SECRET", "s3:cret/+")
	s, _ := f.source(t, &Source{UserClaim: "username", Scopes: []string{"mail"}, Introspection: &Introspection{ClientID: "smtp id", ClientSecret: "{env.OIDC_SECRET}"}})
	var asked string
	answer := func(text string) {
		f.set("/introspect", func(w http.ResponseWriter, r *http.Request) {
			id, secret, _ := r.BasicAuth()
			asked = r.Method + " " + id + " " + secret + " " + r.FormValue("token") + " " + r.FormValue("token_type_hint")
			fmt.Fprint(w, text)
		})
	}
	exp := time.Now().Add(time.Hour).Unix()
	for text, want := range map[string]string{
		`{"active":true,"username":"Alice","aud":"smtp","scope":"mail"}`:                                                "alice",
		fmt.Sprintf(`{"active":true,"username":"alice","aud":["smtp"],"scope":"a mail","exp":%d,"iss":%q}`, exp, f.URL): "alice",
		`{"active":false}`: "", `{"active":false,"username":"alice","aud":"smtp","scope":"mail"}`: "", `{"active":"true","username":"alice","aud":"smtp","scope":"mail"}`: "",
		`{"username":"alice","aud":"smtp","scope":"mail"}`: "", `{"active":true,"aud":"smtp","scope":"mail"}`: "", `{"active":true,"username":"alice","scope":"mail"}`: "",
		`{"active":true,"username":"alice","aud":"smtp"}`: "", `{"active":true,"username":"alice","aud":"smtp","scope":"mail","exp":1}`: "",
		`{"active":true,"username":"alice","aud":"smtp","scope":"mail","iss":"https://other.test"}`: "",
		"": "error", "[]": "error", "null": "error", "<html>": "error", `{"active":true} {}`: "error", `"` + strings.Repeat("x", maxBody) + `"`: "error",
	} {
		answer(text)
		id, err := s.CheckToken(t.Context(), "", "opaque-canary")
		got := ""
		if id != nil {
			got = id.User
		}
		if err != nil {
			got = "error"
			if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "cret") {
				t.Error(err)
			}
		}
		if got != want {
			t.Errorf("%.60s: %v %v", text, id, err)
		}
		if asked != "POST smtp+id s3%3Acret%2F%2B opaque-canary access_token" {
			t.Error(asked)
		}
	}
	answer(`{"active":true,"username":"Alice","aud":"smtp","scope":"mail"}`)
	for range 20 {
		if id, err := s.CheckToken(t.Context(), "alice", "x"); id == nil || err != nil {
			t.Error("after the issuer has closed a connection:", id, err)
		}
		f.CloseClientConnections()
	}
	if id, err := s.CheckToken(t.Context(), "bob", "x"); id != nil || err != nil {
		t.Error("another's token:", id, err)
	}
	for _, n := range []int{401, 403, 302, 500, 204} {
		f.set("/introspect", status(n))
		if id, err := s.CheckToken(t.Context(), "", "opaque-canary"); id != nil || err == nil || strings.Contains(err.Error(), "canary") {
			t.Error(n, id, err)
		}
	}
	if f.times(configuration) != 1 || f.times("/keys") != 0 {
		t.Error(f.asked)
	}
	f.Close()
	if id, err := s.CheckToken(t.Context(), "", "opaque-canary"); id != nil || err == nil || strings.Contains(err.Error(), "canary") {
		t.Error(id, err)
	}
}

// TestClientGone: one who goes away does not end what others wait for.
func TestClientGone(t *testing.T) {
	f := newFake(t)
	f.publish(public(rsaKey(), "k"))
	s, _ := f.source(t, &Source{})
	ctx, cancel := context.WithCancel(t.Context())
	f.set("/keys", func(w http.ResponseWriter, r *http.Request) {
		cancel()
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: f.keys})
	})
	s.CheckToken(ctx, "", sign(t, jose.RS256, rsaKey(), "k", f.good(nil)))
	if id, err := s.CheckToken(t.Context(), "", sign(t, jose.RS256, rsaKey(), "k", f.good(nil))); id == nil || err != nil || f.times("/keys") != 1 {
		t.Error(id, err, f.asked)
	}
}

// TestReload: 200 configurations leave neither goroutines nor files behind.
func TestReload(t *testing.T) {
	f := newFake(t)
	f.publish(public(rsaKey(), "k"))
	token := sign(t, jose.RS256, rsaKey(), "k", f.good(nil))
	count := func() (goroutines, files int) {
		runtime.GC()
		list, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(list)
	}
	g, n := count()
	for i := range 200 {
		s := &Source{Issuer: f.URL, Audience: []string{"smtp"}, CARaw: f.ca()}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		if err := s.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		if f.times("/keys") != i {
			t.Fatal("it asks before anybody logs in")
		}
		if id, err := s.CheckToken(ctx, "", token); id == nil || err != nil {
			t.Fatal(err)
		}
		cancel()
		s.Cleanup()
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g2, n2 := count()
		if g2 <= g+5 && n2 <= n+5 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("goroutines %d, were %d; files %d, were %d", g2, g, n2, n)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	smtp := []string{"smtp"}
	for want, s := range map[string]*Source{
		"issuer is not": {Audience: smtp}, "an https://": {Issuer: "http://a.test", Audience: smtp}, "https:// URL": {Issuer: "https://a:b@c.test", Audience: smtp},
		"audience is wanted": {Issuer: "https://a.test"}, "tokens for any": {Issuer: "https://a.test", Introspection: &Introspection{ClientID: "a"}},
		"skew is not": {Issuer: "https://a.test", Audience: smtp, Skew: -1}, "0 to 10m": {Issuer: "https://a.test", Audience: smtp, Skew: caddy.Duration(time.Hour)},
		"timeout is": {Issuer: "https://a.test", Audience: smtp, Timeout: -1}, "issuer: ": {Issuer: "https://{env.NO_SUCH_VARIABLE}", Audience: smtp},
		"client: ": {Issuer: "https://a.test", Introspection: &Introspection{ClientID: "{env.NO_SUCH_VARIABLE}"}}, "client secret: ": {Issuer: "https://a.test", Introspection: &Introspection{ClientID: "a", ClientSecret: "{env.NO_SUCH_VARIABLE}"}},
		"without a client": {Issuer: "https://a.test", Audience: smtp, Introspection: &Introspection{}}, "ca: ": {Issuer: "https://a.test", Audience: smtp, CARaw: json.RawMessage(`{"provider":"none"}`)},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		err := s.Provision(ctx)
		if err == nil {
			err = s.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		cancel()
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"oidc https://a/ {\naudience smtp mail\nscopes a b\nuser_claim sub\naddress_claims email\nattributes c d\nintrospection id {env.S}\nskew 5s\ntimeout 2s\n}": `{"issuer":"https://a/","audience":["smtp","mail"],"scopes":["a","b"],"user_claim":"sub","address_claims":["email"],"attributes":["c","d"],"introspection":{"client_id":"id","client_secret":"{env.S}"},"skew":5000000000,"timeout":2000000000}`,
		"oidc":                              "wrong argument count or unexpected line ending after 'oidc', at Testfile:1",
		"oidc a b":                          "wrong argument count or unexpected line ending after 'a', at Testfile:1",
		"oidc a {\naudience x\nsecret y\n}": "unrecognized option 'secret', at Testfile:3",
		"oidc a {\nintrospection x\n}":      "wrong argument count or unexpected line ending after 'x', at Testfile:2",
	} {
		s := new(Source)
		err := s.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		got, _ := json.Marshal(s)
		if err != nil {
			got = fmt.Append(nil, err)
		}
		if string(got) != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzCheckToken: go-jose reads tokens, and nobody but the issuer makes them.
func FuzzCheckToken(f *testing.F) {
	i := newFake(f)
	i.publish(public(rsaKey(), "k"))
	s, _ := i.source(f, &Source{})
	good := sign(f, jose.RS256, rsaKey(), "k", i.good(nil))
	for _, seed := range []string{good[:len(good)-300], "", "..", encode(`{"alg":"none"}`, "{}", ""), encode(`{"alg":"RS256","kid":"k","crit":["b64"],"b64":false}`, "{}", "x")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if id, err := s.CheckToken(t.Context(), "", token); id != nil || err != nil {
			t.Errorf("%v %v", id, err)
		}
	})
}

// FuzzClaims: whatever is signed is checked, and does no harm.
func FuzzClaims(f *testing.F) {
	s := &Source{Audience: []string{"smtp"}, UserClaim: "email", AddressClaims: []string{"email"}, Attributes: []string{"a"}, issuer: &issuer{name: "i"}}
	for _, seed := range []string{`{}`, `{"iss":"i","aud":"smtp","exp":9999999999,"email":"a@b.test","a":[1,{}]}`, `{"exp":1e999}`, `{"aud":[[]],"nbf":-0.0}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseClaims(b)
		if err == nil && s.valid(c, time.Now()) && (c["iss"] != "i" || c["exp"] == nil) {
			t.Error("valid without an issuer or an end")
		}
		if id := s.identity(c); id != nil && id.User == "" {
			t.Error("an identity of nobody")
		}
	})
}
