package login

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ParseIdentity reads an identity that a program or a service answers in JSON:
//
//	{"user": "alice@example.org", "addresses": ["*@example.org"], "attributes": {"quota": 7}}
//
// The user must be there, so that nothing but such an answer is taken for one;
// other members are ignored.
func ParseIdentity(asked string, b []byte) (*Identity, error) {
	var a struct {
		User       string         `json:"user"`
		Addresses  []string       `json:"addresses"`
		Attributes map[string]any `json:"attributes"`
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&a); err != nil {
		return nil, errors.New("the answer is not an identity in JSON")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the identity in JSON")
	}
	if a.User == "" {
		return nil, errors.New("the answer has no user")
	}
	attributes := map[string]string{}
	for k, v := range a.Attributes {
		text, ok := Text(v)
		if !ok {
			return nil, fmt.Errorf("attribute '%s' is no text", k)
		}
		if v != nil {
			attributes[k] = text
		}
	}
	return NewIdentity(asked, a.User, a.Addresses, attributes)
}

// Text is a value of JSON as text, lists with commas between their elements.
// Objects have none.
func Text(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case bool, json.Number, float64:
		return fmt.Sprint(v), true
	case []any:
		texts := make([]string, len(v))
		for i, e := range v {
			if _, list := e.([]any); list {
				return "", false
			}
			t, ok := Text(e)
			if !ok {
				return "", false
			}
			texts[i] = t
		}
		return strings.Join(texts, ", "), true
	}
	return "", false
}
