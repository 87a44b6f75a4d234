//go:build linux

package interop

import "testing"

const proxied = boxes + `
	server mx ADDR(mx) {
		tls internal
		xclient 127.0.0.1
		xforward 127.0.0.1
		@listed remote_ip 192.0.2.66
		reject @listed 554 5.7.1 "not from there"
		@inside remote_ip 198.51.100.0/24
		header @inside X-Inside yes` + local + `
	}`

// TestXCLIENT: swaks as the proxy.
func TestXCLIENT(t *testing.T) {
	t.Parallel()
	need(t, "swaks")
	h := newHost(t)
	h.serve(proxied, "mx")
	swaks := func(subject string, args ...string) result {
		return try(t, "", "swaks", append([]string{
			"--server", h.addr("mx"), "--ehlo", "client.test", "--from", "bob@elsewhere.test",
			"--to", login, "--header", "Subject: " + subject,
		}, args...)...)
	}
	if r := swaks("for another", "--xclient-addr", "198.51.100.7", "--xclient-name", "inside.test", "--xclient-login", "carol"); r.code != 0 {
		t.Fatalf("swaks ended with %d:\n%s", r.code, r.out)
	}
	contains(t, got(t, h.inbox("alice"), "for another").text, "X-Inside: yes", "from client.test (inside.test [198.51.100.7])", "with ESMTPA ")
	if r := swaks("IPv6", "--xclient-addr", "IPV6:2001:db8::1", "--xclient-before-starttls", "--tls"); r.code != 0 {
		t.Fatalf("swaks ended with %d:\n%s", r.code, r.out)
	}
	contains(t, got(t, h.inbox("alice"), "IPv6").text, "([IPv6:2001:db8::1]) by mx.example.test with ESMTPS")
	if r := swaks("refused", "--xclient-addr", "192.0.2.66"); r.code == 0 {
		t.Errorf("a client that is refused is taken through a proxy:\n%s", r.out)
	} else {
		contains(t, r.out, "554 5.7.1 not from there")
	}
}

// TestXFORWARD: a Postfix in front tells where its mail came from.
func TestXFORWARD(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.serve(proxied, "mx")
	from := newPostfix(t, h.addr("postfix"), "relayhost = [127.0.0.1]:"+h.port("mx"), "smtp_send_xforward_command = yes")
	from.start()
	send(t, from.addr, "carol@postfix.test", login, "forwarded")
	got(t, h.inbox("alice"), "forwarded")
	contains(t, h.proc.out.String(), `"forwarded":{`, `"helo":"client.test"`, `"addr":"127.0.0.1"`)
}
