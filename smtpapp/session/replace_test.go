package session

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
	"github.com/caddymail/caddy-smtp/smtpapp/message"
)

// folder is a spool.
type folder string

func (f folder) Create() (*os.File, error) { return os.CreateTemp(string(f), "body") }

// TestReplace: a group's content can be another, which is spooled and not left
// behind, whether or not the message is accepted.
func TestReplace(t *testing.T) {
	big := strings.Repeat("0123456789\r\n", 10_000)
	for name, picky := range map[string]func(*Transaction, *message.Message) error{
		"accepted": func(*Transaction, *message.Message) error { return nil },
		"refused":  func(*Transaction, *message.Message) error { return mail.Refuse(550, "5.7.1", "no") },
	} {
		dir := folder(t.TempDir())
		spooled := 0
		replaces := onMessage(func(tx *Transaction, m *message.Message) error {
			err := tx.Replace(m, strings.NewReader("Subject: new\r\n\r\n"+big))
			if m.Body().File() != nil {
				spooled++
			}
			return err
		})
		s, q := newTest(t, true, line(nil, h("deliver", claims{"a", true})), line(domain("a.test"), h("replaces", replaces)), line(nil, h("picky", onMessage(picky))))
		s.cfg.Spool = dir
		send(t, s, hello, "x@a.test", "y@b.test")
		var sizes []int64
		for _, o := range q.objects {
			sizes = append(sizes, o.Content.Body().Size())
		}
		slices.Sort(sizes)
		if name == "accepted" && (len(sizes) != 2 || sizes[0] > 100 || sizes[1] != int64(len(big))) {
			t.Errorf("%s: %v", name, sizes)
		}
		if left, _ := os.ReadDir(string(dir)); len(left) > 0 || spooled != 1 {
			t.Errorf("%s: %d files left, %d spooled", name, len(left), spooled)
		}
	}
}
