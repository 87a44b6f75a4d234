package ldap

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddytls" // CA pools
	goldap "github.com/go-ldap/ldap/v3"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func provision(t testing.TB, s *Source) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		return err
	}
	t.Cleanup(func() { s.Cleanup() })
	return s.Validate()
}

func provisioned(t testing.TB, s *Source) *Source {
	t.Helper()
	if err := provision(t, s); err != nil {
		t.Fatal(err)
	}
	return s
}

const people = "ou=people,dc=example,dc=test"

// searched is a source that searches with an account of its own.
func searched(d *directory) *Source {
	d.passwords["cn=reader"] = "readerpw"
	d.passwords["uid=alice,"+people] = "right"
	key := people + " (|(uid=alice)(mail=alice))"
	d.dns[key] = "uid=alice," + people
	d.entries["uid=alice,"+people] = map[string][]string{
		"uid": {"Alice@example.test"}, "proxyAddresses": {"SMTP:alice@example.test", "smtp:al@example.test"}, "mail": {"a@b.test"}, "group": {"staff", "admin"},
	}
	return &Source{
		URLs:          []string{d.url()},
		Search:        &Search{Base: people, Filter: "(|(uid={user})(mail={user}))", DN: "cn=reader", Password: "readerpw"},
		UserAttribute: "uid", AddressAttributes: []string{"proxyaddresses", "mail"}, Attributes: []string{"group", "none"},
	}
}

func TestSearch(t *testing.T) {
	d := newDirectory(t)
	s := provisioned(t, searched(d))
	id, known, err := s.CheckPassword(t.Context(), "alice", "right")
	want := &login.Identity{User: "alice@example.test", Addresses: []string{"alice@example.test", "al@example.test", "a@b.test"}, Attributes: map[string]string{"group": "staff, admin"}}
	if err != nil || !known || !reflect.DeepEqual(id, want) {
		t.Errorf("%+v %v %v", id, known, err)
	}
	if got := d.heard(); got != "bind cn=reader; search ou=people,dc=example,dc=test (|(uid=alice)(mail=alice)); bind uid=alice,ou=people,dc=example,dc=test" {
		t.Error(got)
	}
	for _, c := range []struct {
		user, password string
		known          bool
		heard          string
	}{
		{"alice", "wrong", true, "search ou=people,dc=example,dc=test (|(uid=alice)(mail=alice)); bind uid=alice,ou=people,dc=example,dc=test"},
		{"nobody", "right", false, "search ou=people,dc=example,dc=test (|(uid=nobody)(mail=nobody))"},
		{"alice", "", false, ""}, {"", "x", false, ""},
		{"*", "right", false, `search ou=people,dc=example,dc=test (|(uid=\2a)(mail=\2a))`},
		{"x)(uid=alice", "right", false, `search ou=people,dc=example,dc=test (|(uid=x\29\28uid=alice)(mail=x\29\28uid=alice))`},
	} {
		id, known, err := s.CheckPassword(t.Context(), c.user, c.password)
		if id != nil || known != c.known || err != nil {
			t.Errorf("%s: %+v %v %v", c.user, id, known, err)
		}
		if got := d.heard(); got != c.heard {
			t.Errorf("%s: %s, want %s", c.user, got, c.heard)
		}
	}
	if d.open() > 2 {
		t.Error(d.open(), "connections")
	}
}

// TestClosedWhileIdle: the directory closes what waits, and it may be away.
func TestClosedWhileIdle(t *testing.T) {
	d := newDirectory(t)
	s := provisioned(t, searched(d))
	for i := range 3 {
		if id, _, err := s.CheckPassword(t.Context(), "alice", "right"); id == nil || err != nil {
			t.Fatal(i, id, err)
		}
		d.drop()
	}
	d.ln.Close()
	for range 2 {
		if id, _, err := s.CheckPassword(t.Context(), "alice", "right"); id != nil || err == nil {
			t.Error(id, err)
		}
	}
}

