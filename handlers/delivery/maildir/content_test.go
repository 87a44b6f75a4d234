package maildir

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/queue"
)

// TestUnixLines: line ends, wherever the content is cut into writes.
func TestUnixLines(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "a\r\nb\r\n": "a\nb\n", "\r\n\r\n": "\n\n", "a\nb": "a\nb", "a\rb": "a\rb",
		"a\r": "a\r", "\r\r\n": "\r\n", "\r\r": "\r\r", "a\r\n.\r\nb": "a\n.\nb",
	} {
		for size := 1; size <= len(in)+1; size++ {
			var got bytes.Buffer
			u := &unixLines{w: bufio.NewWriter(&got)}
			for rest := in; rest != ""; {
				n := min(size, len(rest))
				if k, err := u.Write([]byte(rest[:n])); k != n || err != nil {
					t.Fatal(k, err)
				}
				rest = rest[n:]
			}
			if err := u.finish(); err != nil || got.String() != want {
				t.Errorf("%q in writes of %d: %q, %v", in, size, got.String(), err)
			}
		}
	}
}

func FuzzUnixLines(f *testing.F) {
	f.Add("a\r\nb\r", 2)
	f.Fuzz(func(t *testing.T, in string, cut int) {
		var got bytes.Buffer
		u := &unixLines{w: bufio.NewWriter(&got)}
		cut = max(0, min(cut, len(in)))
		_, _ = u.Write([]byte(in[:cut]))
		_, _ = u.Write([]byte(in[cut:]))
		if err := u.finish(); err != nil || got.String() != strings.ReplaceAll(in, "\r\n", "\n") {
			t.Errorf("%q cut at %d: %q, %v", in, cut, got.String(), err)
		}
	})
}

// TestFullDevice: a write that fails is not overlooked.
func TestFullDevice(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no /dev/full: %v", err)
	}
	defer f.Close()
	c := content{ctx: t.Context(), message: delivery(t, "q1").Content}
	if r := replyFor(c.writeTo(f)); r.Code != 452 || r.Enh != "4.3.1" {
		t.Error(r)
	}
}

func TestDirectoryMode(t *testing.T) {
	for mode, want := range map[fs.FileMode]fs.FileMode{0o600: 0o700, 0o640: 0o750, 0o660: 0o770, 0o644: 0o755, 0o620: 0o720} {
		if got := (&store{mode: mode}).dirMode(); got != want {
			t.Errorf("%o: %o, want %o", mode, got, want)
		}
	}
}

// TestStoreIsMade with all that is missing above it.
func TestStoreIsMade(t *testing.T) {
	a, dir := agent(t, "DIR/a/b/c/{smtp.rcpt.local}/{smtp.rcpt.tag}/x")
	check(t, a.Deliver(t.Context(), delivery(t, "q1", "a+t@b.test", "a@b.test")), queue.Delivered, queue.Failed)
	one(t, dir+"/a/b/c/a+t/t/x")
	if st, err := os.Stat(dir + "/a"); err != nil || st.Mode().Perm() != 0o700 {
		t.Error(st, err)
	}
}

// TestLostDirectory: a reader may have removed any of the three.
func TestLostDirectory(t *testing.T) {
	a, dir := agent(t, "DIR/box")
	for _, lost := range []string{"tmp", "cur", "new"} {
		must(t, os.RemoveAll(dir+"/box/"+lost))
		d := delivery(t, "q-"+lost, "a@b.test")
		d.Attempt = 2
		check(t, a.Deliver(t.Context(), d), queue.Delivered)
	}
}
