package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddymail/caddy-smtp/smtpapp/upstream"
)

const (
	maxBody = 1 << 20 // octets of an answer
	maxKeys = 100
	// fresh is how long documents are taken for the issuer's, and stale is how
	// long they are while he cannot be asked.
	fresh, stale = time.Hour, 24 * time.Hour
	// pause is between two fetches, since anybody can make up a token of a key
	// that is not known, and retry is between them where one has failed.
	pause, retry = 30 * time.Second, 5 * time.Second
)

// algorithms are those of public keys. None of them works with a secret, so
// that a public key is never taken for one, and "none" is not among them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// An issuer is asked for its keys, or about tokens.
type issuer struct {
	name, id, secret string
	introspects      bool // instead of having keys
	client           *http.Client
	now              func() time.Time
	turn             chan struct{} // held while fetching

	mu    sync.Mutex
	docs  *documents
	tried time.Time // when they were fetched last, or were to be
	err   error     // of that
}

// documents are what an issuer publishes. They do not change.
type documents struct {
	metadata
	keys []jose.JSONWebKey
	at   time.Time
}

// metadata is what matters of OpenID Connect Discovery 1.0, section 3.
type metadata struct {
	Issuer        string `json:"issuer"`
	Keys          string `json:"jwks_uri"`
	Introspection string `json:"introspection_endpoint"`
}

// get reads JSON from the issuer. Errors do not tell what was sent.
func (i *issuer) get(req *http.Request, into any) error {
	req.Header.Set("Accept", "application/json")
	resp, err := i.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", req.URL.Host, resp.StatusCode)
	}
	b, err := upstream.ReadAll(resp.Body, maxBody)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s does not answer in JSON", req.URL.Host)
	}
	return nil
}

// configuration is where the metadata is.
func (i *issuer) configuration() string {
	return strings.TrimSuffix(i.name, "/") + "/.well-known/openid-configuration"
}

// known returns the documents that are there, or why there are none; fetch says
// that they are to be fetched first. lacking are those that do not have the key
// that is wanted, nil for none.
func (i *issuer) known(lacking *documents) (d *documents, fetch bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now, wait := i.now(), pause
	if i.err != nil {
		wait = retry
	}
	switch {
	case i.docs != nil && i.docs != lacking && now.Sub(i.docs.at) < fresh:
		return i.docs, false, nil
	case i.tried.IsZero() || now.Sub(i.tried) >= wait:
		return nil, true, nil
	case i.err != nil && (i.docs == nil || i.docs == lacking || now.Sub(i.docs.at) > stale):
		return nil, false, i.err
	}
	return i.docs, false, nil
}

// documents returns those of the issuer, fetched by one of all who want them.
func (i *issuer) documents(ctx context.Context, lacking *documents) (*documents, error) {
	d, fetch, err := i.known(lacking)
	if !fetch {
		return d, err
	}
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d, fetch, err = i.known(lacking); !fetch { // somebody else did
		return d, err
	}
	// It is for all, so a client that goes away does not end it. The HTTP client
	// has a timeout.
	d, err = i.fetch(context.WithoutCancel(ctx))
	i.mu.Lock()
	i.tried, i.err = i.now(), err
	if err == nil {
		d.at, i.docs = i.tried, d
	}
	i.mu.Unlock()
	d, _, err = i.known(lacking)
	return d, err
}

func (i *issuer) fetch(ctx context.Context) (*documents, error) {
	d := new(documents)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.configuration(), nil)
	if err != nil {
		return nil, errors.New("metadata: not the URL of an issuer")
	}
	if err := i.get(req, &d.metadata); err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	if d.Issuer != i.name {
		return nil, errors.New("metadata: it is that of another issuer")
	}
	if i.introspects {
		if !i.mayAsk(d.Introspection) {
			return nil, errors.New("metadata: no secure URL for introspection")
		}
		return d, nil
	}
	d.keys, err = i.fetchKeys(ctx, d.Keys)
	return d, err
}

// mayAsk reports whether a URL of the metadata is as secure as the issuer's.
func (i *issuer) mayAsk(to string) bool {
	return secure(to) && (strings.HasPrefix(to, "https:") || !strings.HasPrefix(i.name, "https:"))
}

func (i *issuer) fetchKeys(ctx context.Context, from string) ([]jose.JSONWebKey, error) {
	if !i.mayAsk(from) {
		return nil, errors.New("metadata: no secure URL of keys")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, errors.New("metadata: no URL of keys")
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := i.get(req, &set); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if len(keys) < maxKeys && json.Unmarshal(raw, &k) == nil && usable(&k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("keys: none that can be used")
	}
	return keys, nil
}

// verify returns the claims of a JWT, nil if the issuer has not signed it. Where
// no key is the one that the token names, or it names none, newer keys are
// tried.
func (i *issuer) verify(ctx context.Context, token string) (claims, error) {
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, nil
	}
	var lacking *documents
	for range 2 {
		d, err := i.documents(ctx, lacking)
		if err != nil {
			return nil, err
		}
		c, found := d.verify(jws)
		if c != nil || found || d == lacking {
			return c, nil
		}
		lacking = d
	}
	return nil, nil
}

// verify returns the claims that one of the keys has signed; found says that
// there is the key that the token names.
func (d *documents) verify(jws *jose.JSONWebSignature) (c claims, found bool) {
	head := jws.Signatures[0].Protected
	for _, k := range d.keys {
		if head.KeyID != "" && k.KeyID != head.KeyID {
			continue
		}
		found = found || head.KeyID != ""
		if k.Algorithm != "" && k.Algorithm != head.Algorithm {
			continue
		}
		if b, err := jws.Verify(k.Key); err == nil {
			c, _ = parseClaims(b)
			return c, true
		}
	}
	return nil, found
}

// usable reports whether a key is a public one for signatures.
func usable(k *jose.JSONWebKey) bool {
	if !k.Valid() || k.Use != "" && k.Use != "sig" {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return key.N.BitLen() >= 2048 && key.N.BitLen() <= 16384
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// introspect asks the issuer about a token (RFC 7662); nil if it is not active.
func (i *issuer) introspect(ctx context.Context, token string) (claims, error) {
	d, err := i.documents(ctx, nil)
	if err != nil {
		return nil, err
	}
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.Introspection, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("metadata: no URL for introspection")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// Asking twice is no harm, so do it if a connection that was kept is dead. A
	// header without values is not sent, but net/http looks for it.
	req.Header["Idempotency-Key"] = nil
	req.SetBasicAuth(url.QueryEscape(i.id), url.QueryEscape(i.secret)) // RFC 6749, section 2.3.1
	var raw json.RawMessage
	if err := i.get(req, &raw); err != nil {
		return nil, fmt.Errorf("introspection: %w", err)
	}
	c, err := parseClaims(raw)
	if err != nil {
		return nil, fmt.Errorf("introspection: %w", err)
	}
	if c["active"] != true {
		return nil, nil
	}
	return c, nil
}