func TestSearchFaults(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*directory, *Source)
		want   string
	}{
		"two entries": {func(d *directory, _ *Source) { d.dns[people+" (|(uid=alice)(mail=alice))"] += ";uid=other" }, "more than one entry is"},
		"size limit":  {func(d *directory, _ *Source) { d.codes["search"] = goldap.LDAPResultSizeLimitExceeded }, "more than one entry is"},
		"referral":    {func(d *directory, _ *Source) { d.codes["search"] = goldap.LDAPResultReferral }, "Referral"},
		"no DN":       {func(d *directory, _ *Source) { d.dns[people+" (|(uid=alice)(mail=alice))"] = " " }, "Invalid Credentials"},
		"account":     {func(_ *directory, s *Source) { s.Search.Password = "canary" }, "the search account"},
		"busy":        {func(d *directory, _ *Source) { d.codes["bind"] = goldap.LDAPResultBusy }, "Busy"},
		"no name":     {func(d *directory, _ *Source) { d.entries["uid=alice,"+people]["uid"] = []string{"two words"} }, "not the name"},
		"silent":      {func(d *directory, _ *Source) { d.reply = func(net.Conn) bool { return true } }, "deadline exceeded"},
		"closes":      {func(d *directory, _ *Source) { d.reply = func(c net.Conn) bool { c.Close(); return true } }, "ldap: "},
		"nonsense": {func(d *directory, _ *Source) {
			d.reply = func(c net.Conn) bool { c.Write([]byte("HTTP/1.1 400\r\n\r\n")); return true }
		}, "ldap: "},
		"a long answer": {func(d *directory, _ *Source) { d.reply = flood }, "ldap: "},
		"not reachable": {func(_ *directory, s *Source) { s.URLs = []string{"ldap://127.0.0.1:1", "ldapi://%2fnonexistent"} }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t)
			s := searched(d)
			s.Timeout = caddy.Duration(700 * time.Millisecond)
			c.change(d, s)
			provisioned(t, s)
			if name == "no DN" {
				if id, known, err := s.CheckPassword(t.Context(), "alice", "right"); id != nil || !known || err != nil {
					t.Error(id, known, err)
				}
				return
			}
			id, _, err := s.CheckPassword(t.Context(), "alice", "right")
			if id != nil || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%+v, %v, want %s", id, err, c.want)
			}
		})
	}
}

// flood begins an answer of 2 GiB.
func flood(c net.Conn) bool {
	c.Write([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 4, 0x84, 0x7f, 0xff, 0xff, 0xf0})
	junk := bytes.Repeat([]byte("x"), 1<<16)
	for {
		if _, err := c.Write(junk); err != nil {
			return true
		}
	}
}

// TestVerdicts: what directories say of accounts that are locked is no fault.
func TestVerdicts(t *testing.T) {
	d := newDirectory(t)
	s := provisioned(t, &Source{URLs: []string{d.url()}, BindDN: "uid={user},ou={domain}"})
	for code, fault := range map[uint16]bool{
		goldap.LDAPResultInvalidCredentials: false, goldap.LDAPResultNoSuchObject: false, goldap.LDAPResultUnwillingToPerform: false, goldap.LDAPResultConstraintViolation: false,
		goldap.LDAPResultOperationsError: true, goldap.LDAPResultReferral: true, goldap.LDAPResultConfidentialityRequired: true, goldap.LDAPResultUnavailable: true,
	} {
		d.codes["bind"] = code
		if id, known, err := s.CheckPassword(t.Context(), "a", "b"); id != nil || known || (err != nil) != fault {
			t.Error(code, id, known, err)
		}
	}
}

func TestDirect(t *testing.T) {
	d := newDirectory(t)
	d.passwords[`uid=alice,ou=example.test`] = "right"
	s := provisioned(t, &Source{URLs: []string{"ldap://127.0.0.1:1", d.url()}, BindDN: "uid={local},ou={domain}"})
	id, known, err := s.CheckPassword(t.Context(), "alice@example.test", "right")
	if err != nil || !known || id.User != "alice@example.test" {
		t.Error(id, known, err)
	}
	for _, user := range []string{"alice@other.test", "alice,ou=example.test@x", "alice\\,ou=example.test"} {
		if id, known, err := s.CheckPassword(t.Context(), user, "right"); id != nil || known || err != nil {
			t.Error(user, id, known, err)
		}
	}
	if got := d.heard(); !strings.Contains(got, `bind uid=alice\2cou\3dexample.test,ou=x`) {
		t.Error(got)
	}

	s = provisioned(t, &Source{URLs: []string{d.url()}, BindDN: "uid={local},ou={domain}", Attributes: []string{"group"}})
	if _, _, err := s.CheckPassword(t.Context(), "alice@example.test", "right"); err == nil || !strings.Contains(err.Error(), "own entry") {
		t.Error(err)
	}
	d.dns["uid=alice,ou=example.test (objectClass=*)"] = "uid=alice,ou=example.test"
	d.entries["uid=alice,ou=example.test"] = map[string][]string{"GROUP": {"staff"}}
	if id, _, err := s.CheckPassword(t.Context(), "alice@example.test", "right"); err != nil || id.Attributes["group"] != "staff" {
		t.Error(id, err)
	}
}

