package sqlstore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestSlotsAreReused, so that the file is as long as there were attempts at once.
func TestSlotsAreReused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	for range 100 {
		a, b := s.Begin("a"), s.Begin("b")
		a.End()
		b.Settled([]int{0, slotBits - 1, slotBits, 1 << 20})
		b.End()
	}
	if st, err := os.Stat(filepath.Join(dir, "attempts")); err != nil || st.Size() != 2*128 || st.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", st, err)
	}
}

// TestSlotRead: what was torn says nothing.
func TestSlotRead(t *testing.T) {
	var whole slot
	copy(whole[:], "0123456789abcdefghijklmn-1000")
	whole[slotSum] = 1 << 3
	whole[127] = 1 << 7
	whole.seal()
	if id, done := whole.read(); id != "0123456789abcdefghijklmn-1000" || fmt.Sprint(done) != "[3 511]" {
		t.Errorf("got %q, %v", id, done)
	}
	for i := range whole {
		torn := whole
		torn[i] ^= 0x10
		if id, done := torn.read(); id != "" || done != nil {
			t.Errorf("octet %d: got %q, %v", i, id, done)
		}
	}
	if id, _ := new(slot).read(); id != "" {
		t.Errorf("nothing is %q", id)
	}
}

// TestDamagedAttempts: whatever is in the file, the store opens.
func TestDamagedAttempts(t *testing.T) {
	dir := stored(t)
	s := open(t, dir)
	s.Begin("a").Settled([]int{0})
	s.Close()
	path := filepath.Join(dir, "attempts")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		bad := append([]byte{}, text...)
		bad = append(bad, make([]byte, i)...)
		if bad[i%len(text)] ^= 0xff; os.WriteFile(path, bad, 0o600) != nil {
			t.Fatal("cannot write")
		}
		s := open(t, dir)
		if e, err := s.Get(t.Context(), "a"); err != nil || len(e.Recipients) != 2 || e.Recipients[0].Starts != 0 {
			t.Fatalf("octet %d: got %+v, %v", i, e, err)
		}
		s.Close()
	}
}
