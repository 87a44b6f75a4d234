package oidc

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/go-jose/go-jose/v4"
)

// rsaKey is made once, since that takes long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// A fake is an issuer.
type fake struct {
	*httptest.Server
	mu       sync.Mutex
	keys     []jose.JSONWebKey
	asked    map[string]int // how often, by path
	answers  map[string]http.HandlerFunc
	metadata map[string]any
}

func newFake(t testing.TB) *fake {
	f := &fake{asked: map[string]int{}, answers: map[string]http.HandlerFunc{}}
	f.Server = httptest.NewTLSServer(f)
	f.Config.ErrorLog = nil
	t.Cleanup(f.Close)
	f.metadata = map[string]any{"issuer": f.URL, "jwks_uri": f.URL + "/keys", "introspection_endpoint": f.URL + "/introspect"}
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked[r.URL.Path]++
	answer, metadata, keys := f.answers[r.URL.Path], f.metadata, jose.JSONWebKeySet{Keys: f.keys}
	f.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case r.URL.Path == "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(metadata)
	case r.URL.Path == "/keys":
		json.NewEncoder(w).Encode(keys)
	default:
		w.WriteHeader(404)
	}
}

// set makes a path answer in a way, nil for the usual one.
func (f *fake) set(path string, answer http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[path] = answer
}

func (f *fake) publish(keys ...jose.JSONWebKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys = keys
}

func (f *fake) times(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[path]
}

// ca is the configuration that trusts the issuer's certificate.
func (f *fake) ca() json.RawMessage {
	b, _ := json.Marshal(map[string]any{"provider": "inline", "trusted_ca_certs": []string{base64.StdEncoding.EncodeToString(f.Certificate().Raw)}})
	return b
}

// source is one that asks f, by a clock that stands still.
func (f *fake) source(t testing.TB, s *Source) (*Source, *time.Time) {
	t.Helper()
	if s.Issuer == "" {
		s.Issuer = f.URL
	}
	if s.Audience == nil {
		s.Audience = []string{"smtp"}
	}
	s.CARaw = f.ca()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Cleanup() })
	now := time.Now()
	s.issuer.now = func() time.Time { return now }
	return s, &now
}

// good are claims of a token that is good at f.
func (f *fake) good(change map[string]any) map[string]any {
	c := map[string]any{"iss": f.URL, "aud": "smtp", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "sub": "1234", "email": "Alice@example.test", "scope": "openid mail"}
	maps.Copy(c, change)
	for k, v := range c {
		if v == nil {
			delete(c, k)
		}
	}
	return c
}

// sign makes a JWT. Claims may be text.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, c any) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	if kid != "" {
		opts.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	b, isText := c.(string)
	if !isText {
		j, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		b = string(j)
	}
	jws, err := signer.Sign([]byte(b))
	if err != nil {
		t.Fatal(err)
	}
	s, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func public(key crypto.Signer, kid string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid}
}

func encode(parts ...string) string {
	for i, p := range parts {
		parts[i] = base64.RawURLEncoding.EncodeToString([]byte(p))
	}
	return strings.Join(parts, ".")
}

func status(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
}
