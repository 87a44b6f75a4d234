//go:build linux

package interop

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/dns/dnstest"
)

const pebbleVersion = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1"

// pebbleBinary is built once, from the Go proxy.
var pebbleBinary = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "install", pebbleVersion)
	cmd.Dir = buildDir // no module of ours takes part
	cmd.Env = append(os.Environ(), "GOBIN="+buildDir, "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	os.WriteFile(filepath.Join(buildDir, "pebble.log"), out, 0o600)
	return filepath.Join(buildDir, "pebble"), err
})

// A pebble is an ACME server that resolves mx.example.test to this machine.
type pebble struct {
	ca    string         // its API's certificate, a file
	dir   string         // its directory, behind a gate that is shut at first
	open  func()         // opens the gate
	roots *x509.CertPool // what it issues is verified with this
}

// newPebble validates on the ports that the host has for "http" and "https".
func newPebble(t *testing.T, h *host) *pebble {
	t.Helper()
	bin, err := pebbleBinary()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(buildDir, "pebble.log"))
		missing(t, "pebble cannot be had: "+string(log))
	}
	p := new(pebble)
	cert, key := selfSigned(t, h.dir, "pebble.test")
	p.ca = cert
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": h.addr("acme"), "managementListenAddress": h.addr("pebble"),
		"certificate": cert, "privateKey": key,
		"httpPort": number(t, h.port("http")), "tlsPort": number(t, h.port("https")),
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(h.dir, "pebble.json")
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	dns := dnstest.Serve(t, &dnstest.Zone{Host: map[string][]string{"mx.example.test": {"127.0.0.1"}}})
	cmd := command(bin, "-config", file, "-dnsserver", dns)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	proc := start(t, "pebble", cmd)
	proc.serves(t, "tcp", h.addr("acme"))
	proc.serves(t, "tcp", h.addr("pebble"))
	p.roots = p.root(t, "https://"+h.addr("pebble")+"/roots/0")
	var gate string
	gate, p.open = newGate(t, h.addr("acme"))
	p.dir = "https://" + gate + "/dir"
	return p
}

func number(t testing.TB, port string) int {
	t.Helper()
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// root asks for the root certificate, which is another at each start.
func (p *pebble) root(t *testing.T, url string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	api := x509.NewCertPool()
	api.AppendCertsFromPEM(pem)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: api}}, Timeout: 10 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer client.CloseIdleConnections()
	pem, err = io.ReadAll(resp.Body)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("pebble's root: %v: %s", err, pem)
	}
	return pool
}

// newGate forwards connections to addr, from when it is opened.
func newGate(t *testing.T, to string) (addr string, open func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opened, ended := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(ended)
		ln.Close()
	})
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				select {
				case <-opened:
				case <-ended:
					return
				}
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				go io.Copy(out, in)
				io.Copy(in, out)
			}()
		}
	}()
	return ln.Addr().String(), sync.OnceFunc(func() { close(opened) })
}

// TestACME: a real ACME server issues the certificate, over the ports of a
// site where there is one, and over CertMagic's own where there is none.
func TestACME(t *testing.T) {
	t.Parallel()
	const server = `
	server mx ADDR(mx) {
		listen_tls ADDR(tls)
		%TLS` + local + `
	}`
	for name, c := range map[string]struct{ tls, site string }{
		"beside a site":             {"", "mx.example.test {\n\tbind 127.0.0.1\n\trespond hello\n}\n"},
		"mail alone, any challenge": {"", ""},
		"mail alone, HTTP-01":       {"disable_tlsalpn_challenge", ""},
		"mail alone, TLS-ALPN-01":   {"disable_http_challenge", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			p := newPebble(t, h)
			h.globals = "http_port " + h.port("http") + "\n\thttps_port " + h.port("https")
			if c.tls == "" {
				h.globals += "\n\tacme_ca " + p.dir + "\n\tacme_ca_root " + p.ca
			} else {
				c.tls = "tls {\n issuer acme {\n dir " + p.dir + "\n trusted_roots " + p.ca + "\n" + c.tls +
					"\n alt_http_port " + h.port("http") + "\n alt_tlsalpn_port " + h.port("https") + "\n}\n}\n"
			}
			h.rest = c.site
			h.serve(boxes+strings.Replace(server, "%TLS", c.tls, 1), "mx", "tls")

			// Before: a temporary certificate, and mail flows.
			state, err := starttls(h.addr("mx"), insecure("mx.example.test"))
			if err != nil {
				t.Fatal(err)
			}
			leaf := state.PeerCertificates[0]
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: p.roots}); err == nil || leaf.Issuer.String() != leaf.Subject.String() {
				t.Errorf("the temporary certificate is of %s", leaf.Issuer)
			}
			send(t, h.addr("mx"), "a@b.test", login, "before")
			got(t, h.inbox("alice"), "before")
			opportunists(t, h)

			p.open()
			strict := &tls.Config{RootCAs: p.roots, ServerName: "mx.example.test"}
			wait(t, "the certificate", func() bool {
				state, err = starttls(h.addr("mx"), strict)
				return err == nil
			})
			serial := state.PeerCertificates[0].SerialNumber
			for _, port := range []string{"tls", "https"} {
				if port == "https" && c.site == "" {
					continue
				}
				conn, err := tls.Dial("tcp", h.addr(port), strict)
				if err != nil {
					t.Fatalf("%s: %v", port, err)
				}
				if got := conn.ConnectionState().PeerCertificates[0].SerialNumber; got.Cmp(serial) != 0 {
					t.Errorf("%s has certificate %s, STARTTLS has %s", port, got, serial)
				}
				conn.Close()
			}
			send(t, h.addr("mx"), "a@b.test", login, "after")
			got(t, h.inbox("alice"), "after")
		})
	}
}

// opportunists are clients that take any certificate, as MTAs do, of the
// libraries that those have.
func opportunists(t *testing.T, h *host) {
	t.Helper()
	need(t, "curl", "msmtp", "swaks")
	from, to := "a@b.test", login
	run(t, "", "swaks", "--server", h.addr("mx"), "--tls", "--from", from, "--to", to, "--header", "Subject: OpenSSL before")
	run(t, "Subject: curl before\r\n\r\nhello\r\n", "curl", "--silent", "--show-error", "--insecure", "--ssl-reqd", "smtp://"+h.addr("mx"),
		"--mail-from", from, "--mail-rcpt", to, "--upload-file", "-")
	run(t, "Subject: GnuTLS before\n\nhello\n", "msmtp", "--file=/dev/null", "--host=127.0.0.1", "--port="+h.port("mx"),
		"--tls=on", "--tls-starttls=on", "--tls-certcheck=off", "--from="+from, to)
	for _, client := range []string{"OpenSSL", "curl", "GnuTLS"} {
		contains(t, got(t, h.inbox("alice"), client+" before").text, "with ESMTPS ")
	}
}
