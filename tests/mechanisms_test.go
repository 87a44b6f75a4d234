package tests

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	xdg "github.com/xdg-go/scram"

	"github.com/caddymail/caddy-smtp/smtpapp/client/clienttest"
	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// exchange says AUTH and then responses, the last of which ends it; what the
// server says to each is returned.
func (k *talker) exchange(mechanism, code string, responses ...func(challenge string) string) (challenges []string) {
	k.t.Helper()
	line := "AUTH " + mechanism
	for _, r := range responses {
		got := strings.TrimSpace(strings.TrimPrefix(k.say("334", "%s", line), "334"))
		challenge, err := base64.StdEncoding.DecodeString(got)
		if err != nil {
			k.t.Fatal(err)
		}
		challenges = append(challenges, string(challenge))
		line = b64(r(string(challenge)))
	}
	return append(challenges, k.say(code, "%s", line))
}

// quickly is of logins that fail without delay, other than the session's own.
const quickly = `
	logins {
		delay 1ms 1ms
		user 1000 1000
	}`

func always(s string) func(string) string { return func(string) string { return s } }

// scram logs in with another implementation of the client.
func (k *talker) scram(mechanism, code, user, password string, binding *xdg.ChannelBinding) {
	k.t.Helper()
	hash := xdg.SHA256
	if strings.HasPrefix(mechanism, "SCRAM-SHA-1") {
		hash = xdg.SHA1
	}
	c, err := hash.NewClient(user, password, "")
	if err != nil {
		k.t.Fatal(err)
	}
	conv := c.NewConversation()
	if binding != nil {
		conv = c.NewConversationWithChannelBinding(*binding)
	}
	step := func(challenge string) string {
		r, err := conv.Step(challenge)
		if err != nil {
			k.t.Fatal(err)
		}
		return r
	}
	first := func(string) string { return step("") }
	if code == "235" {
		k.exchange(mechanism, code, first, step, step)
		if !conv.Valid() {
			k.t.Error("the server has not shown that it knows the password")
		}
		return
	}
	k.exchange(mechanism, code, first, step)
}

// TestChannelBinding: the certificate that a client saw, and its connection, are
// those that the server has.
func TestChannelBinding(t *testing.T) {
	h := newHost(t)
	h.load(quickly + `
	server submission ADDR(submission) {
		tls {
			issuer internal
			names other.example.test
		}
		limits {
			error_delay none
		}
		auth {
			inline {
				alice {PLAIN}pencil
			}
		}
		discard
	}`)
	const offered = "250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN\r\n"
	for _, name := range []string{"mx.example.test", "other.example.test", ""} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			begin := func() (*talker, tls.ConnectionState) {
				k := greet(t, h.addr("submission"))
				cfg := insecure(name)
				cfg.MaxVersion = version
				st := k.starttls(cfg)
				contains(t, k.say("250", "EHLO client.test"), offered)
				return k, st
			}
			k, st := begin()
			endPoint, err := xdg.NewTLSServerEndpointBinding(&st)
			if err != nil {
				t.Fatal(err)
			}
			k.scram("SCRAM-SHA-256-PLUS", "235", "alice", "pencil", &endPoint)

			k, _ = begin()
			endPoint.Data[0]++
			k.scram("SCRAM-SHA-256-PLUS", "535 5.7.8", "alice", "pencil", &endPoint)

			if k, st = begin(); version == tls.VersionTLS12 {
				continue
			}
			exporter, err := xdg.NewTLSExporterBinding(&st)
			if err != nil {
				t.Fatal(err)
			}
			k.scram("SCRAM-SHA-1-PLUS", "235", "alice", "pencil", &exporter)
			k, _ = begin() // what belongs to another connection
			k.scram("SCRAM-SHA-1-PLUS", "535 5.7.8", "alice", "pencil", &exporter)
		}
	}
	k := greet(t, h.addr("submission"))
	k.say("538 5.7.11", "AUTH SCRAM-SHA-256")
	k.starttls(insecure("mx.example.test"))
	k.say("250", "EHLO client.test")
	k.exchange("SCRAM-SHA-256", "535 5.7.8", always("y,,n=alice,r=x"))
}

