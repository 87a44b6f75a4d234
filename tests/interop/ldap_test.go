//go:build linux

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A slapd is an OpenLDAP server of its own, at a port with StartTLS, at one with
// TLS, and at a socket.
type slapd struct {
	t                        testing.TB
	dir, addr, addrTLS, cert string
	proc                     *process
}

func newSlapd(t testing.TB, addr, addrTLS string) *slapd {
	t.Helper()
	need(t, "slapd", "slapadd")
	s := &slapd{t: t, dir: openDir(t), addr: addr, addrTLS: addrTLS}
	cert, key := selfSigned(t, s.dir, "directory.test")
	s.cert = cert
	hash := strings.TrimSpace(run(t, "", "slappasswd", "-s", "alice's"))
	for name, text := range map[string]string{
		"slapd.conf": fmt.Sprintf(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile %[1]s/pid
TLSCertificateFile %[2]s
TLSCertificateKeyFile %[3]s
database mdb
directory %[1]s/db
suffix "dc=example,dc=test"
rootdn "cn=root,dc=example,dc=test"
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=reader,dc=example,dc=test" read by self read by * none
`, s.dir, cert, key),
		"people.ldif": `dn: dc=example,dc=test
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: cn=reader,dc=example,dc=test
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: readerpw

dn: ou=people,dc=example,dc=test
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=example,dc=test
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: Example
mail: alice@example.test
mail: a.example@example.test
employeeType: 7
userPassword: ` + hash + `

dn: uid=x)(uid\3dalice,ou=people,dc=example,dc=test
objectClass: inetOrgPerson
uid: x)(uid=alice
cn: Odd
sn: Name
employeeType: odd
userPassword: odd

dn: uid=nopassword,ou=people,dc=example,dc=test
objectClass: inetOrgPerson
uid: nopassword
cn: No
sn: Password
`,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "", "slapadd", "-f", s.dir+"/slapd.conf", "-l", s.dir+"/people.ldif")
	return s
}

func (s *slapd) socket() string { return strings.ReplaceAll(s.dir+"/ldapi", "/", "%2f") }

func (s *slapd) start() {
	s.t.Helper()
	s.proc = start(s.t, "slapd", command("slapd", "-d", "0", "-f", s.dir+"/slapd.conf", "-h", fmt.Sprintf("ldap://%s ldaps://%s ldapi://%s", s.addr, s.addrTLS, s.socket())))
	s.proc.serves(s.t, "tcp", s.addr)
	s.proc.serves(s.t, "tcp", s.addrTLS)
}

// TestLDAPLogins: users in OpenLDAP, found by search and by their names, over
// each way of TLS and a socket.
func TestLDAPLogins(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := newSlapd(t, h.addr("ldap"), h.addr("ldaps"))
	d.start()
	rest := "\nattributes employeeType\nca file " + d.cert + "\n}"
	search := ` {
		search ou=people,dc=example,dc=test (|(uid={user})(mail={user})) {
			bind cn=reader,dc=example,dc=test readerpw
		}
		user_attribute uid
		address_attributes mail`
	direct := " {\nbind_dn uid={user},ou=people,dc=example,dc=test"
	inside := boxes + sourced("search", "ldap ldap://"+d.addr+search+"\nstart_tls"+rest) +
		sourced("direct", "ldap ldaps://"+d.addrTLS+direct+rest) + sourced("socket", "ldap ldapi://"+d.socket()+direct+rest) +
		sourced("stranger", "ldap ldaps://"+d.addrTLS+direct+"\n}")
	h.serve(strings.ReplaceAll(inside, "auth.attr.quota", "auth.attr.employeeType"), "search", "direct", "socket", "stranger")
	h.attempts("search",
		attempt{"Alice@Example.test", "alice's", 235, "alice//7"},
		attempt{"a.example@example.test", "alice's", 235, "alice//7"},
		attempt{"alice", "wrong", 535, ""},
		attempt{"*", "alice's", 535, ""},
		attempt{"x)(uid=alice", "alice's", 535, ""},
		attempt{"x)(uid=alice", "odd", 235, "x)(uid=alice//odd"},
		attempt{"nopassword", "x", 535, ""},
	)
	for _, how := range []string{"direct", "socket"} {
		h.attempts(how,
			attempt{"alice", "alice's", 235, "alice//7"},
			attempt{"alice", "wrong", 535, ""},
			attempt{"alice,ou=people", "alice's", 535, ""},
		)
	}
	h.attempts("stranger", attempt{"alice", "alice's", 454, ""})
	d.proc.kill()
	h.attempts("search", attempt{"alice", "alice's", 454, ""})
	h.attempts("direct", attempt{"alice", "alice's", 454, ""})
	d.start()
	h.attempts("search", attempt{"alice", "alice's", 235, "alice//7"})
	h.attempts("direct", attempt{"alice", "alice's", 235, "alice//7"})
	if strings.Contains(h.proc.out.String(), "readerpw") {
		t.Error("the log has the password of the search account")
	}
}
