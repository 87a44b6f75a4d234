package client

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/mail"
)

// said is a connection to a peer that says what was written down before, and
// hears nothing.
type said struct{ r io.Reader }

func (s *said) Read(p []byte) (int, error)       { return s.r.Read(p) }
func (s *said) Write(p []byte) (int, error)      { return len(p), nil }
func (s *said) Close() error                     { return nil }
func (s *said) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)} }
func (s *said) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)} }
func (s *said) SetDeadline(time.Time) error      { return nil }
func (s *said) SetReadDeadline(time.Time) error  { return nil }
func (s *said) SetWriteDeadline(time.Time) error { return nil }

type text string

func (c text) Size() int64 { return int64(len(c)) }
func (c text) NewReader() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(c))), nil
}

// FuzzPeer lets a peer say anything, whatever it is asked: the client comes to an
// end, with a result for each recipient, and takes nothing for delivered that the
// peer did not say 2xx to as often as it takes.
func FuzzPeer(f *testing.F) {
	f.Add("220 a\r\n250-a\r\n250 PIPELINING\r\n250 a\r\n250 a\r\n250 a\r\n354 a\r\n250 2.0.0 a\r\n221 a\r\n", false)
	f.Add("220 a\r\n250-a\r\n250-CHUNKING\r\n250-DSN\r\n250 SIZE 5\r\n250 a\r\n550 5.1.1 a\r\n250 a\r\n250 a\r\n", false)
	f.Add("220-a\r\n220 a\r\n500 a\r\n250 a\r\n451 a\r\n", false)
	f.Add("220 a\r\n250 LIMITS RCPTMAX=1 MAILMAX=x\r\n250 a\r\n250 a\r\n452 4.5.3 a\r\n354 a\r\n554 a\r\n", false)
	f.Add("220 a\r\n250 a\r\n250 a\r\n250 a\r\n250 a\r\n354 a\r\n250 a\r\n552 a\r\n", true)
	f.Fuzz(func(t *testing.T, says string, lmtp bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := Dial(ctx, "tcp", "peer.test:25", Options{
			Hello: "client.test", LMTP: lmtp,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return &said{strings.NewReader(says)}, nil
			},
		})
		if err != nil {
			return
		}
		defer c.Close()
		tx := &Transaction{Envelope: &mail.Envelope{From: mail.Address{Local: "s", Domain: "c.test"}}, Content: text("Subject: x\r\n\r\n.\r\n")}
		for _, local := range []string{"a", "b"} {
			tx.Recipients = append(tx.Recipients, mail.NewRecipient(mail.Address{Local: local, Domain: "peer.test"}))
		}
		results, err := c.Send(ctx, tx)
		if os.IsTimeout(err) || ctx.Err() != nil {
			t.Fatalf("it waits: %v", err)
		}
		if err == nil && len(results) != len(tx.Recipients) {
			t.Fatalf("%d results", len(results))
		}
		for _, r := range results {
			if r.Accepted() && strings.Count(says, "2")+strings.Count(says, "3") < 5 {
				t.Fatalf("taken by who said %q", says)
			}
			if r.Reply != nil && strings.ContainsAny(r.Reply.Text, "\r\x00\x1b") {
				t.Fatalf("a reply with a control character: %q", r.Reply.Text)
			}
		}
	})
}

func FuzzExtensions(f *testing.F) {
	f.Add("a\nSIZE 100\nAUTH=LOGIN\nAUTH PLAIN\nLIMITS RCPTMAX=5")
	f.Fuzz(func(t *testing.T, s string) {
		for k := range parseExtensions(s) {
			if !isKeyword(k) || strings.ToUpper(k) != k {
				t.Fatalf("%q announces %q", s, k)
			}
		}
	})
}