// TestAnonymous: a sink takes what anybody brings, and relays none of it.
func TestAnonymous(t *testing.T) {
	h := newHost(t)
	h.load(`
	server sink ADDR(sink) {
		plaintext_auth
		auth {
			mechanisms ANONYMOUS
		}
		@local rcpt_domain example.test
		deliver @local maildir DIR/mail {
			create
		}
		@users authenticated
		discard @users
		relay 127.0.0.1:1
	}`)
	k := greet(t, h.addr("sink"))
	k.say("530 5.7.0", "MAIL FROM:<a@client.test>")
	k.exchange("ANONYMOUS", "235 2.7.0", always("visitor"))
	k.say("503", "AUTH ANONYMOUS")
	k.say("250", "MAIL FROM:<a@client.test>")
	k.say("550 5.7.1", "RCPT TO:<someone@elsewhere.test>")
	k.say("250", "RSET")
	k.send("a@client.test", "box@example.test", "from nobody")
	wait(t, "mail", func() bool { return len(mails(t, filepath.Join(h.dir, "mail"))) == 1 })
}

func init() { caddy.RegisterModule(new(tokens)) }

// tokens knows one token, that is in the environment.
type tokens struct{}

func (*tokens) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "smtp.auth.test_tokens", New: func() caddy.Module { return new(tokens) }}
}

func (*tokens) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

func (*tokens) CheckToken(_ context.Context, user, token string) (*login.Identity, error) {
	if token != os.Getenv("CANARY_TOKEN") {
		return nil, nil
	}
	return &login.Identity{User: user}, nil
}

// Canaries of TestCanaries. None is part of another, or of any word.
var canaries = map[string]string{
	"CANARY_PLAIN": "qzPlainJx7", "CANARY_HASHED": "qzHashedWv3", "CANARY_TOKEN": "qzTokenKp9", "CANARY_WRONG": "qzWrongYt2",
	"CANARY_NAME": "qzNameFq5", "CANARY_LINE": "qzLineGm8",
}

