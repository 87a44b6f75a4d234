package message

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// TestSum: both kinds tell what was stored from what was not.
func TestSum(t *testing.T) {
	if got := hex.EncodeToString([]byte(SumOf(nil))); got != "ef46db3751d8e999" { // XXH64, seed 0
		t.Errorf("got %s", got)
	}
	data := bytes.Repeat([]byte("0123456789\r\n"), 1000)
	old := sha256.Sum256(data)
	for _, s := range []Sum{SumOf(data), Sum(old[:])} {
		if !s.Of(data) {
			t.Errorf("%x is not its own", s)
		}
		for i := 0; i < len(data); i += 97 {
			data[i] ^= 1
			if s.Of(data) || s.Of(data[:len(data)-1]) {
				t.Fatalf("%x: octet %d has changed", s, i)
			}
			data[i] ^= 1
		}
	}
	if Sum("").Of(nil) || Sum("none").Of(nil) {
		t.Error("no sum is one")
	}
}
