package discard

import (
	"context"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

func TestHandleRcpt(t *testing.T) {
	h := new(Handler)
	r, taken := &mail.Recipient{}, &mail.Recipient{Agent: "other"}
	for _, r := range []*mail.Recipient{r, taken} {
		if err := h.HandleRcpt(context.Background(), nil, r); err != nil {
			t.Fatal(err)
		}
	}
	if !r.Discarded || taken.Discarded || !h.ClaimsAll() || h.Agents() != nil {
		t.Error(r.Discarded, taken.Discarded)
	}
}

func TestCaddyfile(t *testing.T) {
	for in, want := range map[string]string{
		"discard": "", "discard x": "wrong argument count or unexpected line ending after 'x', at Testfile:1",
		"discard {\nx\n}": "unrecognized option 'x', at Testfile:2",
	} {
		err := new(Handler).UnmarshalCaddyfile(caddyfile.NewTestDispenser(in))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}
