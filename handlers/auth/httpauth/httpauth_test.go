package httpauth

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func provisioned(t *testing.T, s *Source) *Source {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := s.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Cleanup() })
	return s
}

func TestCheckPassword(t *testing.T) {
	var asked, header string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked, header = r.Method+" "+string(b), r.Header.Get("Authorization")+" "+r.Header.Get("Content-Type")
		if _, ok := r.Header["Idempotency-Key"]; ok {
			t.Error("an empty header is sent")
		}
		fmt.Fprint(w, `{"user":"Alice","addresses":["*@a.test"],"attributes":{"quota":7}}`)
	}))
	defer srv.Close()
	t.Setenv("TOKEN", "canary")
	s := provisioned(t, &Source{URL: srv.URL + "/check?k={env.TOKEN}", Headers: map[string]string{"authorization": "Bearer {env.TOKEN}"}})
	ctx := login.WithClient(t.Context(), login.Client{Remote: netip.MustParseAddrPort("192.0.2.1:99"), Local: netip.MustParseAddrPort("[::1]:587"), TLS: true, Mechanism: "PLAIN"})
	id, known, err := s.CheckPassword(ctx, "al", "p\"w\x00")
	if err != nil || !known || !reflect.DeepEqual(id, &login.Identity{User: "alice", Addresses: []string{"*@a.test"}, Attributes: map[string]string{"quota": "7"}}) {
		t.Errorf("%+v %v %v", id, known, err)
	}
	if want := `POST {"user":"al","password":"p\"w\u0000","mechanism":"PLAIN","remote_ip":"192.0.2.1","remote_port":99,"local_ip":"::1","local_port":587,"tls":true}`; asked != want {
		t.Error(asked)
	}
	if header != "Bearer canary application/json" {
		t.Error(header)
	}
	asked = ""
	for _, c := range [][2]string{{"a", ""}, {"", "b"}, {"a", "\xff"}} {
		if id, known, err := s.CheckPassword(t.Context(), c[0], c[1]); id != nil || known || err != nil || asked != "" {
			t.Error(id, known, err, asked)
		}
	}
	srv.Close()
	if id, _, err := s.CheckPassword(t.Context(), "a", "b"); id != nil || err == nil || strings.Contains(err.Error(), "canary") {
		t.Error(id, err)
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		status       int
		body         string
		known, fault bool
	}{
		{200, "", false, true}, {200, "<html>log in</html>", false, true}, {200, `{"success":false}`, false, true}, {200, "{}", false, true},
		{200, `{"user":"` + strings.Repeat("x", maxBody) + `"}`, false, true}, {200, `{"user":"a b"}`, false, true},
		{204, "", false, true}, {302, "", false, true}, {307, "", false, true}, {400, "", false, true}, {429, "", false, true}, {500, "", false, true}, {503, "", false, true},
		{401, "", true, false}, {403, `{"user":"alice"}`, true, false}, {404, "", false, false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/" {
				t.Error("a redirect was followed")
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		}))
		s := provisioned(t, &Source{URL: srv.URL})
		id, known, err := s.CheckPassword(t.Context(), "alice", "x")
		if id != nil || known != c.known || (err != nil) != c.fault {
			t.Errorf("%d %.20s: %v %v %v", c.status, c.body, id, known, err)
		}
		srv.Close()
	}
}

// TestTimeout: an endpoint that does not answer, or not to the end.
func TestTimeout(t *testing.T) {
	stop := make(chan bool)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			io.WriteString(w, `{"user":`)
			w.(http.Flusher).Flush()
		}
		<-stop
	}))
	defer srv.Close()
	defer close(stop)
	for _, path := range []string{"/", "/half"} {
		s := provisioned(t, &Source{URL: srv.URL + path, Timeout: caddy.Duration(100 * time.Millisecond)})
		if id, _, err := s.CheckPassword(t.Context(), "a", "b"); id != nil || err == nil {
			t.Error(path, id, err)
		}
	}
	s := provisioned(t, &Source{URL: srv.URL})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := s.CheckPassword(ctx, "a", "b"); err == nil {
		t.Error("the context does not end it")
	}
}

// TestKeptConnection: one that the endpoint has closed is no fault.
func TestKeptConnection(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"user":"a"}`) }))
	defer srv.Close()
	s := provisioned(t, &Source{URL: srv.URL})
	for range 20 {
		if id, _, err := s.CheckPassword(t.Context(), "a", "b"); id == nil || err != nil {
			t.Fatal(id, err)
		}
		srv.CloseClientConnections()
	}
}

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"user":"a"}`) }))
	defer srv.Close()
	s := provisioned(t, &Source{URL: srv.URL})
	if id, _, err := s.CheckPassword(t.Context(), "a", "b"); id != nil || err == nil {
		t.Error("a stranger's certificate is taken")
	}
}

// TestReload: 200 configurations leave neither goroutines nor files behind.
func TestReload(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"user":"a"}`) }))
	defer srv.Close()
	count := func() (goroutines, files int) {
		runtime.GC()
		list, _ := os.ReadDir("/proc/self/fd")
		return runtime.NumGoroutine(), len(list)
	}
	g, f := count()
	for range 200 {
		s := &Source{URL: srv.URL}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		if err := s.Provision(ctx); err != nil {
			t.Fatal(err)
		}
		if id, _, err := s.CheckPassword(ctx, "a", "b"); id == nil || err != nil {
			t.Fatal(err)
		}
		cancel()
		s.Cleanup()
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g2, f2 := count()
		if g2 <= g+5 && f2 <= f+5 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("goroutines %d, were %d; files %d, were %d", g2, g, f2, f)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	for want, s := range map[string]*Source{
		"not the URL": {}, "URL of an endpoint": {URL: "ftp://a.test"}, "in clear": {URL: "http://a.test/"}, "timeout is": {URL: "https://a.test", Timeout: -1},
		"max_connections is": {URL: "https://a.test", MaxConnections: -1}, "header 'x'": {URL: "https://a.test", Headers: map[string]string{"x": "{env.NO_SUCH_VARIABLE}"}},
		"url: ": {URL: "https://{env.NO_SUCH_VARIABLE}"}, "ca: ": {URL: "https://a.test", CARaw: json.RawMessage(`{"provider":"none"}`)},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		err := s.Provision(ctx)
		if err == nil {
			err = s.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		cancel()
	}
	provisioned(t, &Source{URL: "http://a.test", Plaintext: true})
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"http https://a/ {\nheader A b\nheader C {env.D}\nplaintext\nmax_connections 3\ntimeout 2s\n}": `{"url":"https://a/","headers":{"A":"b","C":"{env.D}"},"plaintext":true,"max_connections":3,"timeout":2000000000}`,
		"http":                                "wrong argument count or unexpected line ending after 'http', at Testfile:1",
		"http a {\nheader A\n}":               "wrong argument count or unexpected line ending after 'A', at Testfile:2",
		"http a {\nheader A b\nheader A c\n}": "header 'A' is given twice, at Testfile:3",
		"http a {\nmethod GET\n}":             "unrecognized option 'method', at Testfile:2",
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
