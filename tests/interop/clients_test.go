//go:build linux

package interop

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	login    = "alice@example.test"
	password = "quickstart"
)

// TestSwaks: the ways in which swaks can hand a message over.
func TestSwaks(t *testing.T) {
	t.Parallel()
	need(t, "swaks")
	h := newHost(t)
	h.serve(takes, "mx", "submission", "submissions")
	trust := []string{"--tls-verify", "--tls-ca-path", h.root("submission"), "--tls-sni", "mx.example.test"}
	auth := func(mech string) []string {
		return []string{"--auth", mech, "--auth-user", login, "--auth-password", password}
	}
	swaks := func(server, subject string, args ...string) result {
		return try(t, "", "swaks", append([]string{
			"--server", h.addr(server), "--ehlo", "client.test", "--from", "bob@elsewhere.test",
			"--to", login, "--header", "Subject: " + subject,
		}, args...)...)
	}
	for name, c := range map[string]struct {
		server string
		args   [][]string
		with   string // RFC 3848
	}{
		"plain":                  {"mx", nil, "with ESMTP "},
		"HELO":                   {"mx", [][]string{{"--protocol", "SMTP"}}, "with SMTP "},
		"pipelining":             {"mx", [][]string{{"--pipeline"}}, "with ESMTP "},
		"STARTTLS":               {"mx", [][]string{{"--tls"}, trust}, "with ESMTPS "},
		"STARTTLS, pipelining":   {"mx", [][]string{{"--tls", "--pipeline"}, trust}, "with ESMTPS "},
		"STARTTLS, PLAIN":        {"submission", [][]string{{"--tls"}, trust, auth("PLAIN")}, "with ESMTPSA "},
		"STARTTLS, LOGIN":        {"submission", [][]string{{"--tls"}, trust, auth("LOGIN")}, "with ESMTPSA "},
		"implicit TLS, PLAIN":    {"submissions", [][]string{{"--tls-on-connect"}, trust, auth("PLAIN")}, "with ESMTPSA "},
		"implicit TLS, LOGIN":    {"submissions", [][]string{{"--tls-on-connect"}, trust, auth("LOGIN")}, "with ESMTPSA "},
		"implicit TLS, pipeline": {"submissions", [][]string{{"--tls-on-connect", "--pipeline"}, trust, auth("PLAIN")}, "with ESMTPSA "},
	} {
		t.Run(name, func(t *testing.T) {
			var args []string
			for _, a := range c.args {
				args = append(args, a...)
			}
			if r := swaks(c.server, name, args...); r.code != 0 {
				t.Fatalf("swaks ended with %d:\n%s", r.code, r.out)
			}
			m := got(t, h.inbox("alice"), name)
			contains(t, m.text, "Return-Path: <bob@elsewhere.test>", "from client.test", "by mx.example.test", c.with)
		})
	}

	strangers, _ := selfSigned(t, h.dir, "strangers.test")
	// swaks' exit codes are in its manual.
	for name, c := range map[string]struct {
		server string
		args   []string
		code   int
	}{
		"no AUTH without TLS":        {"submission", auth("PLAIN"), 28},
		"a wrong password":           {"submission", append(append([]string{"--tls"}, trust...), "--auth", "PLAIN", "--auth-user", login, "--auth-password", "wrong"), 28},
		"no login":                   {"submission", append([]string{"--tls"}, trust...), 23},
		"a recipient of elsewhere":   {"mx", []string{"--to", "someone@elsewhere.test"}, 24},
		"a certificate of strangers": {"mx", []string{"--tls", "--tls-verify", "--tls-ca-path", strangers}, 29},
	} {
		t.Run(name, func(t *testing.T) {
			if r := swaks(c.server, name, c.args...); r.code != c.code {
				t.Errorf("swaks ended with %d, want %d:\n%s", r.code, c.code, last(r.out, 60))
			}
		})
	}

	t.Run("attachment", func(t *testing.T) {
		data := make([]byte, 5<<20)
		rand.Read(data)
		file := filepath.Join(h.dir, "photo.bin")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for i, args := range [][]string{nil, append([]string{"--tls"}, trust...)} {
			subject := fmt.Sprintf("attachment %d", i)
			if r := swaks("mx", subject, append([]string{"--attach", "@" + file, "--hide-all"}, args...)...); r.code != 0 {
				t.Fatalf("swaks ended with %d:\n%s", r.code, r.out)
			}
			if !bytes.Equal(attached(t, got(t, h.inbox("alice"), subject)), data) {
				t.Error("the attachment is not what was sent")
			}
		}
	})

	t.Run("many recipients", func(t *testing.T) {
		var to []string
		for i := range 100 { // RFC 5321, 4.5.3.1.8
			to = append(to, fmt.Sprintf("user%d@example.test", i))
		}
		for i, args := range [][]string{nil, {"--pipeline"}} {
			subject := fmt.Sprintf("to all %d", i)
			if r := swaks("mx", subject, append([]string{"--to", strings.Join(to, ",")}, args...)...); r.code != 0 {
				t.Fatalf("swaks ended with %d:\n%s", r.code, last(r.out, 60))
			}
			for i := range to {
				got(t, h.inbox(fmt.Sprintf("user%d", i)), subject)
			}
		}
	})
}

// attached returns the content of a message's one attachment.
func attached(t testing.TB, m *message) []byte {
	t.Helper()
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		part, err := r.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(part.Header.Get("Content-Disposition"), "attachment") {
			continue
		}
		b, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, part))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// TestMsmtp verifies the certificate and logs in.