// TestStartTLS: the password goes nowhere before the certificate is right.
func TestStartTLS(t *testing.T) {
	https := httptest.NewTLSServer(nil)
	defer https.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: https.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDirectory(t)
	d.passwords["uid=a"] = "right"
	d.tls = &tls.Config{Certificates: https.TLS.Certificates}
	pool, _ := json.Marshal(map[string]any{"provider": "file", "pem_files": []string{ca}})
	s := provisioned(t, &Source{URLs: []string{d.url()}, BindDN: "uid={user}", StartTLS: true, CARaw: pool})
	if id, _, err := s.CheckPassword(t.Context(), "a", "right"); err != nil || id == nil {
		t.Error(id, err)
	}
	d.heard()
	s = provisioned(t, &Source{URLs: []string{d.url()}, BindDN: "uid={user}", StartTLS: true})
	if _, _, err := s.CheckPassword(t.Context(), "a", "right"); err == nil || d.heard() != "" {
		t.Error("a stranger's certificate is taken:", err)
	}
	if s.servers[0].tls.RootCAs != (*x509.CertPool)(nil) {
		t.Error("roots")
	}
}

// TestBound: no more connections than allowed, however many logins there are.
func TestBound(t *testing.T) {
	d := newDirectory(t)
	s := searched(d)
	s.MaxConnections = 2
	provisioned(t, s)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if id, _, err := s.CheckPassword(context.Background(), "alice", "right"); id == nil || err != nil {
				t.Error(id, err)
			}
		})
	}
	wg.Wait()
	if n := d.open(); n > 4 {
		t.Error(n, "connections")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.CheckPassword(ctx, "alice", "right"); err == nil {
		t.Error("no error when the client is gone")
	}
}

// TestExpire: what nobody uses is closed.
func TestExpire(t *testing.T) {
	d := newDirectory(t)
	s := provisioned(t, searched(d))
	s.CheckPassword(t.Context(), "alice", "right")
	for _, p := range []*pool{s.binds, s.searches} {
		i := p.idle[0]
		i.timer.Stop()
		p.expire(i)
		p.expire(i)
		if len(p.idle) != 0 || !i.c.IsClosing() {
			t.Error("it is still there")
		}
	}
}

