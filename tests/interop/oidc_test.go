//go:build linux

package interop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// oidcServers have users of the issuer: by JWTs, and by asking.
const oidcServers = boxes + `
	server jwt ADDR(jwt) {
		tls internal
		auth {
			oidc http://ADDR(issuer) {
				audience smtp.example.test
				scopes smtp
				attributes quota
			}
		}
		header +X-Who "{smtp.auth.user} {smtp.auth.method} {smtp.auth.attr.quota}"` + local + `
	}
	server asking ADDR(asking) {
		tls internal
		auth {
			oidc http://ADDR(issuer) {
				audience smtp.example.test
				scopes smtp
				attributes quota
				introspection robot robot/s3cret+
			}
		}
		header +X-Who "{smtp.auth.user} {smtp.auth.method} {smtp.auth.attr.quota}"` + local + `
	}`

// An oidcHost is a Caddy with oidcServers, and their issuer.
type oidcHost struct {
	*host
	issuer *process
	root   string
}

func newOIDC(t *testing.T) *oidcHost {
	t.Helper()
	modules := nodeModules(t, "oidc-provider")
	h := &oidcHost{host: newHost(t)}
	h.serve(oidcServers, "jwt", "asking") // before there is an issuer
	h.root = h.host.root("jwt")
	h.issuer = start(t, "issuer", command("node", "testdata/issuer.mjs", modules, h.port("issuer")))
	h.issuer.says(t, "issuing")
	return h
}

// token gets one by the client's credentials.
func (h *oidcHost) token(resource, scope string) string {
	h.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}, "resource": {resource}}
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, "http://"+h.addr("issuer")+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("robot", url.QueryEscape("robot/s3cret+"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Token == "" {
		h.t.Fatal(resp.Status, err)
	}
	return a.Token
}

// came checks who a message came from.
func (h *oidcHost) came(subject, mechanism string) {
	h.t.Helper()
	if who := got(h.t, h.inbox("alice"), subject).Header.Get("X-Who"); who != login+" "+mechanism+" 7" {
		h.t.Errorf("%s: it came from %q by %s", subject, who, mechanism)
	}
}

// curl sends a message with a token as a user.
func (h *oidcHost) curl(server, mechanism, user, token, subject string) result {
	h.t.Helper()
	return try(h.t, strings.ReplaceAll(mailOf(subject), "\n", "\r\n"), "curl",
		"--silent", "--show-error", "--verbose", "--cacert", h.root, "--ssl-reqd",
		"--resolve", "mx.example.test:"+h.port(server)+":127.0.0.1", "smtp://mx.example.test:"+h.port(server)+"/client.test",
		"--mail-from", login, "--mail-rcpt", login, "--upload-file", "-",
		"--user", user, "--oauth2-bearer", token, "--login-options", "AUTH="+mechanism)
}

func TestOIDCCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	h := newOIDC(t)
	const resource = "https://smtp.example.test/"
	for _, c := range []struct{ server, resource, scope, user, code string }{
		{"jwt", resource + "ec", "smtp", login, "235"},
		{"jwt", resource + "rsa", "smtp imap", login, "235"},
		{"asking", resource + "opaque", "smtp", login, "235"},
		{"asking", resource + "opaque", "imap", login, "535"},
		{"asking", "https://imap.example.test/opaque", "smtp", login, "535"},
		{"jwt", resource + "opaque", "smtp", login, "535"},
		{"jwt", resource + "ec", "imap", login, "535"},
		{"jwt", resource + "ec", "smtp", "bob@example.test", "535"},
		{"jwt", "https://imap.example.test/ec", "smtp", login, "535"},
	} {
		subject := fmt.Sprintf("curl %d", tries.Add(1))
		token := h.token(c.resource, c.scope)
		r := h.curl(c.server, "OAUTHBEARER", c.user, token, subject) // it would say that too if XOAUTH2 were asked of it
		if (r.code == 0) != (c.code == "235") || !strings.Contains(r.out, "\n< "+c.code) {
			t.Errorf("%v: curl ended with %d:\n%s", c, r.code, last(r.out, 30))
		} else if r.code == 0 {
			h.came(subject, "OAUTHBEARER")
		}
		if strings.Contains(h.proc.out.String(), token) {
			t.Error("the token is in the log")
		}
	}
	token := h.token(resource+"opaque", "smtp")
	h.issuer.stop()
	if r := h.curl("asking", "OAUTHBEARER", login, token, "down"); r.code == 0 || !strings.Contains(r.out, "\n< 454") {
		t.Errorf("without an issuer: %d\n%s", r.code, last(r.out, 30))
	}
	h.proc.says(t, "oidc: introspection: ")
	if strings.Contains(h.proc.out.String(), token) || strings.Contains(h.proc.out.String(), "s3cret") {
		t.Error("the log has a secret")
	}
}

func TestOIDCMsmtp(t *testing.T) {
	t.Parallel()
	need(t, "msmtp")
	h := newOIDC(t)
	for _, mechanism := range []string{"OAUTHBEARER", "XOAUTH2"} {
		token := filepath.Join(h.dir, "token")
		if err := os.WriteFile(token, []byte(h.token("https://smtp.example.test/ec", "smtp")), 0o600); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(h.dir, "msmtprc")
		text := fmt.Sprintf("account default\nhost 127.0.0.1\nport %s\ndomain client.test\nfrom %s\ntls on\n"+
			"tls_trust_file %s\ntls_host_override mx.example.test\nauth %s\nuser %s\npasswordeval cat %s\n",
			h.port("jwt"), login, h.root, strings.ToLower(mechanism), login, token)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, mailOf("msmtp "+mechanism), "msmtp", "-C", file, login)
		h.came("msmtp "+mechanism, mechanism)
	}
}

func TestOIDCNodemailer(t *testing.T) {
	t.Parallel()
	modules := nodeModules(t, "nodemailer")
	h := newOIDC(t)
	const script = `
const [port, root, user, accessToken] = process.argv.slice(2)
const t = require("nodemailer").createTransport({
  host: "127.0.0.1", port: +port, requireTLS: true, name: "client.test",
  tls: {ca: require("fs").readFileSync(root), servername: "mx.example.test"},
  auth: {type: "OAuth2", user, accessToken},
})
t.sendMail({from: user, to: user, subject: "nodemailer", text: "hello"})
  .then(() => t.close(), e => { console.error(e); process.exit(1) })
`
	file := filepath.Join(h.dir, "send.js")
	if err := os.WriteFile(file, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "", "env", "NODE_PATH="+modules, "node", file, h.port("asking"), h.root, login, h.token("https://smtp.example.test/opaque", "smtp"))
	h.came("nodemailer", "XOAUTH2")
}
