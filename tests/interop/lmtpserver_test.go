//go:build linux

package interop

import "testing"

// TestPostfixLMTP: a Postfix in front hands its mail to us by LMTP, over TCP and
// a unix socket, and hears for each recipient what came of it.
func TestPostfixLMTP(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.serve(boxes+`
	server store ADDR(store) unix/DIR/store.sock|0666 {
		lmtp
		tls internal
		@bad rcpt bad@example.test
		reject @bad 550 5.1.1 "no such mailbox"
		@picky rcpt picky@example.test
		handle @picky {
			@odd header Subject *odd*
			reject @odd 554 5.7.1 "not that"
		}
		deliver boxes
	}`, "store")
	for name, transport := range map[string]string{"tcp": "lmtp:inet:127.0.0.1:" + h.port("store"), "unix": "lmtp:unix:" + h.dir + "/store.sock"} {
		t.Run(name, func(t *testing.T) {
			from := newPostfix(t, h.addr("postfix-"+name),
				"virtual_mailbox_domains = example.test postfix.test",
				"virtual_transport = "+transport,
				"transport_maps = inline:{ carol@postfix.test=virtual: }",
				"virtual_mailbox_base = DIR/mail",
				"virtual_mailbox_maps = static:carol/",
				"virtual_uid_maps = static:65534",
				"virtual_gid_maps = static:65534")
			from.start()
			to := []string{"a-" + name + "@example.test", "bad@example.test", "picky@example.test", "b-" + name + "@example.test"}
			if err := trySend(from.addr, "carol@postfix.test", to, "odd "+name); err != nil {
				t.Fatal(err)
			}
			for _, user := range []string{"a-", "b-"} {
				contains(t, got(t, h.inbox(user+name), "odd "+name).text, " with LMTP")
			}
			dsn := arrive(t, from.box("carol"), 1)[0]
			contains(t, dsn, "bad@example.test", "no such mailbox", "picky@example.test", "not that")
			send(t, from.addr, "carol@postfix.test", "picky@example.test", "fine "+name)
			got(t, h.inbox("picky"), "fine "+name)
		})
	}
}
