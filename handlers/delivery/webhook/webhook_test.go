package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func provision(t testing.TB, a *Agent) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := a.Provision(ctx); err != nil {
		return err
	}
	return a.Validate()
}

// agent is one whose endpoint is h.
func agent(t testing.TB, h http.HandlerFunc, change ...func(*Agent)) *Agent {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	a := &Agent{URL: srv.URL + "/hook?k=v"}
	for _, c := range change {
		c(a)
	}
	if err := provision(t, a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Cleanup() })
	return a
}

const content = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nFrom: Bob <bob@far.test>\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhi\r\n--b\r\nContent-Type: image/png; name=a.png\r\n\r\nPNG\r\n--b--\r\n"

func delivery(t testing.TB, to ...string) *queue.Delivery {
	t.Helper()
	m, err := message.Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	env := &mail.Envelope{From: mail.Address{Local: "bob", Domain: "far.test"}, ClientIP: "192.0.2.1", Hello: "h.far.test", AuthUser: "u"}
	for _, s := range to {
		a, err := mail.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		env.Recipients = append(env.Recipients, mail.NewRecipient(a))
	}
	return &queue.Delivery{ID: "q1", Envelope: env, Content: m, Attempt: 2, Queued: time.Unix(1000, 0), Log: slog.New(slog.DiscardHandler)}
}

// say is "action reply" of a status.
func say(s queue.Status) string {
	out := s.Action.String() + " " + s.Reply.Error()
	if s.Unreachable {
		out += " unreachable"
	}
	if s.InDoubt {
		out += " in doubt"
	}
	return out
}

func one(t testing.TB, a *Agent) string {
	t.Helper()
	got := a.Deliver(t.Context(), delivery(t, "a@b.test"))
	if len(got) != 1 {
		t.Fatalf("%d statuses", len(got))
	}
	return say(got[0])
}

