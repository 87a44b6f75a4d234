package tests

import (
	"bufio"
	"database/sql"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"

	asn1 "github.com/go-asn1-ber/asn1-ber"
)

// unknowing are services that know nobody, but answer, and keep connections.
func unknowing(t *testing.T, asked *[4]atomic.Int32) (ldap, dovecot, endpoint string) {
	t.Helper()
	ldap, stopLDAP := hostile(t, nil, func(c net.Conn) {
		for {
			p, err := asn1.ReadPacket(c)
			if err != nil || len(p.Children) < 2 || p.Children[1].Tag != goldap.ApplicationSearchRequest {
				return
			}
			asked[0].Add(1)
			io.WriteString(c, ber(0x30, ber(0x02, string(p.Children[0].Data.Bytes())), ldapResult(0x65, 0, "")))
		}
	})
	dovecot, stopDovecot := hostile(t, nil, func(c net.Conn) {
		io.WriteString(c, "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nDONE\n")
		for s := bufio.NewScanner(c); s.Scan(); {
			if f := strings.Split(s.Text(), "\t"); f[0] == "AUTH" {
				asked[1].Add(1)
				fmt.Fprintf(c, "FAIL\t%s\n", f[1])
			}
		}
	})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked[2].Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(func() { stopLDAP(); stopDovecot(); srv.Close() })
	return ldap, dovecot, srv.URL
}

// introspecting is an issuer that takes any token.
func introspecting(t *testing.T, asked *atomic.Int32) *httptest.Server {
	t.Helper()
	var srv *httptest.Server
	srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/introspect":
			asked.Add(1)
			fmt.Fprint(w, `{"active":true,"aud":"smtp","email":"reloaded@token.test"}`)
		default:
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"%s/keys","introspection_endpoint":"%s/introspect"}`, srv.URL, srv.URL, srv.URL)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}

// TestReloadsOfAllSources: 200 configurations with a source of each kind, each of
// which has been asked, leave neither goroutines nor files behind.
func TestReloadsOfAllSources(t *testing.T) {
	h := newHost(t)
	var asked [4]atomic.Int32
	ldap, dovecot, endpoint := unknowing(t, &asked)
	issuer := introspecting(t, &asked[3])
	db, err := sql.Open("sqlite", filepath.Join(h.dir, "users.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("create table users (user text, hash text, used int); insert into users values ('reloadedsql', '{PLAIN}secret', 0)"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	for name, text := range map[string]string{
		"ca.pem":  string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})),
		"users":   "reloaded:{PLAIN}secret\n",
		"program": "exit 3\n",
	} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := quickly + fmt.Sprintf(`
	server reloaded ADDR(reloaded) {
		tls internal {
			client_auth {
				mode verify_if_given
				trust_pool file DIR/ca.pem
			}
		}
		plaintext_auth
		auth {
			sql sqlite DIR/users.db {
				query `+"`select user, hash from users where user = @user`"+`
				used `+"`update users set used = used + 1 where user = @user`"+`
			}
			ldap ldap://%s {
				search dc=test (uid={user})
			}
			dovecot tcp/%s
			http %s
			exec /bin/sh DIR/program
			tls
			oidc %s {
				audience smtp
				introspection us secret
				ca file DIR/ca.pem
			}
			inline {
				nobody {PLAIN}secret
			}
			file DIR/users
		}
		discard
	}`, ldap, dovecot, endpoint, issuer.URL)
	one := func() {
		t.Helper()
		h.load(text)
		k := greet(t, h.addr("reloaded"))
		k.say("235", "AUTH PLAIN %s", b64("\x00reloaded\x00secret")) // the last source knows him
		k.conn.Close()
		k = greet(t, h.addr("reloaded"))
		k.say("235", "AUTH XOAUTH2 %s", b64("user=reloaded@token.test\x01auth=Bearer token\x01\x01"))
		k.conn.Close()
		k = greet(t, h.addr("reloaded"))
		k.say("235", "AUTH PLAIN %s", b64("\x00reloadedsql\x00secret"))
		k.conn.Close()
	}
	for range 3 {
		one()
	}
	goroutines, fds := settled(t)
	n := many(20, 200)
	for range n {
		one()
	}
	g, f := settled(t)
	t.Logf("%d reloads: goroutines %d -> %d, descriptors %d -> %d", n, goroutines, g, fds, f)
	if g > goroutines+8 || f > fds+8 {
		t.Errorf("goroutines %d -> %d, descriptors %d -> %d\n%s", goroutines, g, fds, f, stacks())
	}
	for i := range asked {
		if c := int(asked[i].Load()); c != n+3 {
			t.Errorf("service %d was asked %d times in %d configurations", i, c, n+3)
		}
	}
}
