package discard

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

func TestDeliver(t *testing.T) {
	var log bytes.Buffer
	env := &mail.Envelope{Recipients: []*mail.Recipient{
		mail.NewRecipient(mail.Address{Local: "a", Domain: "x.test"}),
		mail.NewRecipient(mail.Address{Local: "b", Domain: "x.test"}),
	}}
	got := new(Agent).Deliver(t.Context(), &queue.Delivery{Envelope: env, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if len(got) != 2 || got[0].Action != queue.Delivered || got[1].Reply.Code != 250 {
		t.Errorf("got %v", got)
	}
	if s := log.String(); strings.Count(s, "level=INFO") != 2 || !strings.Contains(s, "to=b@x.test") {
		t.Errorf("log: %s", s)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, ok := range map[string]bool{"discard": true, "discard x": false, "discard {\nx\n}": false} {
		if err := new(Agent).UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
}