func TestJSON(t *testing.T) {
	var got document
	a := agent(t, func(_ http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		if r.Method != http.MethodPost || r.URL.String() != "/hook?k=v" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("X-Token") != "canary" || r.Header.Get("X-Envelope-From") != "" {
			t.Error(r.Method, r.URL, r.Header)
		}
	}, func(a *Agent) { a.Headers = map[string]string{"x-token": "canary"} })
	d := delivery(t, "al+x@b.test", "bo@b.test")
	d.Envelope.Recipients[1].Tag = "y"
	if got := a.Deliver(t.Context(), d); len(got) != 2 || say(got[0]) != "delivered 250 2.0.0 delivered" || say(got[1]) != say(got[0]) {
		t.Fatal(got)
	}
	want := document{
		ID: "q1", Attempt: 2, Queued: time.Unix(1000, 0).UTC(), Size: int64(len(content)),
		Envelope: envelope{From: "bob@far.test", To: []recipient{{"al+x@b.test", "al+x@b.test", "x"}, {"bo@b.test", "bo@b.test", "y"}}, Client: client{"192.0.2.1", "h.far.test", "u"}},
		Subject:  "Grüße", Header: []field{{"Subject", "Grüße"}, {"From", "Bob <bob@far.test>"}, {"Content-Type", "multipart/mixed; boundary=b"}},
		Text: "hi", Attachments: []attachment{{Filename: "a.png", ContentType: "image/png", Size: 3, Content: []byte("PNG")}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestRaw: the content is the message to the octet, and what is signed.
func TestRaw(t *testing.T) {
	key := strings.Repeat("k", 24)
	var ids []string
	a := agent(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if string(b) != content || r.ContentLength != int64(len(content)) || r.Header.Get("Content-Type") != "message/rfc822" {
			t.Errorf("%q %v", b, r.Header)
		}
		for name, want := range map[string]string{
			"X-Envelope-From": "<bob@far.test>", "X-Envelope-To": "<al@b.test>, <\"b o\"@b.test>", "X-Queue-Id": "q1", "X-Delivery-Attempt": "2",
			"X-Client-Address": "192.0.2.1", "X-Client-Helo": "h.far.test", "X-Client-User": "u", "Idempotency-Key": r.Header.Get("Webhook-Id"),
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		ids = append(ids, r.Header.Get("Webhook-Id"))
		var want []string
		for _, k := range []string{key, "another secret of mine"} {
			h := hmac.New(sha256.New, []byte(k))
			fmt.Fprintf(h, "%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), b)
			want = append(want, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
		}
		if got := r.Header.Get("Webhook-Signature"); got != strings.Join(want, " ") {
			t.Errorf("signature %q, want %q", got, want)
		}
	}, func(a *Agent) {
		a.Format, a.Secrets = formatRaw, []string{"whsec_" + base64.StdEncoding.EncodeToString([]byte(key)), "another secret of mine"}
	})
	for range 2 {
		if got := a.Deliver(t.Context(), delivery(t, "al@b.test", "\"b o\"@b.test")); say(got[1]) != "delivered 250 2.0.0 delivered" {
			t.Error(got)
		}
	}
	if len(ids) != 2 || ids[0] != ids[1] || !strings.HasPrefix(ids[0], "msg_") {
		t.Errorf("ids %q", ids)
	}
	rs := delivery(t, "x@b.test", "y@b.test").Envelope.Recipients
	if idempotencyKey("q1", rs) == idempotencyKey("q1", rs[:1]) || idempotencyKey("q1", rs) == idempotencyKey("q2", rs) || idempotencyKey("q1", rs) != idempotencyKey("q1", []*mail.Recipient{rs[1], rs[0]}) {
		t.Error("the key is not that of the message and its recipients")
	}
}

// TestStandardVector is that of the Standard Webhooks libraries.
func TestStandardVector(t *testing.T) {
	key, err := parseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{secrets: [][]byte{key}}
	p := &payload{open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(`{"test": 2432232314}`)), nil }}
	got, err := a.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", p)
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want || err != nil {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

func TestStatuses(t *testing.T) {
	code, typ, body := 0, "", ""
	a := agent(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typ)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}, func(a *Agent) {
		a.Status = map[string]string{"409": "later", "418": "delivered", "3xx": "failed", "302": "later", "206": "failed"}
	})
	for _, tc := range []struct {
		code      int
		typ, body string
		want      string
	}{
		{200, "", "", "delivered 250 2.0.0 delivered"}, {202, "", "x", "delivered 250 2.0.0 delivered"}, {204, "", "", "delivered 250 2.0.0 delivered"},
		{206, "", "", "failed 554 5.3.0 the endpoint answers 206"},
		{301, "", "", "failed 554 5.3.0 the endpoint answers 301"}, {302, "", "", "delayed 451 4.3.0 the endpoint answers 302"},
		{400, "", "", "failed 554 5.6.0 the endpoint answers 400"}, {401, "", "", "delayed 451 4.3.0 the endpoint answers 401"},
		{403, "", "", "failed 550 5.7.1 the endpoint answers 403"}, {404, "", "", "failed 550 5.1.1 the endpoint answers 404"},
		{407, "", "", "delayed 451 4.3.0 the endpoint answers 407"}, {408, "", "", "delayed 451 4.3.0 the endpoint answers 408"},
		{409, "", "", "delayed 451 4.3.0 the endpoint answers 409"}, {410, "", "", "failed 550 5.1.1 the endpoint answers 410"},
		{413, "", "", "failed 554 5.3.4 the endpoint answers 413"}, {418, "", "", "delivered 250 2.0.0 delivered"}, {422, "", "", "failed 554 5.6.0 the endpoint answers 422"},
		{425, "", "", "delayed 451 4.3.0 the endpoint answers 425"}, {429, "", "", "delayed 451 4.3.0 the endpoint answers 429"}, {451, "", "", "failed 554 5.3.0 the endpoint answers 451"},
		{500, "", "", "delayed 451 4.3.0 the endpoint answers 500"}, {503, "", "", "delayed 451 4.3.0 the endpoint answers 503"}, {599, "", "", "delayed 451 4.3.0 the endpoint answers 599"},
		{422, "application/json", `{"reply":"5.2.2 full\r\nX: y"}`, "failed 550 5.2.2 full  X: y"},
		{422, "application/json", `{"reply":"4.2.2 full"}`, "failed 554 5.6.0 the endpoint answers 422"},
		{422, "text/plain", `{"reply":"5.2.2 full"}`, "failed 554 5.6.0 the endpoint answers 422"},
		{422, "application/json", `{"reply":"oh"}`, "failed 554 5.6.0 the endpoint answers 422"},
		{503, "application/json; charset=utf-8", `{"reply":"4.2.1"}`, "delayed 451 4.2.1 said the endpoint"},
		{200, "application/json", `{"recipients":{"a@b.test":"5.1.1 nobody"}}`, "failed 550 5.1.1 nobody"},
		{200, "application/json", `{"recipients":{"a@b.test":"4.2.2 full"}}`, "delayed 451 4.2.2 full"},
		{200, "application/json", `{"recipients":{"b@b.test":"5.1.1 nobody"}}`, "delivered 250 2.0.0 delivered"},
		{200, "application/json", `{"recipients":[1,2]`, "delivered 250 2.0.0 delivered"},
		{500, "application/json", `{"recipients":{"a@b.test":"2.0.0 ok"}}`, "delayed 451 4.3.0 the endpoint answers 500"},
		{200, "application/json", `{"reply":"` + strings.Repeat("x", maxAnswer) + `"}`, "delivered 250 2.0.0 delivered"},
	} {
		code, typ, body = tc.code, tc.typ, tc.body
		if got := one(t, a); got != tc.want {
			t.Errorf("%d %.60s: %s, want %s", tc.code, tc.body, got, tc.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	a := &Agent{MaxRetryAfter: caddy.Duration(time.Hour)}
	for value, want := range map[string]time.Duration{
		"": 0, "60": time.Minute, "99999999": time.Hour, "-5": 0, "soon": 0, "1e9": 0, "99999999999999999999": 0,
		time.Now().Add(30 * time.Minute).UTC().Format(http.TimeFormat): 30 * time.Minute,
		time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat):     0,
		time.Now().AddDate(9, 0, 0).UTC().Format(http.TimeFormat):      time.Hour,
	} {
		got := a.notBefore(value)
		if want == 0 != got.IsZero() || want != 0 && (time.Until(got) > want+time.Second || time.Until(got) < want-time.Minute) {
			t.Errorf("%q: %v, want %v", value, time.Until(got), want)
		}
	}
}

// TestManyRecipients: requests are for some each, and each has its own answer.
func TestManyRecipients(t *testing.T) {
	var seen []int
	a := agent(t, func(w http.ResponseWriter, r *http.Request) {
		var doc document
		_ = json.NewDecoder(r.Body).Decode(&doc)
		seen = append(seen, len(doc.Envelope.To))
		if doc.Envelope.To[0].Address == "u2@b.test" {
			w.WriteHeader(503)
		}
	}, func(a *Agent) { a.MaxRecipients = 2 })
	got := a.Deliver(t.Context(), delivery(t, "u0@b.test", "u1@b.test", "u2@b.test", "u3@b.test", "u4@b.test"))
	if !reflect.DeepEqual(seen, []int{2, 2, 1}) || len(got) != 5 {
		t.Fatal(seen, got)
	}
	for i, s := range got {
		want := queue.Delivered
		if i == 2 || i == 3 {
			want = queue.Delayed
		}
		if s.Action != want {
			t.Errorf("recipient %d: %s", i, say(s))
		}
	}
}

// TestRedirects go nowhere, and if they may, not to others.
func TestRedirects(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the message went elsewhere") }))
	defer other.Close()
	for _, tc := range []struct {
		follow bool
		code   int
		to     string
		want   string
	}{
		{false, 307, "/there", "delayed 451 4.3.0 the endpoint answers 307"},
		{false, 302, other.URL, "delayed 451 4.3.0 the endpoint answers 302"},
		{true, 307, "/there", "delivered 250 2.0.0 delivered"},
		{true, 302, "/there", "delayed 451 4.3.0 the endpoint answers 302"},
		{true, 307, other.URL, "delayed 451 4.3.0 the endpoint answers 307"},
		{true, 308, "/hook", "delayed 451 4.3.0 the endpoint answers 308"},
	} {
		a := agent(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/there" {
				if b, _ := io.ReadAll(r.Body); string(b) != content {
					t.Errorf("%q", b)
				}
				return
			}
			w.Header().Set("Location", tc.to)
			w.WriteHeader(tc.code)
		}, func(a *Agent) { a.FollowRedirects, a.Format = tc.follow, formatRaw })
		if got := one(t, a); got != tc.want {
			t.Errorf("%d to %s, follow %v: %s, want %s", tc.code, tc.to, tc.follow, got, tc.want)
		}
	}
}

// TestHostileEndpoints take neither time nor room without end.
func TestHostileEndpoints(t *testing.T) {
	quick := func(a *Agent) { a.Timeout = caddy.Duration(2 * time.Second) }
	stop := make(chan struct{})
	defer close(stop)
	for name, tc := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"never answers": {func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			<-stop
		}, "delayed 451 4.4.1 no answer from the endpoint in doubt"},
		"endless body": {func(w http.ResponseWriter, _ *http.Request) {
			for _, err := w.Write(make([]byte, 1<<16)); err == nil; _, err = w.Write(make([]byte, 1<<16)) {
			}
		}, "delivered 250 2.0.0 delivered"},
		"slow body": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(200)
			for i := 0; ; i++ {
				fmt.Fprint(w, "x")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}, "delivered 250 2.0.0 delivered"},
		"cuts the line": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			c, _, _ := http.NewResponseController(w).Hijack()
			c.Close()
		}, "delayed 451 4.4.1 no answer from the endpoint in doubt"},
		"endless header": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadAll(r.Body)
			c, _, _ := http.NewResponseController(w).Hijack()
			defer c.Close()
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for err == nil {
				_, err = io.WriteString(c, "X: "+strings.Repeat("y", 1000)+"\r\n")
			}
		}, "delayed 451 4.4.1 no answer from the endpoint in doubt"},
	} {
		began := time.Now()
		if got := one(t, agent(t, tc.h, quick)); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
		if time.Since(began) > 30*time.Second {
			t.Errorf("%s: took %v", name, time.Since(began))
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	a := &Agent{URL: "http://" + ln.Addr().String() + "/secret"}
	if err := provision(t, a); err != nil {
		t.Fatal(err)
	}
	d := delivery(t, "a@b.test")
	var log strings.Builder
	d.Log = slog.New(slog.NewTextHandler(&log, nil))
	if got := a.Deliver(t.Context(), d); say(got[0]) != "delayed 451 4.4.1 no answer from the endpoint unreachable" || strings.Contains(log.String(), "secret") {
		t.Error(say(got[0]), log.String())
	}
}

// TestDamagedContent is neither taken for the whole, nor refused for good.
func TestDamagedContent(t *testing.T) {
	file := t.TempDir() + "/body"
	if err := os.WriteFile(file, []byte(strings.Repeat("x\r\n", 100000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{formatRaw, formatJSON} {
		for _, secrets := range [][]string{nil, {"0123456789abcdef"}} {
			a := agent(t, func(w http.ResponseWriter, r *http.Request) {
				if b, err := io.ReadAll(r.Body); err == nil {
					t.Errorf("the endpoint got %d octets as a whole", len(b))
				}
				w.WriteHeader(400)
			}, func(a *Agent) { a.Format, a.Secrets = format, secrets })
			d := delivery(t, "a@b.test")
			d.Content.Header.Remove("Content-Type")
			d.Content = message.New(d.Content.Header, message.OpenBody(file, 300000, "none"))
			if got := a.Deliver(t.Context(), d); say(got[0]) != "delayed 451 4.3.0 local error in processing" {
				t.Errorf("%s: %s", format, say(got[0]))
			}
		}
	}
}

// TestTransport: a module of Caddy's reverse proxy carries the requests.
func TestTransport(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	a := &Agent{URL: srv.URL, TransportRaw: json.RawMessage(`{"protocol":"http"}`)}
	if err := provision(t, a); err != nil {
		t.Fatal(err)
	}
	if got := one(t, a); got != "delayed 451 4.4.1 no answer from the endpoint unreachable" {
		t.Error("a certificate of nobody's:", got)
	}
	a = &Agent{URL: srv.URL, TransportRaw: json.RawMessage(`{"protocol":"http","tls":{"insecure_skip_verify":true}}`)}
	if err := provision(t, a); err != nil {
		t.Fatal(err)
	}
	if got := one(t, a); got != "delivered 250 2.0.0 delivered" {
		t.Error(got)
	}
	// Through a proxy.
	proxied := false
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { proxied = r.URL.Host == "far.test" }))
	defer proxy.Close()
	a = &Agent{URL: "http://far.test/", Plaintext: true, TransportRaw: json.RawMessage(`{"protocol":"http","network_proxy":{"from":"url","url":"` + proxy.URL + `"}}`)}
	if err := provision(t, a); err != nil {
		t.Fatal(err)
	}
	if got := one(t, a); got != "delivered 250 2.0.0 delivered" || !proxied {
		t.Error(got, proxied)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"webhook https://a.test/x": `{"url":"https://a.test/x"}`,
		"webhook https://a.test/x {\nformat raw\nsecret {env.A} b\nsecret c\nheader X y\nstatus 404 later\nmax_recipients 3\nmax_content 1MiB\nfollow_redirects\nplaintext\nca file /a.pem\ntimeout 9s\nmax_retry_after 2h\n}": `{"url":"https://a.test/x","format":"raw","secrets":["{env.A}","b","c"],"headers":{"X":"y"},"status":{"404":"later"},"max_recipients":3,"max_content":1048576,"follow_redirects":true,"plaintext":true,"ca":{"pem_files":["/a.pem"],"provider":"file"},"timeout":9000000000,"max_retry_after":7200000000000}`,
		"webhook https://a.test/x {\ntransport http {\ndial_timeout 3s\n}\n}": `{"url":"https://a.test/x","transport":{"dial_timeout":3000000000,"protocol":"http"}}`,
		"webhook":                                "wrong argument count",
		"webhook a b":                            "wrong argument count",
		"webhook a {\nheader X\n}":               "wrong argument count",
		"webhook a {\nheader X y\nheader X z\n}": "header 'X' is given twice, at Testfile:3",
		"webhook a {\nmethod GET\n}":             "unrecognized option 'method', at Testfile:2",
	} {
		a := new(Agent)
		if err := a.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %s", in, err, want)
			}
			continue
		}
		b, _ := json.Marshal(a)
		if string(b) != want {
			t.Errorf("%q: %s, want %s", in, b, want)
		}
		if err := caddy.StrictUnmarshalJSON(b, new(Agent)); err != nil {
			t.Error(err)
		}
	}
}

