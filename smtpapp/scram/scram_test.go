package scram

import (
	"errors"
	"strings"
	"testing"

	xdg "github.com/xdg-go/scram"

	"github.com/caddymail/caddy-smtp/smtpapp/login"
)

func keys(t testing.TB, text string) login.Keys {
	t.Helper()
	k, err := login.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Keys of "pencil".
const (
	keys1   = "SCRAM-SHA-1$4096:QSXCR+Q6sek8bf92$6dlGYMOdZcOPutkcNY8U2g7vK9Y=:D+CSWLOshSulAsxiupA+qs2/fTE="
	keys256 = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)

// TestVectors has the exchanges of RFC 5802, section 5, and RFC 7677, section 3.
func TestVectors(t *testing.T) {
	for _, v := range []struct{ keys, nonce, c1, s1, c2, s2 string }{
		{
			keys1, "3rfcNHYJY1ZVvWVs7j", "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
			"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
			"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
		},
		{
			keys256, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
			"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
			"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
			"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
		},
	} {
		s := &Server{Nonce: v.nonce}
		user, as, err := s.First([]byte(v.c1))
		if user != "user" || as != "" || err != nil {
			t.Fatal(user, as, err)
		}
		if got := string(s.Challenge(keys(t, v.keys))); got != v.s1 {
			t.Errorf("%s, want %s", got, v.s1)
		}
		if got, _, err := s.Final([]byte(v.c2)); string(got) != v.s2 || err != nil {
			t.Errorf("%s %v, want %s", got, err, v.s2)
		}
	}
}

func channel(kind string) []byte {
	if kind == EndPoint || kind == Exporter {
		return []byte("data of " + kind)
	}
	return nil
}

// TestClient plays with another implementation of the client.
func TestClient(t *testing.T) {
	phone, err := login.DeriveKeys(login.SHA256, "phone", keys(t, keys256).Salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, password, as string
		plus, offered      bool
		bind               string // type
		data               string // what the client sees of the channel, if not what we do
		advertised         bool   // the client saw -PLUS offered
		want               string
	}{
		{name: "plain", password: "pencil", want: "ok 0"},
		{name: "second keys", password: "phone", want: "ok 1"},
		{name: "wrong", password: "Pencil", want: "invalid-proof"},
		{name: "offered, unbound", password: "pencil", offered: true, want: "ok 0"},
		{name: "authorize", password: "pencil", as: "a=b,c", want: "ok 0"},
		{name: "exporter", password: "pencil", plus: true, offered: true, bind: Exporter, want: "ok 0"},
		{name: "end point", password: "pencil", plus: true, offered: true, bind: EndPoint, want: "ok 0"},
		{name: "other channel", password: "pencil", plus: true, offered: true, bind: Exporter, data: "another", want: "channel-bindings-dont-match"},
		{name: "other type", password: "pencil", plus: true, offered: true, bind: "tls-unique", data: "x", want: "unsupported-channel-binding-type"},
		{name: "unbound plus", password: "pencil", plus: true, offered: true, want: "server-does-support-channel-binding"},
		{name: "bound, not plus", password: "pencil", offered: true, bind: Exporter, want: "channel-binding-not-supported"},
	} {
		user := "al=i,ce"
		client, err := xdg.SHA256.NewClient(user, c.password, c.as)
		if err != nil {
			t.Fatal(err)
		}
		conv := client.NewConversation()
		if c.bind != "" {
			data := channel(c.bind)
			if c.data != "" {
				data = []byte(c.data)
			}
			conv = client.NewConversationWithChannelBinding(xdg.ChannelBinding{Type: xdg.ChannelBindingType(c.bind), Data: data})
		}
		got := exchange(t, conv, &Server{Plus: c.plus, Offered: c.offered, Binding: channel}, user, c.as, keys(t, keys256), phone)
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func exchange(t *testing.T, conv *xdg.ClientConversation, s *Server, user, as string, ks ...login.Keys) string {
	t.Helper()
	c1, err := conv.Step("")
	if err != nil {
		t.Fatal(err)
	}
	gotUser, gotAs, err := s.First([]byte(c1))
	if err != nil {
		return err.Error()
	}
	if gotUser != user || gotAs != as {
		t.Errorf("user %q as %q", gotUser, gotAs)
	}
	c2, err := conv.Step(string(s.Challenge(ks...)))
	if err != nil {
		t.Fatal(err)
	}
	s2, which, err := s.Final([]byte(c2))
	if err != nil {
		return err.Error()
	}
	if _, err := conv.Step(string(s2)); err != nil || !conv.Valid() {
		t.Errorf("client: %v, valid %v", err, conv.Valid())
	}
	return "ok " + string(rune('0'+which))
}

func TestFirst(t *testing.T) {
	for in, want := range map[string]error{
		"n,,n=user,r=x": nil, "y,,n=user,r=x": nil, "n,a=b,n=user,r=x,ext=1": nil, "n,,n=üser,r=x": nil,
		"": ErrMalformed, "n": ErrMalformed, "n,": ErrMalformed, "n,,": ErrMalformed, "x,,n=user,r=x": ErrMalformed, "n,b,n=user,r=x": ErrMalformed,
		"n,a=,n=user,r=x": nil, "n,,n=,r=x": ErrMalformed, "n,,n=user": ErrMalformed, "n,,n=user,r=": ErrMalformed, "n,,n=user,r=a b": ErrMalformed,
		"n,,n=us=er,r=x": ErrMalformed, "n,,n=us=2cer,r=x": ErrMalformed, "n,,n=user=3,r=x": ErrMalformed, "n,,n=us\x00er,r=x": ErrMalformed, "n,,n=\xff,r=x": ErrMalformed,
		"n,,m=1,n=user,r=x": ErrExtensions, "p=,,n=user,r=x": ErrNoBinding, "p=tls-exporter,,n=user,r=x": ErrNoBinding,
	} {
		if _, _, err := new(Server).First([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
	if _, _, err := (&Server{Offered: true}).First([]byte("y,,n=user,r=x")); !errors.Is(err, ErrDowngrade) {
		t.Error("downgrade:", err)
	}
}

func TestFinal(t *testing.T) {
	proof := ",p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
	for in, want := range map[string]error{
		"": ErrMalformed, "c=biws": ErrMalformed, "c=biws,r=ab": ErrMalformed, "c=biws" + proof: ErrMalformed, "c=biws,r=ab,p=": ErrMalformed,
		"c=biws,r=ab,p=AAAA": ErrMalformed, "c=biws,r=ab,p=!": ErrMalformed, "r=ab,c=biws" + proof: ErrMalformed, "c=!,r=ab" + proof: ErrMalformed,
		"c=eSws,r=ab" + proof: ErrMismatch, "c=,r=ab" + proof: ErrMismatch, "c=biws,r=a" + proof: ErrOther, "c=biws,r=abc" + proof: ErrOther,
		"c=biws,r=ab" + proof: ErrProof, "c=biws,r=ab,x=1" + proof: ErrProof,
	} {
		s := &Server{Nonce: "b"}
		if _, _, err := s.First([]byte("n,,n=user,r=a")); err != nil {
			t.Fatal(err)
		}
		s.Challenge(keys(t, keys1))
		if final, _, err := s.Final([]byte(in)); !errors.Is(err, want) || final != nil {
			t.Errorf("%q: %s %v, want %v", in, final, err, want)
		}
	}
}

func FuzzServer(f *testing.F) {
	f.Add("n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=")
	f.Add("p=tls-exporter,a=b,n=a=2Cb=3D,r=x", "c=,r=,p=")
	f.Fuzz(func(t *testing.T, first, final string) {
		s := &Server{Plus: strings.HasPrefix(first, "p="), Offered: true, Binding: channel, Nonce: "3rfcNHYJY1ZVvWVs7j"}
		if _, _, err := s.First([]byte(first)); err != nil {
			return
		}
		s.Challenge(keys(t, keys1))
		// Only the vector's own exchange has the right proof.
		if v, _, err := s.Final([]byte(final)); err == nil && string(v) != "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=" {
			t.Errorf("%q %q: %s", first, final, v)
		}
	})
}
