package smtpapp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddymail/caddy-smtp/smtpapp/wire"
)

// TLS says where a server's certificates come from and how it speaks TLS.
type TLS struct {
	// Off: neither STARTTLS nor addresses that begin with TLS.
	Off bool `json:"off,omitempty"`

	// Names are those to manage certificates for besides the hostname, as for
	// a server that clients reach under several.
	Names []string `json:"names,omitempty"`

	// Automation says how certificates for the names are had, unless a policy
	// of the tls app has them. Default: as for a site of that name; from
	// Caddy's internal CA for names that no public CA can vouch for.
	Automation *caddytls.AutomationPolicy `json:"automation,omitempty"`

	// ConnectionPolicies are as in Caddy's http app: protocol versions, cipher
	// suites, client certificates, and which applies to whom. The default
	// SNI and the fallback SNI are the hostname, and any ALPN is accepted.
	ConnectionPolicies caddytls.ConnectionPolicies `json:"connection_policies,omitempty"`
}

// serverTLS is the TLS side of one server.
type serverTLS struct {
	off      bool
	hostname string
	names    []string
	policies caddytls.ConnectionPolicies
	app      *App
	log      *zap.Logger
	stopgap  func() (*tls.Certificate, error)
}

func provisionTLS(s *Server) (*serverTLS, error) {
	t := s.TLS
	if t == nil {
		t = new(TLS)
	}
	st := &serverTLS{off: t.Off, hostname: s.Hostname, app: s.app, log: s.log}
	st.stopgap = sync.OnceValues(st.selfSigned)
	if t.Off {
		return st, st.nothingImplicit(s)
	}
	st.names = append([]string{s.Hostname}, t.Names...)
	st.policies = t.ConnectionPolicies
	if len(st.policies) == 0 {
		st.policies = caddytls.ConnectionPolicies{new(caddytls.ConnectionPolicy)}
	}
	for _, p := range st.policies {
		st.setDefaults(p)
	}
	if err := st.policies.Provision(s.app.ctx); err != nil {
		return nil, err
	}
	for _, p := range st.policies {
		st.adapt(p.TLSConfig)
	}
	return st, st.automate(t.Automation)
}

func (st *serverTLS) nothingImplicit(s *Server) error {
	for _, l := range s.listeners {
		if l.implicit {
			return fmt.Errorf("it is off, but clients of %s begin with it", l.addr.At(l.offset))
		}
	}
	return nil
}

// setDefaults must come before the policy is provisioned.
func (st *serverTLS) setDefaults(p *caddytls.ConnectionPolicy) {
	if p.ALPN == nil {
		p.ALPN = []string{} // the default is HTTP's, and refuses clients that offer another
	}
	if p.DefaultSNI == "" {
		p.DefaultSNI = st.hostname // most MTAs send no SNI
	}
	if p.FallbackSNI == "" {
		p.FallbackSNI = st.hostname
	}
}

// adapt makes a provisioned policy's configuration fit for mail.
func (st *serverTLS) adapt(c *tls.Config) {
	// Exchange Online resumes sessions in a way that Go's server refuses, and
	// then gives the message up (golang/go#70232).
	c.SessionTicketsDisabled = true
	managed := c.GetCertificate
	choose := func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := managed(hello)
		if err == nil {
			return cert, nil
		}
		if hello.ServerName != st.hostname {
			h := *hello
			h.ServerName = st.hostname // RFC 7672, 8.1: an unknown SNI must not fail
			if cert, err := managed(&h); err == nil {
				return cert, nil
			}
		}
		// Without any certificate senders fall back to clear text, or wait for
		// hours. One that nobody vouches for is better until the first is issued.
		st.log.Warn("no certificate yet, serving a temporary one", zap.String("name", st.hostname), zap.Error(err))
		return st.stopgap()
	}
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := choose(hello)
		wire.NoteCertificate(hello, cert)
		return cert, err
	}
}

// automate sees to it that the names have an automation policy where Caddy's
// defaults would not do. A name that has one keeps it: a second would make
// the load fail, depending on the order of apps.
func (st *serverTLS) automate(policy *caddytls.AutomationPolicy) error {
	own, internal := []string{}, []string{}
	for _, n := range st.names {
		switch {
		case st.hasPolicy(n):
		case policy != nil:
			own = append(own, n)
		case !certmagic.SubjectQualifiesForPublicCert(n):
			internal = append(internal, n)
		}
	}
	if len(own) > 0 {
		p := *policy
		p.SubjectsRaw = own
		if err := st.app.tls.AddAutomationPolicy(&p); err != nil {
			return err
		}
	}
	if len(internal) > 0 {
		return st.app.tls.AddAutomationPolicy(&caddytls.AutomationPolicy{
			SubjectsRaw: internal,
			IssuersRaw:  []json.RawMessage{json.RawMessage(`{"module":"internal"}`)},
		})
	}
	return nil
}

func (st *serverTLS) hasPolicy(name string) bool {
	if st.app.tls.Automation == nil {
		return false
	}
	return slices.ContainsFunc(st.app.tls.Automation.Policies, func(p *caddytls.AutomationPolicy) bool {
		return slices.Contains(p.Subjects(), name)
	})
}

// config is what STARTTLS and addresses that begin with TLS use; nil if off.
func (st *serverTLS) config() *tls.Config {
	if st.off {
		return nil
	}
	return st.policies.TLSConfig(st.app.ctx)
}

// selfSigned makes a certificate for the hostname that nobody vouches for. It
// is kept in memory only.
func (st *serverTLS) selfSigned() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: st.hostname},
		DNSNames:     []string{st.hostname},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
