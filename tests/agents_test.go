package tests

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// TestWebhook: messages go to a site of the same Caddy, and through it to an
// application that checks the signature. What it refuses its sender hears of.
func TestWebhook(t *testing.T) {
	const secret = "a secret of some length"
	var mu sync.Mutex
	tries := map[string]int{}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		h := hmac.New(sha256.New, []byte(secret))
		fmt.Fprintf(h, "%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), b)
		if r.Header.Get("Webhook-Signature") != "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)) {
			t.Error("the signature is wrong")
		}
		var doc struct {
			Text     string
			Envelope struct{ To []struct{ Address string } }
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		to := doc.Envelope.To[0].Address
		tries[to]++
		switch {
		case strings.HasPrefix(to, "busy@") && tries[to] == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasPrefix(to, "no@"):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnprocessableEntity)
			fmt.Fprint(w, `{"reply":"5.7.9 not in the mood"}`)
		}
	}))
	defer app.Close()
	h := newHost(t)
	if err := h.try(strings.Replace(local, "server mx", `
	agent app webhook http://ADDR(site)/in {
		secret "`+secret+`"
	}
	server mx`, 1)+`
	server apps ADDR(apps) {
		tls internal
		@app rcpt_domain app.test
		deliver @app app
	}`, "http://ADDR(site) {\n\thandle /in {\n\t\treverse_proxy "+strings.TrimPrefix(app.URL, "http://")+"\n\t}\n\trespond 404\n}"); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"yes@app.test", "no@app.test", "busy@app.test"} {
		k := greet(t, h.addr("apps"))
		k.send("alice@example.test", to, "to "+to)
		k.say("221", "QUIT")
	}
	wait(t, "the requests", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return tries["yes@app.test"] == 1 && tries["no@app.test"] == 1 && tries["busy@app.test"] >= 1
	})
	wait(t, "the DSN", func() bool {
		in := mails(t, h.dir+"/mail/example.test/alice")
		return len(in) == 1 && strings.Contains(in[0], "Status: 5.7.9") && strings.Contains(in[0], "not in the mood")
	})
}

// TestForward: what an alias sends elsewhere leaves under an address of ours, and
// what comes back to it finds the sender. Nobody else gets anything through.
func TestForward(t *testing.T) {
	h := newHost(t)
	h.load(`
	agent out forward {
		ours example.test
		via relay ADDR(far) {
			tls off
		}
	}
	agent boxes maildir DIR/far/{smtp.rcpt.domain}/{smtp.rcpt.local} {
		create
	}
	server far ADDR(far) {
		tls internal
		@far rcpt_domain far.test else.test
		deliver @far boxes
	}
	server mx ADDR(mx) {
		tls internal
		srs
		aliases inline {
			carol@example.test carol@else.test
		}
		relay {
			agent out
		}
	}`)
	k := greet(t, h.addr("mx"))
	returnPath := func(box, subject string) (path string) {
		wait(t, subject, func() bool {
			for _, m := range mails(t, h.dir+"/far/"+box) {
				if strings.Contains(m, "Subject: "+subject) {
					path, _, _ = strings.Cut(m, "\n")
				}
			}
			return path != ""
		})
		return strings.TrimPrefix(path, "Return-Path: ")
	}
	k.send("bob@far.test", "carol@example.test", "one")
	from := returnPath("else.test/carol", "one")
	if !strings.HasPrefix(from, "<SRS0=") || !strings.HasSuffix(from, "=far.test=bob@mx.example.test>") {
		t.Fatalf("sent on from %s", from)
	}
	k.send("alice@example.test", "carol@example.test", "two")
	if got := returnPath("else.test/carol", "two"); got != "<alice@example.test>" {
		t.Errorf("our own sender became %s", got)
	}
	k.send("", "carol@example.test", "three")
	if got := returnPath("else.test/carol", "three"); got != "<>" {
		t.Errorf("the null reverse-path became %s", got)
	}
	// A DSN comes back, and leaves with the null reverse-path.
	k.send("", strings.Trim(from, "<>"), "four")
	if got := returnPath("far.test/bob", "four"); got != "<>" {
		t.Errorf("the DSN is from %s", got)
	}
	k.say("250", "MAIL FROM:<spammer@else.test>")
	k.say("550 5.7.1", "RCPT TO:%s", from)
	k.say("250", "RSET")
	k.say("250", "MAIL FROM:<>")
	k.say("550 5.1.1", "RCPT TO:%s", strings.Replace(from, "=bob@", "=eve@", 1))
	k.say("550 5.1.1", "RCPT TO:<SRS0=AAAAAA=AA=far.test=bob@mx.example.test>")
	k.say("550", "RCPT TO:<bob@far.test>")
	k.say("221", "QUIT")
}
