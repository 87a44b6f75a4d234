package smtpapp

import (
	"testing"
	"time"

	"github.com/caddymail/caddy-smtp/smtpapp/admission"
	"github.com/caddymail/caddy-smtp/smtpapp/session"
)

func TestRoom(t *testing.T) {
	for _, tt := range []struct{ wanted, files, room int }{
		{2000, 0, 2000}, {0, 0, 0}, {2000, 1 << 20, 2000}, {0, 1024, 768}, {2000, 1024, 768}, {2000, 256, 192}, {100, 256, 100}, {2000, 40, 1},
	} {
		if got := roomFor(tt.wanted, tt.files); got != tt.room {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

// TestDefaults: what nobody sets is bounded as the reference says, a negative
// number lifts the bound, and others are kept.
func TestDefaults(t *testing.T) {
	if got, want := new(Limits).session(), (session.Limits{
		MessageSize: 36_700_160, Recipients: 1000, Messages: 100, Hops: 50, HeaderSize: 262_144, HeaderFields: 1000, FieldSize: 65_536,
		TextLine: 1_048_576, SoftErrors: 5, HardErrors: 10, NonMail: 100, FailedAuth: 3, Chunks: 10_000,
		LineLength: 2048, AuthLineLength: 12_288, ErrorDelay: time.Second,
	}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := new(Limits).admission(), (admission.Limits{PerAddress: 30, PerNetwork: 90, Rate: 300, Messages: 500}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	l := Limits{MessageSize: -1, Recipients: -1, HardErrors: 7, ConnectionsPerAddress: -1, MessageRate: 9, TextLine: -1}
	if got := l.session(); got.MessageSize != 0 || got.Recipients != 0 || got.HardErrors != 7 || got.TextLine != 0 {
		t.Errorf("%+v", got)
	}
	if got := l.admission(); got.PerAddress != 0 || got.Messages != 9 {
		t.Errorf("%+v", got)
	}
}