// TestReload: 200 configurations leave neither goroutines nor files behind.
func TestReload(t *testing.T) {
	d := newDirectory(t)
	count := func() (goroutines, files int) {
		runtime.GC()
		list, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(list)
	}
	g, f := count()
	for range 200 {
		s := searched(d)
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		if err := s.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		if id, _, err := s.CheckPassword(ctx, "alice", "right"); id == nil || err != nil {
			t.Fatal(err)
		}
		cancel()
		s.Cleanup()
		if _, _, err := s.CheckPassword(context.Background(), "alice", "right"); err == nil {
			t.Fatal("used after the end")
		}
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g2, f2 := count()
		if g2 <= g+2 && f2 <= f+2 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("goroutines %d, were %d; files %d, were %d", g2, g, f2, f)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	const dn = "uid={user}"
	for want, s := range map[string]*Source{
		"no server":                {BindDN: dn},
		"either bind_dn or search": {URLs: []string{"ldap://[::1]"}},
		"bind_dn or search is":     {URLs: []string{"ldap://localhost"}, BindDN: dn, Search: &Search{}},
		"in clear":                 {URLs: []string{"ldap://a.test"}, BindDN: dn},
		"is not ldap://":           {URLs: []string{"http://a.test"}, BindDN: dn},
		"'ldap:///x' is not":       {URLs: []string{"ldap:///x"}, BindDN: dn},
		"'ldap://u:p@x' is not":    {URLs: []string{"ldap://u:p@x"}, BindDN: dn},
		"neither {user} nor":       {URLs: []string{"ldaps://a.test"}, BindDN: "uid=x"},
		"none of {user}":           {URLs: []string{"ldaps://a.test"}, BindDN: "uid={user},ou={usr}"},
		"{domain} alone":           {URLs: []string{"ldaps://a.test"}, BindDN: "ou={domain}"},
		"'nonsense{user}'":         {URLs: []string{"ldaps://a.test"}, BindDN: "nonsense{user}"},
		"scope 'all'":              {URLs: []string{"ldaps://a.test"}, Search: &Search{Filter: "(uid={user})", Scope: "all"}},
		"'(uid={user}'":            {URLs: []string{"ldaps://a.test"}, Search: &Search{Filter: "(uid={user}"}},
		"base is not":              {URLs: []string{"ldaps://a.test"}, Search: &Search{Filter: "(uid={user})", Base: "x"}},
		"would be anonymous":       {URLs: []string{"ldaps://a.test"}, Search: &Search{Filter: "(uid={user})", DN: "cn=x"}},
		"password: ":               {URLs: []string{"ldaps://a.test"}, Search: &Search{Filter: "(uid={user})", DN: "cn=x", Password: "{env.NO_SUCH_VARIABLE}"}},
		"connections is negative":  {URLs: []string{"ldaps://a.test"}, BindDN: dn, MaxConnections: -1},
		"timeout is negative":      {URLs: []string{"ldaps://a.test"}, BindDN: dn, Timeout: -1},
		"ca: ":                     {URLs: []string{"ldaps://a.test"}, BindDN: dn, CARaw: json.RawMessage(`{"provider":"file","pem_files":["/nonexistent"]}`)},
	} {
		if err := provision(t, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	s := provisioned(t, &Source{URLs: []string{"ldaps://a.test", "ldap://a.test:1389", "ldapi://%2frun%2fldapi"}, BindDN: dn, StartTLS: true})
	for i, want := range []server{{network: "tcp", addr: "a.test:636", implicit: true}, {network: "tcp", addr: "a.test:1389", startTLS: true}, {network: "unix", addr: "/run/ldapi"}} {
		if got := s.servers[i]; got.network != want.network || got.addr != want.addr || got.implicit != want.implicit || got.startTLS != want.startTLS {
			t.Errorf("%+v", got)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, s := range []string{"a", "*", "a)(b", "x,y=z", " #\\\"+<>;=\x00é", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == "" {
			return
		}
		p, err := goldap.CompileFilter(fill("(&(a=b)(uid={user}))", s))
		if err != nil || len(p.Children) != 2 || len(p.Children[1].Children) != 2 || p.Children[1].Children[1].Data.String() != s {
			t.Errorf("filter of %q: %v", s, err)
		}
		dn, err := goldap.ParseDN(fill("uid={user},dc=x", s))
		if err != nil || len(dn.RDNs) != 2 || dn.RDNs[0].Attributes[0].Value != s {
			t.Errorf("DN of %q: %v %v", s, dn, err)
		}
	})
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"ldap ldaps://a ldaps://b {\nsearch dc=x (uid={user}) {\nscope one\nbind cn=r pw\n}\nuser_attribute uid\naddress_attributes mail alias\nattributes a b\nmax_connections 2\ntimeout 1s\n}": `{"urls":["ldaps://a","ldaps://b"],"search":{"base":"dc=x","filter":"(uid={user})","scope":"one","dn":"cn=r","password":"pw"},` +
			`"user_attribute":"uid","address_attributes":["mail","alias"],"attributes":["a","b"],"max_connections":2,"timeout":1000000000}`,
		"ldap ldap://a {\nbind_dn uid={user}\nstart_tls\nplaintext\nca inline {\ntrust_der AA==\n}\n}": `{"urls":["ldap://a"],"bind_dn":"uid={user}","start_tls":true,"plaintext":true,"ca":{"provider":"inline","trusted_ca_certs":["AA=="]}}`,
		"ldap":                                 "wrong argument count or unexpected line ending after 'ldap', at Testfile:1",
		"ldap a {\nsearch x\n}":                "wrong argument count or unexpected line ending after 'x', at Testfile:2",
		"ldap a {\nsearch x y {\nbind x\n}\n}": "wrong argument count or unexpected line ending after 'x', at Testfile:3",
		"ldap a {\nfilter x\n}":                "unrecognized option 'filter', at Testfile:2",
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