func TestConfigurationErrors(t *testing.T) {
	const url = "https://a.test/"
	for want, a := range map[string]*Agent{
		"not the URL": {}, "URL of an endpoint": {URL: "ftp://a.test/"}, "of an endpoint": {URL: "/path"}, "the URL of": {URL: "https://u:p@a.test/"},
		"in clear": {URL: "http://a.test/"}, "format 'xml'": {URL: url, Format: "xml"}, "is negative": {URL: url, Timeout: -1},
		"status '600'": {URL: url, Status: map[string]string{"600": "later"}}, "'soon' is none of": {URL: url, Status: map[string]string{"4xx": "soon"}},
		"shorter than 16": {URL: url, Secrets: []string{"short"}}, "not in base64": {URL: url, Secrets: []string{"whsec_*"}}, "secret 1: ": {URL: url, Secrets: []string{"{env.NO_SUCH_VARIABLE}"}},
		"header 'X'": {URL: url, Headers: map[string]string{"X": "{env.NO_SUCH_VARIABLE}"}}, "transport: ": {URL: url, TransportRaw: json.RawMessage(`{"protocol":"pigeon"}`)},
		"ca: ": {URL: url, CARaw: json.RawMessage(`{"provider":"file","pem_files":["/nonexistent"]}`)},
	} {
		if err := provision(t, a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", a, err, want)
		}
	}
}