func TestMsmtp(t *testing.T) {
	t.Parallel()
	need(t, "msmtp")
	h := newHost(t)
	h.serve(takes, "submission", "submissions")
	root := h.root("submission")
	for name, c := range map[string]struct{ server, starttls, auth string }{
		"STARTTLS, plain":     {"submission", "on", "plain"},
		"STARTTLS, login":     {"submission", "on", "login"},
		"STARTTLS, any":       {"submission", "on", "on"},
		"implicit TLS, plain": {"submissions", "off", "plain"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "msmtprc")
			text := fmt.Sprintf("account default\nhost 127.0.0.1\nport %s\ndomain client.test\nfrom %s\ntls on\n"+
				"tls_starttls %s\ntls_trust_file %s\ntls_host_override mx.example.test\nauth %s\nuser %s\npassword %s\n",
				h.port(c.server), login, c.starttls, root, c.auth, login, password)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			body := "From: <" + login + ">\nTo: <" + login + ">\nSubject: " + name + "\n\n.a dot\nGrüße\n"
			run(t, body, "msmtp", "-C", file, "--debug", login)
			m := got(t, h.inbox("alice"), name)
			contains(t, m.text, "with ESMTPSA ", "\n.a dot\n", "Grüße")
			os.WriteFile(file, []byte(strings.Replace(text, "mx.example.test", "other.example.test", 1)), 0o600)
			if r := try(t, body, "msmtp", "-C", file, login); r.code == 0 {
				t.Error("the certificate is good for other names")
			}
		})
	}
}

// TestCurl sends with the URLs smtp and smtps.
func TestCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	h := newHost(t)
	h.serve(takes, "mx", "submission", "submissions")
	root := h.root("submission")
	for name, c := range map[string]struct {
		scheme, server string
		args           []string
	}{
		"smtp":           {"smtp", "mx", nil},
		"smtp, TLS":      {"smtp", "mx", []string{"--ssl-reqd"}},
		"smtp, PLAIN":    {"smtp", "submission", []string{"--ssl-reqd", "--user", login + ":" + password, "--login-options", "AUTH=PLAIN"}},
		"smtp, LOGIN":    {"smtp", "submission", []string{"--ssl-reqd", "--user", login + ":" + password, "--login-options", "AUTH=LOGIN"}},
		"smtp, SASL-IR":  {"smtp", "submission", []string{"--ssl-reqd", "--sasl-ir", "--user", login + ":" + password, "--login-options", "AUTH=PLAIN"}},
		"smtps, PLAIN":   {"smtps", "submissions", []string{"--user", login + ":" + password, "--login-options", "AUTH=PLAIN"}},
		"smtps, any way": {"smtps", "submissions", []string{"--user", login + ":" + password}},
	} {
		t.Run(name, func(t *testing.T) {
			body := "From: <" + login + ">\r\nTo: <" + login + ">\r\nSubject: " + name + "\r\n\r\n.\r\n..\r\nend\r\n"
			run(t, body, "curl", append([]string{
				"--silent", "--show-error", "--verbose", "--cacert", root,
				"--resolve", "mx.example.test:" + h.port(c.server) + ":127.0.0.1",
				c.scheme + "://mx.example.test:" + h.port(c.server) + "/client.test",
				"--mail-from", login, "--mail-rcpt", login, "--mail-rcpt", "bob@example.test", "--upload-file", "-",
			}, c.args...)...)
			for _, who := range []string{"alice", "bob"} {
				m := got(t, h.inbox(who), name)
				contains(t, m.text, "from client.test", "\n.\n..\nend\n")
			}
		})
	}
	t.Run("a wrong password", func(t *testing.T) {
		r := try(t, "x", "curl", "--silent", "--show-error", "--cacert", root,
			"--resolve", "mx.example.test:"+h.port("submissions")+":127.0.0.1", "smtps://mx.example.test:"+h.port("submissions"),
			"--mail-from", login, "--mail-rcpt", login, "--upload-file", "-", "--user", login+":wrong")
		if r.code != 67 { // CURLE_LOGIN_DENIED
			t.Errorf("curl ended with %d: %s", r.code, r.out)
		}
	})
}

// TestSmtplib runs Python's client; what it says is in the script.
func TestSmtplib(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	h := newHost(t)
	h.serve(takes, "mx", "submission", "submissions")
	root := h.root("submission")
	out := run(t, "", "python3", "testdata/client.py", h.port("mx"), h.port("submission"), h.port("submissions"), root, login, password)
	if !strings.HasSuffix(out, "done\n") {
		t.Fatalf("it ended early:\n%s", out)
	}
	for i := range 20 {
		got(t, h.inbox("alice"), fmt.Sprintf("one of many %d", i))
	}
	for _, how := range []string{"PLAIN", "LOGIN"} {
		for _, where := range []string{"STARTTLS", "TLS"} {
			contains(t, got(t, h.inbox("alice"), how+" over "+where).text, "with ESMTPSA ")
		}
	}
	m := got(t, h.inbox("jürgen"), "Grüße aus Köln")
	contains(t, m.text, "Return-Path: <jürgen@example.test>", "with UTF8SMTP", "To: Jürgen <jürgen@example.test>")
	got(t, h.inbox("alice"), "after a refusal")
	got(t, h.inbox("alice"), "after a wrong password")
	contains(t, got(t, h.inbox("alice"), "eight bits").text, "\nschöne Grüße\n")
}
