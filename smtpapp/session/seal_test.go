package session

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// seals is a handler that writes down which X fields it saw.
type seals struct {
	name string
	seal Seal
	err  error
}

func (s seals) Seals() Seal { return s.seal }
func (s seals) HandleMessage(_ context.Context, _ *Transaction, m *message.Message) error {
	var seen []string
	for f := range m.Header.Fields() {
		if n, ok := strings.CutPrefix(f.Name(), "X-"); ok {
			seen = append(seen, n+f.Value())
		}
	}
	slices.Sort(seen)
	m.Header.Prepend("X-"+s.name, "("+strings.Join(seen, " ")+")")
	return s.err
}

func mark(name string) Handler {
	return h("mark", note(func(m *message.Message) { m.Header.Prepend("X-"+name, "") }))
}

// TestSealersRunLast: whatever the order of the configuration, signatures cover
// what other handlers wrote, and the ARC seal covers the signatures.
func TestSealersRunLast(t *testing.T) {
	arc, sign, plain := h("arc_seal", seals{"arc", ARCSeal, nil}), h("sign", seals{"sign", Signature, nil}), h("own", seals{"own", Unsealed, nil})
	for name, routes := range map[string][]Route{
		"as configured": {line(nil, plain), line(nil, mark("a")), line(nil, mark("b")), line(nil, sign), line(nil, arc)},
		"the other way": {line(nil, arc), line(nil, sign), line(nil, plain), line(nil, mark("a")), line(nil, mark("b"))},
		"in a block":    {handle(nil, arc, sign, plain, mark("a")), line(nil, mark("b"))},
		"in a route":    {handle(larger(1), arc, sign), line(nil, plain), line(larger(2), mark("a"), mark("b"))},
	} {
		s, q := newTest(t, false, append(routes, line(nil, h("deliver", claims{"a", true})))...)
		if got := send(t, s, hello, "x@a.test"); !slices.Equal(got, []string{"250", "250", "250"}) {
			t.Fatalf("%s: got %v", name, got)
		}
		hd := q.objects[0].Content.Header
		if got := hd.Get("X-own"); got != "()" {
			t.Errorf("%s: an unsealing handler has moved: %s", name, got)
		}
		if got := hd.Get("X-sign"); got != "(a b own())" {
			t.Errorf("%s: signed %s", name, got)
		}
		if got := hd.Get("X-arc"); got != "(a b own() sign(a b own()))" {
			t.Errorf("%s: sealed %s", name, got)
		}
	}
}

// TestSealersAndForks: each group of recipients is sealed as it is for them.
func TestSealersAndForks(t *testing.T) {
	s, q := newTest(t, true,
		line(nil, h("sign", seals{"sign", Signature, nil})),
		line(domain("a.test"), mark("a")),
		line(domain("b.test"), mark("b")),
		line(domain("c.test"), h("arc_seal", seals{"arc", ARCSeal, nil})),
		line(nil, h("deliver", claims{"d", true})))
	send(t, s, hello, "x@a.test", "x@b.test", "x@c.test", "y@a.test")
	got := map[string]string{}
	for _, o := range q.objects {
		hd := o.Content.Header
		got[o.Envelope.Recipients[0].Address.Domain] = strings.Join(hd.Values("X-sign"), "+") + strings.Join(hd.Values("X-arc"), "+")
	}
	for d, want := range map[string]string{"a.test": "(a)", "b.test": "(b)", "c.test": "()(sign())"} {
		if got[d] != want {
			t.Errorf("%s: got %q, want %q", d, got[d], want)
		}
	}
	if len(q.objects) != 3 {
		t.Errorf("%d objects", len(q.objects))
	}
}

// TestSealerRefuses: what cannot be sealed is not accepted.
func TestSealerRefuses(t *testing.T) {
	ran := 0
	s, q := newTest(t, true,
		line(nil, h("sign", seals{"sign", Signature, mail.Refuse(451, "4.3.0", "no key yet")})),
		line(nil, h("last", note(func(*message.Message) { ran++ }))),
		line(nil, h("deliver", claims{"d", true})))
	if got := send(t, s, hello, "x@a.test"); got[2] != "451" || len(q.objects) != 0 || ran != 1 {
		t.Errorf("got %v, %d accepted, %d ran", got, len(q.objects), ran)
	}
}
