package login

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseIdentity(t *testing.T) {
	id, err := ParseIdentity("asked", []byte(`{"user":"Alice","addresses":["a@b.test"],"attributes":{"quota":12345678901234567890,"on":true,"list":["a",1],"none":null},"more":{}}`))
	want := &Identity{User: "alice", Addresses: []string{"a@b.test"}, Attributes: map[string]string{"quota": "12345678901234567890", "on": "true", "list": "a, 1"}}
	if err != nil || !reflect.DeepEqual(id, want) {
		t.Errorf("%+v %v", id, err)
	}
	for in, want := range map[string]string{
		"": "not an identity", "<html>": "not an identity", "[]": "not an identity", "{}": "no user", `{"success":false}`: "no user", `{"user":7}`: "not an identity",
		`{"user":"a"} {"user":"b"}`: "something follows", `{"user":"a b"}`: "not the name", `{"user":"a","attributes":{"x":{}}}`: "attribute 'x'", `{"user":"a","attributes":{"x":[[1]]}}`: "attribute 'x'",
		`{"user":"a","attributes":{"x":[{}]}}`: "attribute 'x'", "null": "no user",
	} {
		if id, err := ParseIdentity("asked", []byte(in)); id != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %s", in, id, err, want)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add([]byte(`{"user":"a","addresses":["x"],"attributes":{"a":[1,"b",null]}}`))
	f.Add([]byte(`{"user":"\u0000"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := ParseIdentity("asked", b)
		if err != nil {
			return
		}
		if n, err := Name(id.User); err != nil || n != id.User {
			t.Errorf("%q is no name", id.User)
		}
	})
}