// TestCanaries is promise P31: secrets of every mechanism, right, wrong, and in
// the wrong place, show in no log, no reply, no configuration and no error.
func TestCanaries(t *testing.T) {
	for name, value := range canaries {
		t.Setenv(name, value)
	}
	h := newHost(t)
	keys, err := login.NewKeys(login.SHA256, canaries["CANARY_HASHED"], 4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CANARY_KEYS", keys.String())
	logFile := filepath.Join(h.dir, "log")
	text := strings.Replace(h.config(quickly+`
	server submission ADDR(submission) {
		plaintext_auth
		limits {
			failed_auth none
			hard_errors none
			error_delay none
		}
		auth {
			mechanisms SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5 OAUTHBEARER XOAUTH2
			inline {
				alice {PLAIN}{env.CANARY_PLAIN}
				bob   {env.CANARY_KEYS}
			}
			test_tokens
		}
		relay 127.0.0.1:1 {
			auth alice {env.CANARY_PLAIN}
		}
	}`, ""), "level ERROR", "level DEBUG\n\t\toutput file "+logFile, 1)
	cfg, err := adapt(t, text)
	if err != nil {
		t.Fatal(err)
	}
	loadJSON(t, cfg)

	seen := new(strings.Builder)
	attempt := func(f func(k *talker)) {
		k := greet(t, h.addr("submission"))
		k.r.Reset(io.TeeReader(k.conn, seen))
		f(k)
		k.conn.Close()
	}
	plain, wrong, token := canaries["CANARY_PLAIN"], canaries["CANARY_WRONG"], canaries["CANARY_TOKEN"]
	for secret, code := range map[string]string{plain: "235", wrong: "535"} {
		attempt(func(k *talker) { k.exchange("PLAIN", code, always("\x00alice\x00"+secret)) })
		attempt(func(k *talker) { k.say(code, "AUTH PLAIN %s", b64("\x00alice\x00"+secret)) })
		attempt(func(k *talker) { k.exchange("LOGIN", code, always("alice"), always(secret)) })
		attempt(func(k *talker) { k.scram("SCRAM-SHA-256", code, "alice", secret, nil) })
		attempt(func(k *talker) {
			k.exchange("CRAM-MD5", code, func(challenge string) string {
				m := hmac.New(md5.New, []byte(secret))
				m.Write([]byte(challenge))
				return "alice " + hex.EncodeToString(m.Sum(nil))
			})
		})
	}
	attempt(func(k *talker) { k.scram("SCRAM-SHA-256", "235", "bob", canaries["CANARY_HASHED"], nil) })
	attempt(func(k *talker) { k.exchange("PLAIN", "235", always("\x00bob\x00"+canaries["CANARY_HASHED"])) })
	attempt(func(k *talker) { k.exchange("XOAUTH2", "235", always("user=alice\x01auth=Bearer "+token+"\x01\x01")) })
	attempt(func(k *talker) {
		k.exchange("OAUTHBEARER", "235", always("n,a=alice,\x01auth=Bearer "+token+"\x01\x01"))
	})
	attempt(func(k *talker) {
		k.exchange("XOAUTH2", "535", always("user=alice\x01auth=Bearer "+wrong+"\x01\x01"), always(""))
	})
	attempt(func(k *talker) {
		k.exchange("OAUTHBEARER", "535", always("n,a=alice,\x01auth=Bearer "+wrong+"\x01\x01"), always("\x01"))
	})
	// In the wrong place.
	attempt(func(k *talker) { k.exchange("LOGIN", "535", always(canaries["CANARY_NAME"]), always("x")) })
	attempt(func(k *talker) { k.exchange("PLAIN", "535", always("\x00"+canaries["CANARY_NAME"]+"\x00x")) })
	attempt(func(k *talker) { k.scram("SCRAM-SHA-256", "535", canaries["CANARY_NAME"], "x", nil) })
	attempt(func(k *talker) { k.say("501", "AUTH PLAIN !%s", canaries["CANARY_LINE"]) })
	attempt(func(k *talker) { k.say("504", "AUTH %s", canaries["CANARY_LINE"]) })
	attempt(func(k *talker) { k.say("500", "%s", canaries["CANARY_LINE"]) })
	attempt(func(k *talker) { k.say("500", "%s", b64(canaries["CANARY_LINE"])) })
	attempt(func(k *talker) { k.exchange("PLAIN", "501", always(canaries["CANARY_LINE"])) })
	attempt(func(k *talker) {
		k.say("334", "AUTH PLAIN")
		k.say("501", "%s!", canaries["CANARY_LINE"])
	})

	places := map[string]string{"replies": seen.String()}
	for _, path := range []string{"/config/", "/metrics", "/smtp/queue", "/smtp/bans"} {
		var b string
		if code := h.get(path, &b); code != http.StatusOK {
			t.Fatalf("%s: %d", path, code)
		}
		places[path] = b
	}
	users := filepath.Join(h.dir, "users")
	if err := os.WriteFile(users, []byte("alice:"+wrong+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, source := range []string{"inline {\na " + wrong + "\n}", "inline {\na {PLAIN}x {PLAIN}" + wrong + "\n}", "inline {\na {env.CANARY_WRONG}\n}", "file " + users} {
		err := h.try("server x ADDR(x) {\nauth {\n"+source+"\n}\ndiscard\n}", "")
		if err == nil {
			t.Errorf("%s: no error", source)
		}
		places[fmt.Sprint("error ", i)] = fmt.Sprint(err)
	}
	b, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	places["log"] = string(b)
	for _, sign := range []string{`"from":"C"`, "AUTH (secret)", "login failed"} { // it is a log at debug level
		contains(t, places["log"], sign)
	}
	secrets := append([]string{keys.String(), b64(string(keys.StoredKey)), b64(string(keys.ServerKey))}, encodings()...)
	for place, text := range places {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				i := strings.Index(text, s)
				t.Errorf("%s has %q: %s", place, s, text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
}

// encodings are the canaries as they are, in hexadecimal digits, and as parts of
// something in base64.
func encodings() (found []string) {
	for _, c := range canaries {
		found = append(found, c, hex.EncodeToString([]byte(c)))
		for pad := range 3 {
			s := b64(strings.Repeat("x", pad) + c)
			found = append(found, s[4*min(pad, 1):len(s)-4])
		}
	}
	return found
}

// TestExternal: a certificate of Caddy's internal CA is a login, and others' are
// not.
func TestExternal(t *testing.T) {
	h := newHost(t)
	h.load(`
	server submission ADDR(submission) {
		tls internal
		discard
	}`)
	k := greet(t, h.addr("submission"))
	issuedFor := filepath.Join(h.dir, "storage/certificates/local/mx.example.test/mx.example.test")
	var mine tls.Certificate
	wait(t, "a certificate", func() bool {
		var err error
		mine, err = tls.LoadX509KeyPair(issuedFor+".crt", issuedFor+".key")
		return err == nil
	})
	k.conn.Close()
	h.load(`
	server submission ADDR(submission) {
		xclient 127.0.0.1
		tls {
			issuer internal
			client_auth {
				mode verify_if_given
				trust_pool pki_root local
			}
		}
		auth {
			inline {
				alice {PLAIN}pencil
			}
			tls dns {
				table inline {
					mx.example.test alice
				}
			}
		}
		discard
	}`)
	for _, c := range []struct {
		cert      []tls.Certificate
		authorize string
		code      string
	}{
		{[]tls.Certificate{mine}, "", "235"}, {[]tls.Certificate{mine}, "Alice", "235"}, {[]tls.Certificate{mine}, "bob", "535 5.7.8"}, {nil, "", "504 5.5.4"},
	} {
		k := greet(t, h.addr("submission"))
		cfg := insecure("mx.example.test")
		cfg.Certificates = c.cert
		k.starttls(cfg)
		if ehlo := k.say("250", "EHLO client.test"); strings.Contains(ehlo, "AUTH EXTERNAL SCRAM-SHA-256-PLUS") != (c.cert != nil) {
			t.Errorf("%s", ehlo)
		}
		if c.cert == nil {
			k.say(c.code, "AUTH EXTERNAL")
			continue
		}
		k.exchange("EXTERNAL", c.code, always(c.authorize))
	}
	cfg := insecure("mx.example.test")
	cfg.Certificates = []tls.Certificate{mine}
	for _, early := range []bool{false, true} { // what a proxy shows is not its client's
		k := greet(t, h.addr("submission"))
		if early {
			k.say("220", "XCLIENT ADDR=192.0.2.1")
			k.say("250", "EHLO client.test")
		}
		k.starttls(cfg)
		if !early {
			k.say("220", "XCLIENT ADDR=192.0.2.1")
		}
		if ehlo := k.say("250", "EHLO client.test"); strings.Contains(ehlo, "EXTERNAL") || strings.Contains(ehlo, "PLUS") {
			t.Errorf("%s", ehlo)
		}
		k.say("504 5.5.4", "AUTH EXTERNAL =")
	}
	leaf, err := x509.ParseCertificate(mine.Certificate[0])
	if err != nil || leaf.DNSNames[0] != "mx.example.test" {
		t.Error(leaf, err)
	}
}

// TestEchoedSecret is of promise P31: a next hop that repeats the password that
// it was told, as it is or as it was sent, puts it into no log, no queue and no
// DSN.
func TestEchoedSecret(t *testing.T) {
	t.Setenv("CANARY_PLAIN", canaries["CANARY_PLAIN"])
	cert, _ := clienttest.Certificate(t, "peer.test")
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cert)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprint(c, "220 peer.test\r\n")
				for in := bufio.NewScanner(c); in.Scan(); {
					switch l := in.Text(); {
					case strings.HasPrefix(l, "EHLO"):
						fmt.Fprint(c, "250-peer.test\r\n250 AUTH PLAIN\r\n")
					case strings.HasPrefix(l, "AUTH"):
						fmt.Fprintf(c, "535-5.7.8 '%s' is wrong,\r\n535 5.7.8 and so is %s\r\n", l, canaries["CANARY_PLAIN"])
					default:
						fmt.Fprintf(c, "550 5.7.1 log in, not with %s\r\n", canaries["CANARY_PLAIN"])
					}
				}
			}()
		}
	}()
	h := newHost(t)
	logFile := filepath.Join(h.dir, "log")
	text := strings.Replace(h.config(`
	server out ADDR(out) {
		tls off
		@local rcpt_domain example.test
		deliver @local maildir DIR/mail/{smtp.rcpt.domain}/{smtp.rcpt.local} {
			create
		}
		relay `+ln.Addr().String()+` {
			trust 127.0.0.1
			tls implicit
			insecure_skip_verify
			auth alice {env.CANARY_PLAIN}
		}
	}`, ""), "level ERROR", "level DEBUG\n\t\toutput file "+logFile, 1)
	cfg, err := adapt(t, text)
	if err != nil {
		t.Fatal(err)
	}
	loadJSON(t, cfg)
	greet(t, h.addr("out")).send("alice@example.test", "x@far.test", "one")
	var queue string
	wait(t, "an attempt", func() bool {
		b, _ := os.ReadFile(logFile)
		return strings.Contains(string(b), "is wrong")
	})
	wait(t, "its result", func() bool {
		h.get("/smtp/queue", &queue)
		return strings.Contains(queue, "5.7.8") || strings.Contains(queue, "4.7.8")
	})
	log, err := os.ReadFile(logFile)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(log), "is wrong")
	all := string(log) + queue + strings.Join(mails(t, filepath.Join(h.dir, "mail/example.test/alice")), "\n")
	for _, s := range append(encodings(), b64("\x00alice\x00"+canaries["CANARY_PLAIN"])) {
		if i := strings.Index(all, s); i >= 0 {
			t.Fatalf("%q is there: %s", s, all[max(0, i-200):min(len(all), i+100)])
		}
	}
}
