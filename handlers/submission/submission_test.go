package submission

import (
	"encoding/json"
	"fmt"
	"net"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func transaction(t *testing.T, from string) *session.Transaction {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	s := session.New(server, &session.Config{Hostname: "mx.example", NewID: func() string { return "s1" }}, false)
	env := new(mail.Envelope)
	if from != "" {
		env.From = address(t, from)
	}
	return &session.Transaction{ID: "q1", Session: s, Envelope: env}
}

func address(t *testing.T, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAddresses(t *testing.T) {
	for a, want := range map[string]string{
		"a@example.org": "", "a@[192.0.2.1]": "", "a@xn--bcher-kva.example": "",
		"root@localhost": "the domain is not fully qualified", "a@intranet": "<a@intranet>",
	} {
		for _, local := range []bool{false, true} {
			h := &Handler{Local: local}
			r := mail.NewRecipient(address(t, a))
			for stage, err := range map[string]error{
				"550 5.1.8": h.HandleMail(t.Context(), transaction(t, a)), "550 5.1.2": h.HandleRcpt(t.Context(), transaction(t, "x@example.org"), r),
			} {
				switch {
				case want == "" || local:
					if err != nil {
						t.Errorf("%s, local %v: %v", a, local, err)
					}
				case err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), stage):
					t.Errorf("%s: %v, want %s", a, err, want)
				}
			}
		}
	}
	alias := mail.NewRecipient(address(t, "a@example.org"))
	alias.Rewrite(address(t, "a@intranet"))
	if err := new(Handler).HandleRcpt(t.Context(), transaction(t, "x@example.org"), alias); err != nil {
		t.Error("an alias:", err)
	}
	if err := new(Handler).HandleMail(t.Context(), transaction(t, "")); err != nil {
		t.Error("the null reverse-path:", err)
	}
}

func TestFields(t *testing.T) {
	for name, c := range map[string]struct {
		h               Handler
		from, in        string
		has, hasNot     string
		newDate, onlyID bool
	}{
		"complete":            {in: "From: a@example.org\r\nDate: Mon, 2 Jan 2006 15:04:05 +0000\r\nMessage-ID: <x@y>\r\n", has: "Message-ID: <x@y>", hasNot: "mx.example"},
		"nothing":             {from: "alice@example.org", in: "Subject: x\r\n", has: "From: <alice@example.org>\r\n", newDate: true, onlyID: true},
		"a null reverse-path": {in: "Subject: x\r\n", hasNot: "From:", newDate: true, onlyID: true},
		"another case":        {in: "from: a@example.org\r\nDATE: x\r\nmessage-id: <x@y>\r\n", hasNot: "mx.example"},
		"Bcc":                 {in: "Bcc: secret@example.org\r\nResent-Bcc: x@y\r\nReturn-Path: <z@y>\r\nTo: a@b\r\n", has: "To: a@b", hasNot: "secret", newDate: true, onlyID: true},
		"Bcc kept":            {h: Handler{KeepBcc: true}, in: "Bcc: secret@example.org\r\n", has: "Bcc: secret@example.org", newDate: true, onlyID: true},
	} {
		m, err := message.Parse([]byte(c.in + "\r\nbody\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.h.HandleMessage(t.Context(), transaction(t, c.from), m); err != nil {
			t.Fatal(err)
		}
		got := string(m.Header.Bytes())
		if !strings.Contains(got, c.has) || c.hasNot != "" && strings.Contains(got, c.hasNot) {
			t.Errorf("%s: %q", name, got)
		}
		if d, err := netmail.ParseDate(m.Header.Get("Date")); c.newDate && (err != nil || time.Since(d).Abs() > time.Minute) {
			t.Errorf("%s: Date: %q %v", name, m.Header.Get("Date"), err)
		}
		if id := m.Header.Get("Message-ID"); c.onlyID && id != "<q1@mx.example>" {
			t.Errorf("%s: Message-ID: %s", name, id)
		}
		for _, f := range []string{"From", "Date", "Message-ID"} {
			if n := m.Header.Count(f); n > 1 {
				t.Errorf("%s: %d times %s", name, n, f)
			}
		}
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"submission": `{}`, "submission {\nlocal\nkeep_bcc\n}": `{"local":true,"keep_bcc":true}`,
		"submission x": "wrong argument count or unexpected line ending after 'x', at Testfile:1", "submission {\nx\n}": "unrecognized option 'x', at Testfile:2",
	} {
		h := new(Handler)
		got := ""
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(in)); err != nil {
			got = err.Error()
		} else if b, err := json.Marshal(h); err != nil {
			t.Fatal(err)
		} else {
			got = fmt.Sprintf("%s", b)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
