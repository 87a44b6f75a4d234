//go:build linux

package interop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
)

// mechanismsServer has users with secrets in all forms: alice's password itself,
// bob's keys for SCRAM, which gsasl has made. Certificates of a CA of its own
// name users too, and one of Caddy's internal CA.
const mechanismsServer = `
	server all ADDR(all) {
		listen_tls ADDR(alltls)
		tls {
			issuer internal
			names localhost
			client_auth {
				mode verify_if_given
				trust_pool file {
					pem_file DIR/users.pem DIR/storage/pki/authorities/local/root.crt
				}
			}
		}
		auth {
			mechanisms %s
			inline {
				alice@example.test {PLAIN}quickstart
				%s
			}
			tls {
				issuer "Users CA"
			}
			tls dns {
				table inline {
					mx.example.test mx
				}
				issuer "Caddy Local Authority - ECC Intermediate"
			}
		}
		header +X-Who "{smtp.auth.user} {smtp.auth.method}"` + local + `
	}`

const allMechanisms = "EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN CRAM-MD5"

// A mechanismsHost is a Caddy that serves mechanismsServer.
type mechanismsHost struct {
	*host
	root      string
	cert, key string // files of a user's certificate
}

func newMechanisms(t *testing.T, more string, mechanisms string) *mechanismsHost {
	t.Helper()
	h := &mechanismsHost{host: newHost(t)}
	h.cert, h.key = h.userCertificate("alice@example.test")
	// The internal CA's root is made by a Caddy before, since the trust pool is
	// read when the configuration is loaded.
	h.serve(boxes+`
	server first ADDR(first) {
		tls internal`+local+`
	}`, "first")
	h.root = h.host.root("first")
	h.proc.stop()
	h.serve(boxes+fmt.Sprintf(mechanismsServer, mechanisms, more), "all", "alltls")
	pool := x509.NewCertPool()
	b, err := os.ReadFile(h.root)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(b)
	for _, name := range []string{"mx.example.test", "localhost"} {
		wait(t, "a certificate of "+name, func() bool {
			_, err := starttls(h.addr("all"), &tls.Config{RootCAs: pool, ServerName: name})
			return err == nil
		})
	}
	return h
}

