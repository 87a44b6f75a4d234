package login

import (
	"context"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestIdentity(t *testing.T) {
	a := &Account{Addresses: []string{"x@y.test"}, Attributes: map[string]string{"k": "v"}}
	if id := a.Identity("alias", "phone"); !reflect.DeepEqual(id, &Identity{User: "alias", Secret: "phone", Addresses: a.Addresses, Attributes: a.Attributes}) {
		t.Errorf("%+v", id)
	}
	a.User = "alice"
	if id := a.Identity("alias", ""); id.User != "alice" {
		t.Errorf("%+v", id)
	}
}

func TestNewIdentity(t *testing.T) {
	id, err := NewIdentity("asked", "Alice@Example.org", []string{" a@b.test", "", "a@b.test", "*@c.test", strings.Repeat("x", 300)}, map[string]string{"k": "v"})
	if err != nil || !reflect.DeepEqual(id, &Identity{User: "alice@example.org", Addresses: []string{"a@b.test", "*@c.test"}, Attributes: map[string]string{"k": "v"}}) {
		t.Errorf("%+v %v", id, err)
	}
	if id, err := NewIdentity("asked", "", nil, nil); err != nil || id.User != "asked" {
		t.Error(id, err)
	}
	for _, c := range []struct {
		user string
		n    int
		v    string
	}{{"a b", 1, ""}, {"a", maxAddresses + 1, ""}, {"a", 1, strings.Repeat("x", maxValue+1)}, {"a", 1, "\xff"}} {
		if _, err := NewIdentity("asked", c.user, make([]string, c.n), map[string]string{"k": c.v}); err == nil {
			t.Error(c.user, c.n)
		}
	}
}

func TestClient(t *testing.T) {
	c := Client{Remote: netip.MustParseAddrPort("192.0.2.1:1"), Mechanism: "PLAIN"}
	if got := ClientOf(WithClient(context.Background(), c)); got != c {
		t.Error(got)
	}
	if got := ClientOf(context.Background()); got != (Client{}) {
		t.Error(got)
	}
}
