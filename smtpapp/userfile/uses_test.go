package userfile

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "users.used")
		gone := map[string]bool{}
		known := func(u Use) bool { return !gone[u.User] }
		u := NewUses(path, known, slog.New(slog.DiscardHandler))
		began := time.Now().UTC().Truncate(time.Second)
		u.Note(Use{"alice", ""})
		u.Note(Use{"alice", "phone"})
		time.Sleep(time.Minute)
		u.Note(Use{"bob", ""})
		gone["nobody"] = true
		u.Note(Use{"nobody", ""})
		if got, err := ReadUses(path); err != nil || got != nil {
			t.Error("written with each login", got, err)
		}
		time.Sleep(every)
		synctest.Wait()
		got, err := ReadUses(path)
		if err != nil || len(got) != 3 || !got[Use{"alice", "phone"}].Equal(began) || !got[Use{"bob", ""}].Equal(began.Add(time.Minute)) {
			t.Error(got, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(err)
		}

		// Another configuration adds to it, and who is gone goes.
		gone["bob"] = true
		v := NewUses(path, known, slog.New(slog.DiscardHandler))
		v.Note(Use{"carol", ""})
		v.Close()
		v.Note(Use{"dave", ""})
		v.Close()
		if got, err := ReadUses(path); err != nil || len(got) != 3 || got[Use{"carol", ""}].IsZero() {
			t.Error(got, err)
		}
		u.Close()
	})
}

func TestUsesCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "later")
		var log bytes.Buffer
		u := NewUses(filepath.Join(dir, "used"), func(Use) bool { return true }, slog.New(slog.NewTextHandler(&log, nil)))
		u.Note(Use{"alice", ""})
		time.Sleep(10 * every)
		synctest.Wait()
		if n := strings.Count(log.String(), "cannot write down"); n != 1 {
			t.Errorf("%d lines: %s", n, &log)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * every)
		synctest.Wait()
		if got, err := ReadUses(filepath.Join(dir, "used")); err != nil || len(got) != 1 {
			t.Error(got, err)
		}
		u.Close()
	})
}

func TestReadUses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "used")
	for text, want := range map[string]string{
		"a phone 2026-11-25T12:00:00Z": "map[{a phone}:2026-11-25 12:00:00 +0000 UTC] <nil>",
		"a 2026-11-25T12:00:00Z\n# x":  "map[{a }:2026-11-25 12:00:00 +0000 UTC] <nil>",
		"a":                            "line 1: not user, name and time",
		"a b today":                    "line 1: parsing time",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadUses(path)
		if s := fmt.Sprint(got, " ", err); !strings.Contains(s, want) {
			t.Errorf("%q: %s", text, s)
		}
	}
}