// userCertificate makes a CA in users.pem, and a certificate by it.
func (h *mechanismsHost) userCertificate(address string) (certFile, keyFile string) {
	t := h.t
	t.Helper()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(h.dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	make := func(tmpl, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		if ca == nil {
			ca, caKey = tmpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	ca, caKey := make(&x509.Certificate{Subject: pkix.Name{CommonName: "Users CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	write("users.pem", "CERTIFICATE", ca.Raw)
	cert, key := make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Alice"}, EmailAddresses: []string{address},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write("alice.crt", "CERTIFICATE", cert.Raw), write("alice.key", "PRIVATE KEY", der)
}

// came checks who a message came from.
func (h *mechanismsHost) came(t *testing.T, subject, user, mechanism string) {
	t.Helper()
	m := got(t, h.inbox("alice"), subject)
	if who := m.Header.Get("X-Who"); who != user+" "+mechanism {
		t.Errorf("%s: it came from %q, want %q by %s", subject, who, user, mechanism)
	}
	contains(t, m.text, "with ESMTPSA ")
}

func mailOf(subject string) string {
	return "From: <" + login + ">\nTo: <" + login + ">\nSubject: " + subject + "\n\nhello\n"
}

func TestMsmtpMechanisms(t *testing.T) {
	t.Parallel()
	need(t, "msmtp")
	h := newMechanisms(t, "", allMechanisms)
	for _, c := range []struct{ auth, mechanism string }{
		{"plain", "PLAIN"}, {"login", "LOGIN"}, {"cram-md5", "CRAM-MD5"}, {"scram-sha-1", "SCRAM-SHA-1"}, {"scram-sha-256", "SCRAM-SHA-256"}, {"external", "EXTERNAL"},
	} {
		text := fmt.Sprintf("account default\nhost 127.0.0.1\nport %s\ndomain client.test\nfrom %s\ntls on\n"+
			"tls_trust_file %s\ntls_host_override mx.example.test\nauth %s\nuser %s\npassword %s\n",
			h.port("all"), login, h.root, c.auth, login, password)
		if c.auth == "external" {
			text += "tls_cert_file " + h.cert + "\ntls_key_file " + h.key + "\n"
		}
		file := filepath.Join(t.TempDir(), "msmtprc")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, mailOf("msmtp "+c.auth), "msmtp", "-C", file, "--debug", login)
		h.came(t, "msmtp "+c.auth, login, c.mechanism)
		if c.auth == "scram-sha-256" {
			if err := os.WriteFile(file, []byte(strings.Replace(text, "password "+password, "password wrong", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := try(t, mailOf("wrong"), "msmtp", "-C", file, login); r.code != 77 { // EX_NOPERM
				t.Errorf("msmtp with a wrong password ended with %d: %s", r.code, r.out)
			}
		}
	}
}

func TestSwaksCRAM(t *testing.T) {
	t.Parallel()
	need(t, "swaks")
	h := newMechanisms(t, "", allMechanisms)
	run(t, "", "swaks", "--server", h.addr("all"), "--tls", "--tls-verify", "--tls-ca-path", h.root, "--tls-sni", "mx.example.test",
		"--ehlo", "client.test", "--from", login, "--to", login, "--header", "Subject: swaks",
		"--auth", "CRAM-MD5", "--auth-user", login, "--auth-password", password)
	h.came(t, "swaks", login, "CRAM-MD5")
}

func TestCurlMechanisms(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	h := newMechanisms(t, "", allMechanisms)
	for mechanism, args := range map[string][]string{
		"CRAM-MD5": {"--user", login + ":" + password, "--login-options", "AUTH=CRAM-MD5"},
		"PLAIN":    {"--user", login + ":" + password, "--login-options", "AUTH=PLAIN"},
		"EXTERNAL": {"--user", login + ":", "--login-options", "AUTH=EXTERNAL", "--cert", h.cert, "--key", h.key},
	} {
		run(t, strings.ReplaceAll(mailOf("curl "+mechanism), "\n", "\r\n"), "curl", append([]string{
			"--silent", "--show-error", "--verbose", "--cacert", h.root, "--ssl-reqd",
			"--resolve", "mx.example.test:" + h.port("all") + ":127.0.0.1", "smtp://mx.example.test:" + h.port("all") + "/client.test",
			"--mail-from", login, "--mail-rcpt", login, "--upload-file", "-",
		}, args...)...)
		h.came(t, "curl "+mechanism, login, mechanism)
	}
}

// TestSmtplibCRAM: Python's client takes CRAM-MD5 before all others.
func TestSmtplibCRAM(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	h := newMechanisms(t, "", allMechanisms)
	const script = `
import smtplib, ssl, sys
port, root, user, password = sys.argv[1:]
s = smtplib.SMTP("127.0.0.1", int(port), local_hostname="client.test")
s._host = "mx.example.test"
s.starttls(context=ssl.create_default_context(cafile=root))
s.login(user, password)
s.sendmail(user, [user], "Subject: smtplib\r\n\r\nhello\r\n")
s.quit()
`
	run(t, script, "python3", "-", h.port("all"), h.root, login, password)
	h.came(t, "smtplib", login, "CRAM-MD5")
}

func TestNodemailer(t *testing.T) {
	t.Parallel()
	need(t, "node")
	modules := nodeModules(t, "nodemailer")
	h := newMechanisms(t, "", allMechanisms)
	const script = `
const fs = require("fs")
const [port, root, user, pass, method] = process.argv.slice(2)
const t = require("nodemailer").createTransport({
  host: "127.0.0.1", port: +port, requireTLS: true, name: "client.test",
  tls: {ca: fs.readFileSync(root), servername: "mx.example.test"},
  auth: {user, pass}, authMethod: method,
})
t.sendMail({from: user, to: user, subject: "nodemailer " + method, text: "hello"})
  .then(() => t.close(), e => { console.error(e); process.exit(1) })
`
	file := filepath.Join(h.dir, "send.js")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"PLAIN", "LOGIN", "CRAM-MD5"} {
		run(t, "", "env", "NODE_PATH="+modules, "node", file, h.port("all"), h.root, login, password, method)
		h.came(t, "nodemailer "+method, login, method)
	}
	r := try(t, "", "env", "NODE_PATH="+modules, "node", file, h.port("all"), h.root, login, "wrong", "PLAIN")
	if r.code != 1 {
		t.Errorf("with a wrong password it ended with %d", r.code)
	}
	contains(t, r.out, "EAUTH", "responseCode: 535")
}

// TestGoSMTP: emersion's client.
func TestGoSMTP(t *testing.T) {
	t.Parallel()
	h := newMechanisms(t, "", allMechanisms+" ANONYMOUS")
	pemRoot, err := os.ReadFile(h.root)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pemRoot)
	alice, err := tls.LoadX509KeyPair(h.cert, h.key)
	if err != nil {
		t.Fatal(err)
	}
	internal := filepath.Join(h.dir, "storage/certificates/local/mx.example.test/mx.example.test")
	mx, err := tls.LoadX509KeyPair(internal+".crt", internal+".key")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		client sasl.Client
		cert   []tls.Certificate
		want   string
	}{
		{"plain", sasl.NewPlainClient("", login, password), nil, login + " PLAIN"},
		{"as itself", sasl.NewPlainClient(login, login, password), nil, login + " PLAIN"},
		{"login", sasl.NewLoginClient(login, password), nil, login + " LOGIN"},
		{"external", sasl.NewExternalClient(""), []tls.Certificate{alice}, login + " EXTERNAL"},
		{"external as itself", sasl.NewExternalClient(login), []tls.Certificate{alice}, login + " EXTERNAL"},
		{"external as another", sasl.NewExternalClient("bob@example.test"), []tls.Certificate{alice}, "535"},
		{"no certificate", sasl.NewExternalClient(""), nil, "504"},
		{"of the internal CA", sasl.NewExternalClient(""), []tls.Certificate{mx}, "mx EXTERNAL"},
		{"anonymous", sasl.NewAnonymousClient("visitor@client.test"), nil, " ANONYMOUS"},
	} {
		err := func() error {
			conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", h.addr("alltls"), &tls.Config{RootCAs: roots, ServerName: "mx.example.test", Certificates: c.cert})
			if err != nil {
				t.Fatal(err)
			}
			s := gosmtp.NewClient(conn)
			defer s.Close()
			if err := s.Auth(c.client); err != nil {
				return err
			}
			return s.SendMail(login, []string{login}, strings.NewReader("Subject: go "+c.name+"\r\n\r\nhello\r\n"))
		}()
		if len(c.want) == 3 {
			if err == nil || !strings.Contains(err.Error(), c.want) && !strings.Contains(fmt.Sprintf("%#v", err), c.want) {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if who := got(t, h.inbox("alice"), "go "+c.name).Header.Get("X-Who"); who != strings.TrimSpace(c.want) && who != c.want {
			t.Errorf("%s: it came from %q, want %q", c.name, who, c.want)
		}
	}
	h.proc.says(t, "visitor@client.test")
}

// TestPostfixMechanisms: Postfix logs in through libsasl2.
func TestPostfixMechanisms(t *testing.T) {
	t.Parallel()
	need(t, "postfix")
	h := newMechanisms(t, "", allMechanisms)
	for _, mechanism := range []string{"SCRAM-SHA-256", "CRAM-MD5", "PLAIN"} {
		p := newPostfix(t, h.addr("postfix "+mechanism),
			"relayhost = [127.0.0.1]:"+h.port("all"),
			"smtp_tls_security_level = encrypt",
			"smtp_sasl_auth_enable = yes",
			"smtp_sasl_security_options = noanonymous",
			"smtp_sasl_mechanism_filter = "+mechanism,
			"smtp_sasl_password_maps = static:"+login+":"+password)
		p.start()
		send(t, p.addr, login, login, "postfix "+mechanism)
		h.came(t, "postfix "+mechanism, login, mechanism)
		p.proc.stop()
	}
}

// TestGsasl: GNU SASL has made bob's keys, and binds to the channel.
func TestGsasl(t *testing.T) {
	t.Parallel()
	need(t, "gsasl")
	keys := strings.TrimSpace(run(t, "", "gsasl", "--mkpasswd", "--mechanism", "SCRAM-SHA-256", "--password", "builder"))
	keys1 := strings.TrimSpace(run(t, "", "gsasl", "--mkpasswd", "--mechanism", "SCRAM-SHA-1", "--password", "builder", "--iteration-count", "4096"))
	h := newMechanisms(t, "bob@example.test "+keys+" "+keys1, allMechanisms+" ANONYMOUS")
	gsasl := func(mechanism string, args ...string) result {
		return try(t, "", "gsasl", append([]string{
			"--smtp", "--verbose", "--mechanism", mechanism, "--x509-ca-file", h.root, "--connect", "localhost:" + h.port("all"),
			"--authorization-id=", "--authentication-id=bob@example.test", "--application-data",
		}, args...)...)
	}
	for _, mechanism := range []string{"SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN"} {
		args := []string{"--password=builder"}
		if !strings.HasSuffix(mechanism, "-PLUS") {
			args = append(args, "--no-cb")
		}
		r := gsasl(mechanism, args...)
		if r.code != 0 {
			t.Errorf("%s: gsasl ended with %d:\n%s", mechanism, r.code, last(r.out, 40))
		}
		contains(t, r.out, "AUTH "+mechanism, "235 2.7.0")
	}
	if r := gsasl("ANONYMOUS", "--anonymous-token=visitor"); r.code != 0 {
		t.Errorf("ANONYMOUS: %d:\n%s", r.code, last(r.out, 40))
	}
	h.proc.says(t, `"trace":"visitor"`)
	// EXTERNAL: gsasl has to be told to act for somebody.
	certified := func(args ...string) result {
		return try(t, "", "gsasl", append([]string{
			"--smtp", "--verbose", "--mechanism", "EXTERNAL", "--x509-ca-file", h.root, "--connect", "localhost:" + h.port("all"), "--application-data",
		}, args...)...)
	}
	for authorize, ok := range map[string]bool{"": true, "alice@example.test": true, "bob@example.test": false} {
		r := certified("--authorization-id="+authorize, "--x509-cert-file", h.cert, "--x509-key-file", h.key)
		if (r.code == 0) != ok || strings.Contains(r.out, "235 2.7.0") != ok {
			t.Errorf("EXTERNAL as '%s': %d:\n%s", authorize, r.code, last(r.out, 40))
		}
	}
	if r := certified("--authorization-id=alice@example.test"); r.code == 0 || strings.Contains(r.out, "235 2.7.0") {
		t.Errorf("EXTERNAL without a certificate: %d:\n%s", r.code, last(r.out, 40))
	}
	if r := gsasl("SCRAM-SHA-256-PLUS", "--password=wrong"); r.code == 0 || strings.Contains(r.out, "235") {
		t.Errorf("a wrong password is right:\n%s", last(r.out, 40))
	}
}
